"""Files of weights, by container."""
