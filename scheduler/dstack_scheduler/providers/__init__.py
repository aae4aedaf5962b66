"""Providers: each turns a checked workflow into jobs. One provider, one file; `registry` lists them."""
