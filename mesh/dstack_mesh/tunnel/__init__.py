"""Many TCP connections over one stream of frames, each with credit of its own.

`flow` counts, `ferry` moves the bytes; either side of a stream has one ferry.
"""
