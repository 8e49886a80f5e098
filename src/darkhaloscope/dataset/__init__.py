"""Splits that cut nothing in two, checks before training, and pairs as training sees them."""
