"""The scheduler on the wire: domain types to messages and back, and the client of an agent."""
