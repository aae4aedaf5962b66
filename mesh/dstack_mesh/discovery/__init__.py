"""Where peers may be found. Everything here is a hint: TLS proves who answers."""
