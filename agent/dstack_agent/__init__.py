"""The daemon: serves peers, runs jobs, keeps bytes."""
