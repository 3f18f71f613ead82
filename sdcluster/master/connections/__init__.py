"""The listeners, the connections that come from them, and their way to the workers."""
