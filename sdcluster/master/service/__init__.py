"""The master of a service: from its start to its stop, and what can be asked of it."""
