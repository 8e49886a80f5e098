"""Toy pairs that a network learns in seconds: a round galaxy in noise, and the same galaxy with a ring.

Run as a script it trains on them: ``python toy.py OUT_DIR EPOCHS``; the tests kill it and run it again.
"""

import sys
from pathlib import Path

import numpy as np

SIZE = 32


def toy_pairs(n, seed=1, *, ring=1.0, prefix="host", size=SIZE):
    from darkhaloscope.dataset.pixels import PairBlock, Pairs

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    r = np.hypot(x, y)
    galaxy = rng.uniform(5, 20, (n, 1, 1, 1)) * np.exp(-0.5 * (r / rng.uniform(2, 4, (n, 1, 1, 1))) ** 2)
    control = (galaxy + rng.normal(0, 1, (n, 3, size, size))).astype(np.float32)
    radius = rng.uniform(7, 9, (n, 1, 1, 1))
    arc = (
        ring
        * np.exp(-0.5 * ((r - radius) / 1.2) ** 2)
        * (x * np.cos(radius * 9) + y * np.sin(radius * 9) > 0)
    )
    stamp = (control + 4 * arc).astype(np.float32)
    centre = np.full(n, (size - 1) / 2)
    keys = tuple(f"{prefix}-{i:04d}#0" for i in range(n))
    return Pairs(
        keys, tuple(key.split("#")[0] for key in keys), PairBlock(stamp, control, centre, centre.copy())
    )


def tiny_config(**changes):
    from darkhaloscope.training.config import NetworkConfig, TrainConfig

    network = NetworkConfig(
        backbone="resnet10t", stem="native", options={"channels": (8, 8, 16, 16), "stem_width": 4}
    )
    given = {
        "network": network,
        "epochs": 3,
        "batch_size": 16,
        "lr": 5e-3,
        "num_threads": 1,
        "accelerator": "cpu",
    }
    return TrainConfig(**{**given, **changes})


def long_config(epochs):
    return tiny_config(epochs=epochs, patience=epochs)


def preprocess():
    from darkhaloscope.stamps.preprocess import Preprocess

    # The brief's outer region (r > 20) has no pixels in so small a toy.
    return Preprocess(kind="asinh")


def run(out_dir, config=None, *, pairs=None, select=None, sampling=None, **given):
    from darkhaloscope.dataset.sampling import PairSampling
    from darkhaloscope.training.train import train

    return train(
        config or tiny_config(),
        sampling=sampling or PairSampling(core_dropout_prob=0.0),
        preprocess=given.pop("preprocess", preprocess()),
        train_pairs=pairs if pairs is not None else toy_pairs(40),
        select_pairs=select if select is not None else toy_pairs(24, seed=2, prefix="other"),
        out_dir=Path(out_dir),
        fingerprints=given.pop("fingerprints", {"pairs": "toy"}),
        progress=given.pop("progress", False),
        **given,
    )


if __name__ == "__main__":
    run(sys.argv[1], long_config(int(sys.argv[2])))
