"""How often the intervals of `evaluation.separation` cover one half where there is no difference.

python -m benchmarks.probe_coverage [--samples 100]

Normal features, two samples of equal distribution; rows of one host share half of their variance. "too
narrow" is the scatter of the AUROC over the mean of its error, and over that for fits that are fixed.
"""

import argparse

import numpy as np

from darkhaloscope.evaluation.separation import INFLATION, separate

CASES = ((60, 2, 1, 1), (60, 20, 1, 1), (150, 60, 1, 1), (60, 20, 1, 5), (120, 80, 1, 5), (120, 20, 3, 1))
"""Rows of each sample, features, rows of a host, repeats of the cross-validation."""


def drawn(rng: np.random.Generator, rows: int, features: int, per: int) -> np.ndarray:
    """Rows of hosts one after another."""
    host = rng.normal(size=(rows // per, 1, features)) * (1.0 if per > 1 else 0.0)
    return (host + rng.normal(size=(rows // per, per, features))).reshape(rows, features)


def case(rows: int, features: int, per: int, repeats: int, samples: int) -> str:
    """One line of the table."""
    found = []
    for seed in range(samples):
        rng = np.random.default_rng(seed)
        a, b = (drawn(rng, rows, features, per) for _ in range(2))
        hosts = tuple(np.repeat([f"{side}{i}" for i in range(rows // per)], per) for side in "ab")
        found.append(separate(a, b, hosts, seed=seed, purpose="benchmark", repeats=repeats))
    aucs, errors = np.array([f.auc for f in found]), np.array([f.error for f in found])
    ends = np.array([f.interval() for f in found])
    covered = ((ends[:, 0] <= 0.5) & (ends[:, 1] >= 0.5)).mean()
    wrongly = np.mean([f.verdict() == "different" for f in found])
    ratio = aucs.std() / errors.mean()
    cells = (rows, features, per, repeats, f"{aucs.mean():.3f}", f"{aucs.std():.3f}", f"{errors.mean():.3f}")
    ends_of = (f"{covered:.2f}", f"{wrongly:.2f}", f"{ratio:.2f} / {ratio * np.sqrt(INFLATION):.2f}")
    return "| " + " | ".join(str(cell) for cell in (*cells, *ends_of)) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100)
    samples = parser.parse_args().samples
    print(
        "| rows | features | per host | repeats | mean | scatter | error | covers | different | too narrow |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for given in CASES:
        print(case(*given, samples), flush=True)


if __name__ == "__main__":
    main()
