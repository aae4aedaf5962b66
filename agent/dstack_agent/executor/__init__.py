"""Ways to run a job, and the shim that owns a job's output."""
