"""Bytes by name: chunks, the store that keeps them, manifests that list files, trees on disk."""
