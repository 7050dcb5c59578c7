"""Latency on this machine and on devices: measured, kept, compared, drawn."""
