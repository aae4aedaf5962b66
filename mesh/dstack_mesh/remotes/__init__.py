"""Remotes: places outside the mesh where runs and their bytes are kept for everybody."""
