"""What a person or a script sees: data on standard output, talk on standard error."""
