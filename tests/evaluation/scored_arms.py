"""SCORES of arms and seeds with known effects, as the networks of one sky would give them."""

import numpy as np
import pyarrow as pa

from darkhaloscope.contracts.tables import SCORES
from darkhaloscope.evaluation.ablation import Arm
from darkhaloscope.evaluation.endpoints import Network

ARCS, PLAIN, CELLS = 400, 700, 50


def logistic(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def table(prefix, score, cells, *, control=None, kind="lrg", category=None, arc=None, host="sim"):
    """Rows named PREFIX0 …, each a host of its own, in the cells that are given."""
    n = len(score)
    names = [f"{prefix}{i:05d}" for i in range(n)]
    columns = {
        "row_id": [f"{name}#0" for name in names] if control is not None else names,
        "target_id": names,
        "host_id": names,
        "group": [f"cell:{c}" for c in cells],
        "kind": [kind] * n,
        "category": [category] * n,
        "host_domain": [host] * n,
        "arc_domain": [arc] * n,
        "score": score,
        "score_core_masked": logistic(np.log(score / (1 - score)) - 0.2 * (control is not None)),
    }
    if control is not None:
        columns |= {"score_ctrl": control, "score_ctrl_core_masked": control}
        columns |= {"theta_e_arcsec": np.linspace(0.6, 2.4, n).astype("f4")}
    return SCORES.conform(columns)


def split(seed, shift, *, sky, arcs=ARCS, plain=PLAIN, first_cell=0, own=0.4):
    """Arcs with controls and plain galaxies: cells and rows are the sky's, the rest the network's."""
    rows, network = np.random.default_rng([1, sky]), np.random.default_rng([2, seed, sky])
    cell = rows.normal(0, 0.6, CELLS)
    at, at_plain = np.arange(arcs) * CELLS // arcs, np.arange(plain) * CELLS // plain
    light, dark, others = rows.normal(0, 1, arcs), rows.normal(0, 1, arcs), rows.normal(0, 1, plain)

    def seen(x):
        return logistic(x + own * network.normal(size=len(x)))

    pairs = table(
        f"s{sky}-a", seen(shift + cell[at] + light), at + first_cell,
        control=seen(-1 + cell[at] + dark), arc="sim",
    )  # fmt: skip
    return pa.concat_tables(
        [pairs, table(f"s{sky}-n", seen(-1 + cell[at_plain] + others), at_plain + first_cell)]
    )


def lookalikes(seed, shift=-2.0, n=60, category="ring"):
    score = logistic(shift + np.random.default_rng([3, seed]).normal(size=n))
    return table(f"r-{category}", score, 5000 + np.arange(n) // 2, kind="contaminant", category=category)


def arm(name, *, shift=1.0, seeds=(1, 2, 3, 4, 5), scatter=0.02, base=0, sky=0, first_cell=0, look=None):
    """Networks whose arcs score `shift` above zero, give or take the seed's `scatter`."""
    networks = []
    for seed in seeds:
        number = 1000 * base + seed
        of_seed = shift + scatter * np.random.default_rng([4, number]).normal()
        networks.append(
            Network(
                seed=seed,
                test=split(number, of_seed, sky=sky, first_cell=first_cell),
                calib=split(number, of_seed, sky=sky + 100, first_cell=first_cell + 1000),
                lookalikes=lookalikes(number) if look is None else look,
                manifests=(f"scores-{name}-{seed}",),
                lookalike_manifests=(f"looks-{name}-{seed}",),
            )
        )
    return Arm(name, tuple(networks), rows=f"sky {sky} from {first_cell}", lookalikes="all the same")
