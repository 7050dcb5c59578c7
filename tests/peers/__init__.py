"""The published packages themselves, run beside this kit: environments, workers that run in them, and the comparison."""
