"""The audit: checks of every room gathered, worded as a colleague would, and a verdict."""
