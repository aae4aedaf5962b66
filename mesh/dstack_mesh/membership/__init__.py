"""Who is there: whom to greet (`view`), who answers on (`swim`), and the shells around both."""
