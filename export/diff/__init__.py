"""What differs between two runs or files."""
