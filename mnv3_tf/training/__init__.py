"""Float training, and the run folder that it leaves."""
