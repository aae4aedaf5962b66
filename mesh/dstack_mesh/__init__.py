"""Ground floor: who a peer is, how to find it, how to talk to it, bytes by chunk."""
