"""Messages of workers and of the agent."""
