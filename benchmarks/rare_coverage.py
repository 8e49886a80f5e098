"""How often the interval of TPR at a rare false-positive rate holds the truth, with the fewest negatives.

    python -m benchmarks.rare_coverage [--experiments 200] [--workers 1] [--fpr 1e-3] [--first 0] [--json]

Scores of arcs and of galaxies are normal, SHIFT standard deviations apart, so the truth follows from the
law; the rows of one host share 40 or 80 % of the variance. There are `needed_negatives(fpr)` negatives,
10/fpr, and as many arcs, PER_HOST rows of a host: arcs and negatives in hosts apart, or half and half in
common ones. The interval is `tpr_at_fpr`'s, as `evaluation.metrics` asks for it; the control is the same with
every row its own group. Experiment k depends on k alone: `--first` splits a long list.
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from darkhaloscope.contracts.random import stream
from darkhaloscope.stats import binomial, tpr_at_fpr
from darkhaloscope.stats.roc import needed_negatives

SHIFT, PER_HOST = 2.5, 8
BOOTSTRAP = 2000


class Law(NamedTuple):
    """Whose hosts rows have, and their share of the variance of a score."""

    hosts: str
    share: float


LAWS = tuple(Law(hosts, share) for share in (0.4, 0.8) for hosts in ("apart", "common"))


class Found(NamedTuple):
    """One interval: TPR and its ends."""

    law: Law
    by_host: bool
    value: float
    low: float
    high: float


def true_tpr(fpr: float) -> float:
    """Share of arcs above the threshold that a share `fpr` of negatives exceeds."""
    return float(norm.sf(norm.isf(fpr) - SHIFT))


def drawn(rng: np.random.Generator, n: int, law: Law) -> tuple[np.ndarray, ...]:
    """Scores of n arcs and n negatives, and the hosts of each."""
    apart = law.hosts == "apart"
    host = np.arange(n) // (PER_HOST if apart else PER_HOST // 2)
    m = host[-1] + 1
    hosts = np.array([host, host + m if apart else host])
    shared = np.sqrt(law.share) * rng.normal(size=2 * m)[hosts]
    pos, neg = shared + np.sqrt(1 - law.share) * rng.normal(size=hosts.shape)
    return SHIFT + pos, neg, *hosts


def experiment(k: int, fpr: float) -> list[Found]:
    """The k-th, under each law: hosts kept together, and rows taken for independent."""
    out = []
    for law in LAWS:
        rng = stream(51, "benchmark/rare", f"{law.hosts} {law.share} {fpr:g} {k}")
        pos, neg, *hosts = drawn(rng, needed_negatives(fpr), law)
        for by_host in (True, False):
            groups = hosts if by_host else [None, None]
            found = tpr_at_fpr(pos, neg, fpr, *groups, seed=k, n_boot=BOOTSTRAP)
            if found.value is None or found.low is None or found.high is None:
                raise ValueError(f"experiment {k}, {law}: no interval, {found.detail}")
            out.append(Found(law, by_host, found.value, found.low, found.high))
    return out


def experiments(first: int, last: int, fpr: float, workers: int) -> Iterator[list[Found]]:
    """In their order, whatever the workers."""
    if workers < 2:
        yield from (experiment(k, fpr) for k in range(first, last))
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(partial(experiment, fpr=fpr), range(first, last))


def summary(found: list[Found], fpr: float) -> dict[str, str | float]:
    """Coverage with its 95 % interval, on which side it misses, and what the intervals are like."""
    true = true_tpr(fpr)
    value, low, high = (np.array([getattr(f, name) for f in found]) for name in ("value", "low", "high"))
    held = (low <= true) & (true <= high)
    share = binomial(int(held.sum()), len(held), method="wilson")
    return {
        "hosts": found[0].law.hosts,
        "share": found[0].law.share,
        "interval": "hosts" if found[0].by_host else "rows (control)",
        "fpr": fpr,
        "negatives": needed_negatives(fpr),
        "n": len(found),
        "truth": true,
        "mean": float(value.mean()),
        "scatter": float(value.std()),
        "width": float((high - low).mean()),
        "covered": float(held.mean()),
        "covered_low": float(share.low or 0.0),
        "covered_high": float(share.high or 0.0),
        "truth_above": float((true > high).mean()),
        "truth_below": float((true < low).mean()),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--fpr", type=float, default=1e-3)
    parser.add_argument("--first", type=int, default=0, help="number of the first experiment")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cases = list(
        zip(*experiments(given.first, given.first + given.experiments, given.fpr, given.workers), strict=True)
    )
    rows = [summary(list(case), given.fpr) for case in cases]
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(x if isinstance(x, str) else f"{x:.4g}" for x in row.values()) + " |")


if __name__ == "__main__":
    main()
