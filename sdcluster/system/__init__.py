"""What the operating system gives a process: descriptors, folders, a loop."""
