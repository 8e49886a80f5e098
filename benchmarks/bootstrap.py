"""Cluster bootstraps of AUROC and TPR at a false-positive rate, against scikit-learn with weights.

python -m benchmarks.bootstrap [--json] [--scores N] [--clusters M] [--replicates B] [--peer-replicates K]

The peer weighs every row by how often its cluster was drawn and asks `roc_auc_score` and `roc_curve`, as one
does with scikit-learn. Its time is that of the first K replicates, times B / K. Both must give the same
numbers in each of these.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from darkhaloscope.contracts.random import stream
from darkhaloscope.stats import Auroc, Draws, Estimate, TprAtFpr, roc_estimates
from darkhaloscope.stats.resampling import resamples
from darkhaloscope.stats.roc import _Ranked
from darkhaloscope.stats.rows import Rows, checked_rows

SEED = 11
FPR = 1e-3
MEASURES = (Auroc(), TprAtFpr(FPR))


def drawn(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and clusters of `n` rows; half are positives, rows of a cluster share a term."""
    rng = stream(SEED, "benchmarks/bootstrap", f"{n} {m}")
    cluster = rng.integers(m, size=n)
    label = rng.random(n) < 0.5
    score = rng.normal(size=n) + 1.5 * label + 0.5 * rng.normal(size=m)[cluster]
    return score, label, cluster


def peer(rows: Rows, counts: np.ndarray) -> tuple[float, float]:
    """AUROC and TPR of one replicate by scikit-learn."""
    weight = counts[rows.group]
    auc = float(roc_auc_score(rows.positive, rows.score, sample_weight=weight))
    fpr, tpr, _ = roc_curve(rows.positive, rows.score, sample_weight=weight, drop_intermediate=False)
    negatives = float(weight[~rows.positive].sum())
    rank = np.floor(FPR * (negatives + 1) + 1e-9)
    # The rate is a quotient of whole numbers: rounded, it is the weight of negatives again.
    return auc, float(tpr[np.flatnonzero(np.rint(fpr * negatives) < rank)[-1]])


def measure(n: int, m: int, replicates: int, peer_replicates: int) -> dict[str, float]:
    """Seconds of both, and whether they agree; AssertionError if they do not."""
    score, label, cluster = drawn(n, m)
    draws = Draws(SEED, replicates)
    start = time.perf_counter()
    found = roc_estimates(score, label, cluster, MEASURES, draws)
    ours, peak = time.perf_counter() - start, peak_rss_mb()

    rows = checked_rows(score, label, cluster)
    ranked, worst, theirs = _Ranked(rows), 0.0, 0.0
    for counts in resamples(rows.n_groups, draws._replace(n_boot=peer_replicates)):
        start = time.perf_counter()
        expected = peer(rows, counts)
        theirs += time.perf_counter() - start
        worst = max(worst, float(np.abs(ranked.values(counts, MEASURES) - expected).max()))
    if worst > 1e-9:
        message = f"a replicate differs from scikit-learn's by {worst:.2g}"
        raise AssertionError(message)
    whole = theirs * replicates / peer_replicates
    return {
        "scores": n,
        "clusters": m,
        "replicates": replicates,
        "peer_replicates": peer_replicates,
        "ratio_vs_sklearn": whole / ours,
        "seconds": ours,
        "sklearn_seconds_extrapolated": whole,
        "largest_difference": worst,
        "peak_rss_mb": peak,
        **_shown("auroc", found[0]),
        **_shown("tpr", found[1]),
    }


def _shown(name: str, found: Estimate) -> dict[str, float]:
    ends = (found.value, found.low, found.high)
    labels = (name, f"{name}_low", f"{name}_high")
    return {label: float("nan") if end is None else end for label, end in zip(labels, ends, strict=True)}


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Cluster bootstraps, against scikit-learn.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--scores", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=20_000)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--peer-replicates", type=int, default=20)
    options = parser.parse_args()
    result = measure(options.scores, options.clusters, options.replicates, options.peer_replicates)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<30} {value:,.4g}")


if __name__ == "__main__":
    main()
