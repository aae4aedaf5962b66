"""Who belongs to a mesh: its authority, a home's membership, and invitations."""
