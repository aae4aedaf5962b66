"""Many TCP connections over one stream of frames, each with credit of its own.

`flow` counts, `ferry` moves the bytes; either side of a stream has one ferry. What goes one way
alone, as the streams of a command, has a `way`.
"""
