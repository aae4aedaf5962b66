"""Decides: workflow to jobs, jobs to auction, bids to placement; one driver carries a run out."""
