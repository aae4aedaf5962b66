"""How peers talk: the only place, beside servicers, that knows gRPC and generated code.

gRPC reads its settings from the environment when it is first used, so they are made here, before
any module of this package imports it.
"""

import os

# What goes wrong reaches people as a MeshError; the library's own lines would stand beside it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Children are started by fork and exec at once and never touch gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
