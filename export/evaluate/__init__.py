"""Scores and answers of every kind of model."""
