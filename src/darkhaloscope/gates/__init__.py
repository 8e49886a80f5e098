"""Gates: arrays and a `predict` callable in, findings out. Nothing here is trained and kept.

`leakage` asks the data whether the core tells the label, `reliance` asks a model whether it looks there;
`whole_stamp` looks beyond the core, and `classes` at positives and negatives that are not pairs.
Probes are cross-validated by host everywhere; the brief's letter (v1) is reported beside them and decides
nothing. Directions, bounds and sample sizes are the protocol's.
"""
