"""What a job leaves: watched while it runs, saved at its end."""
