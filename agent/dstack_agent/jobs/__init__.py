"""The life of an attempt on this machine: what happens next, and the shell that does it."""
