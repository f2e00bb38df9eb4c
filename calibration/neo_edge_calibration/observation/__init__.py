"""Runs a float variant block by block and gathers statistics of what feeds its products."""
