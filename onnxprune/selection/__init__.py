"""Scores and a budget become a mask."""
