"""Turns a checked workflow into jobs: one provider, one file; `registry` lists them."""
