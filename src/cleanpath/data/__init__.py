"""Data sets, by name."""
