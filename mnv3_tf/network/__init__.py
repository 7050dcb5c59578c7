"""The network: its table, its Keras model, names and counts of its layers."""
