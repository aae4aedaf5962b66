"""Remotes as a person has them: named, filled, read, and shown beside the mesh."""
