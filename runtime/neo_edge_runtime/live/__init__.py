"""Watching: frames that come while questions are asked, and where they come from."""
