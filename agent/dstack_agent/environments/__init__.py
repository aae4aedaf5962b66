"""What jobs need installed: read, built once, kept, and laid under the job's own environment."""
