"""Weights from elsewhere: files of other frameworks and published models."""
