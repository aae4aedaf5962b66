"""What `dstack doctor` looks at: one module for this machine, one for the way to others."""
