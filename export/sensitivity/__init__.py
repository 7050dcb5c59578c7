"""Blocks that lose accuracy in 8 bits, and networks that keep some in float."""
