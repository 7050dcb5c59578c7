"""Devices to test against: a simulated phone, and a real adbd in a sandbox."""
