"""Scores of a checkpoint, and what the protocol measures on them."""
