"""Messages that the agent keeps for itself."""
