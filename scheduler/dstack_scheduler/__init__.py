"""Decides: workflow to jobs, jobs to auction, bids to placement; and the driver that carries a run out."""
