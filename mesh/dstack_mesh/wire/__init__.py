"""How peers talk: the only place, beside servicers, that knows gRPC and generated code."""
