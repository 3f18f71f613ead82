"""What a process of the app's stands on: the app, the engine, its logs and limits."""
