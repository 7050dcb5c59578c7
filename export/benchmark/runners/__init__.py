"""Programs that measure on a device, and their output."""
