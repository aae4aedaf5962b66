"""Who belongs to a mesh and as what: signed statements, and what they come to together."""
