"""What jobs wrote: the journal of a job's output, and being told that it grew."""
