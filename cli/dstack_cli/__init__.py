"""The person's side: what somebody wants, and what they see."""
