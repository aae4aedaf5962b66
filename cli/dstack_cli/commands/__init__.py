"""One module per verb, imported only when it runs."""
