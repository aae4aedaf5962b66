"""What the agent serves to others: from the wire, ask, to the wire."""
