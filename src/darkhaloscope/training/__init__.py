"""The classifier, its checkpoint, and the loop that trains it. Needs the ``train`` extra (PyTorch)."""
