"""Float training."""
