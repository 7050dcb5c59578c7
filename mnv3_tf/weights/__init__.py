"""Weights that training starts from: published ones and your own."""
