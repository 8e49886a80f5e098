"""The classifier, its checkpoint and export, and the loop that trains it.

`config`, `scorer` and `onnx_scorer` load without PyTorch; the rest needs the ``train`` extra.
"""
