"""Data sources, scoring and evaluation; needs no torch."""
