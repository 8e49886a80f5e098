"""Do the gates on a model find one that has learnt a planted shortcut, and pass one that has not?

    python -W ignore -m benchmarks.model_shortcuts RUN --out FOLDER [--seeds 3] [--json]

RUN is the folder of a run whose pairs and splits are made (gen5_prime_baseline at its default size). For
each seed small networks are trained on some of its train pairs, into whose positives a shortcut is planted:
the core brighter by a fifth, or one pixel 2 px from the middle brighter by two sigma. Then every gate of
`reliance_findings` looks at the network, on test pairs with the same shortcut. With mitigations (the brief's
core dropout and shuffled negatives) and without; on clean pairs too; and on pairs without an arc, where
nothing may be decided. What is done is kept in FOLDER (one for each RUN) and not done again. Three minutes a
network.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Finding
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.contracts.random import stream
from darkhaloscope.dataset.pixels import PairBlock, Pairs
from darkhaloscope.dataset.sampling import PairSampling
from darkhaloscope.gates.arrays import PairArrays
from darkhaloscope.gates.reliance import reliance_findings
from darkhaloscope.pipeline.experiment import load_experiment
from darkhaloscope.pipeline.modelling import ModelStages
from darkhaloscope.stamps.measure import OUTER_RADIUS_PIX, annulus_mask, median_and_spread, radius_map
from darkhaloscope.training.config import NetworkConfig, TrainConfig
from darkhaloscope.training.model import load_checkpoint
from darkhaloscope.training.train import train

NETWORK = NetworkConfig(
    backbone="resnet10t", field_pix=40, options={"stem_width": 8, "channels": (16, 32, 64, 128)}
)
TRAIN_PAIRS, SELECT_PAIRS = 4000, 800
EPOCHS = 8

Pixels = NDArray[np.float32]
Plant = Callable[[Pixels, NDArray[np.float64], NDArray[np.float64]], Pixels]


def nothing(stamp: Pixels, _x: NDArray[np.float64], _y: NDArray[np.float64]) -> Pixels:
    """Clean pairs."""
    return stamp


def bright_core(stamp: Pixels, x: NDArray[np.float64], y: NDArray[np.float64]) -> Pixels:
    """r < 5 px times 1.20."""
    gain = np.where(radius_map(stamp.shape, x, y) < 5.0, 1.2, 1.0)[:, None]
    return (stamp * gain).astype(np.float32)


def watermark(stamp: Pixels, x: NDArray[np.float64], y: NDArray[np.float64]) -> Pixels:
    """One pixel, the same one always, brighter by two sigma of the sky in every band."""
    sky = annulus_mask(stamp.shape, OUTER_RADIUS_PIX, stamp.shape[-1] / 2, x, y)
    _, sigma = median_and_spread(stamp, sky)
    out = stamp.copy()
    out[:, :, 33, 30] += 2 * sigma[..., 0, 0]
    return out


PLANTS: dict[str, Plant] = {"clean": nothing, "bright core": bright_core, "watermark": watermark}
SAMPLINGS = {
    "no mitigation": PairSampling(hard_negative_ratio=0.0, core_dropout_prob=0.0, disc_share=0.0),
    "mitigations": PairSampling(),
}


def some(stages: ModelStages, split: str, most: int, plant: Plant) -> Pairs:
    """Pairs of a split in memory, with a shortcut in their positives."""
    stored = stages.stored(split)
    order = stream(stages.experiment.seed, "model shortcuts", split).permutation(len(stored.keys))[:most]
    rows = np.sort(order).tolist()
    b = stored.take(rows)
    stamp = plant(b.stamp, b.x_center, b.y_center)
    block = PairBlock(stamp, b.control, b.x_center, b.y_center, b.domain)
    return Pairs(tuple(stored.keys[k] for k in rows), tuple(stored.hosts[k] for k in rows), block)


def planted(pairs: PairArrays, plant: Plant) -> PairArrays:
    """Test pairs with the shortcut."""
    return replace(pairs, stamps=plant(pairs.stamps.astype(np.float32), pairs.x_center, pairs.y_center))


@dataclass(frozen=True)
class Case:
    """One network: the shortcut that its positives carry, what training does against it, and the seed."""

    plant: str
    sampling: str
    seed: int

    @property
    def file(self) -> str:
        """Name of the file that keeps its result."""
        return f"{self.plant}-{self.sampling}-{self.seed}.json".replace(" ", "_")


def judge(stages: ModelStages, sham: PairArrays, case: Case, folder: Path) -> dict[str, Any]:
    """Train one network and let every gate look at it."""
    plant, seed = PLANTS[case.plant], case.seed
    config = TrainConfig(
        network=NETWORK, epochs=EPOCHS, batch_size=32, lr=3e-3, seed=seed, num_threads=1, accelerator="cpu"
    )
    result = train(
        config,
        sampling=SAMPLINGS[case.sampling],
        preprocess=stages.experiment.preprocess,
        train_pairs=some(stages, "train", TRAIN_PAIRS, plant),
        select_pairs=some(stages, "select", SELECT_PAIRS, plant),
        out_dir=folder,
        fingerprints={"plant": case.plant},
        progress=False,
    )
    scorer = load_checkpoint(result.checkpoint_path, sha256=result.checkpoint_sha256)
    test = planted(stages.test_pairs, plant)
    found = reliance_findings(test, scorer, protocol=stages.protocol, seed=seed)
    none = reliance_findings(sham, scorer, protocol=stages.protocol, seed=seed)
    return {
        **asdict(case),
        "select_auroc": result.history[result.best_epoch].select_auroc,
        "findings": [told(f) for f in found],
        "without_arcs": [told(f) for f in none],
    }


def told(finding: Finding) -> dict[str, Any]:
    """What is kept of a finding."""
    return {
        "name": finding.name, "status": str(finding.status), "value": finding.value,
        "interval": finding.interval, "n": finding.n, "detail": finding.detail,
    }  # fmt: skip


def results(run: Path, out: Path, seeds: int) -> Iterator[dict[str, Any]]:
    """One row for each network, made or read."""
    stages = ModelStages(load_experiment(run / "config.yaml"), run)
    sham = stages.some_shams()
    for seed, sampling, plant in product(range(1, seeds + 1), SAMPLINGS, PLANTS):
        case = Case(plant, sampling, seed)
        path = out / case.file
        if not path.exists():
            path.write_text(json.dumps(judge(stages, sham, case, path.with_suffix("")), indent=1))
        yield json.loads(path.read_text())


def markdown(rows: list[dict[str, Any]], protocol: Protocol) -> str:
    """Failures and values by gate."""
    names = [f["name"] for f in rows[0]["findings"]]
    lines = [
        "| shortcut | training | select AUROC | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---" * (3 + len(names)) + "|",
    ]
    for plant, sampling in dict.fromkeys((row["plant"], row["sampling"]) for row in rows):
        mine = [row for row in rows if (row["plant"], row["sampling"]) == (plant, sampling)]
        cells = []
        for name in names:
            found = [f for row in mine for f in row["findings"] if f["name"] == name]
            failed = sum(f["status"] == "FAIL" for f in found)
            values = ", ".join("-" if f["value"] is None else f"{f['value']:.3f}" for f in found)
            mark = "**" if failed and name in protocol.gates.v2 else ""
            cells.append(f"{mark}{failed} of {len(found)}{mark} ({values})")
        aurocs = ", ".join(f"{row['select_auroc']:.3f}" for row in mine)
        lines.append(f"| {plant} | {sampling} | {aurocs} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description="Model gates on planted shortcuts.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = list(results(given.run, given.out, given.seeds))
    protocol = ModelStages(load_experiment(given.run / "config.yaml"), given.run).protocol
    print(json.dumps(rows, indent=1) if given.json else markdown(rows, protocol))


if __name__ == "__main__":
    main()
