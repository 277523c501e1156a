"""Campaigns: what was acknowledged is there after a kill -9, after a power cut, and at every prefix of a recorded trace."""
