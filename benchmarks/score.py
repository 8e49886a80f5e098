"""Scoring: an exported network on ONNX Runtime against the same network in eager PyTorch, one thread each.

python -m benchmarks.score [--json] [--views N] [--rows N] [--rounds N] [--folder F]

The network is the default: ResNet-18 with a 3×3 stem, stamps of 64 pixels, batch norms settled. PyTorch is
tried at batches of 16, 64 and 256, contiguous and channels_last: the best of the six is the peer, contiguous
at 64 the plain one. Rounds are interleaved, ratios are medians over rounds of processor time: the machine may
be shared. End to end is the job: Parquet in, decoding, normalising, both views, scores as Parquet out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.store import Dataset, local_writer, open_dataset, write_tables
from darkhaloscope.contracts.tables import STAMPS
from darkhaloscope.evaluation.score import ScoreStamps
from darkhaloscope.pipeline.scoring import scoring_job
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.stamps.stamp import encode_planes
from darkhaloscope.training.config import NetworkConfig
from darkhaloscope.training.model import LensClassifier, load_checkpoint, save_checkpoint
from darkhaloscope.training.onnx import export_onnx
from darkhaloscope.training.scorer import MICRO_BATCH, Card, StampScorer, micro_batches, probabilities

SEED = 11
SHAPE = (3, 64, 64)
CENTRE = (SHAPE[-1] - 1) / 2
TOLERANCE = 1e-4
SHARD_ROWS = 64
BATCHES = (16, 64, 256)
PLAIN = "contiguous, 64"
PEAKS = 3
"""Processes whose peak memory is taken the median of: allocators vary by some 5 % from one to the next."""

Seen = np.ndarray


def stamps(n: int, name: str) -> Seen:
    """Galaxies in noise [nmgy], not all of one brightness."""
    rng = stream(SEED, "benchmark/score", name)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]] - CENTRE
    size = rng.uniform(2, 6, (n, 1, 1, 1))
    light = rng.lognormal(1.0, 1.0, (n, 3, 1, 1)) * np.exp(-np.hypot(x, y) / size)
    return (light + rng.normal(0, 0.05, (n, *SHAPE))).astype(np.float32)


def exported(folder: Path) -> tuple[Any, Path]:
    """The default network with settled statistics: as PyTorch scores with it, and its export."""
    card = Card(
        network=NetworkConfig(),
        preprocess=Preprocess(),
        stamp_shape=SHAPE,
        training={},
        sampling={},
        fingerprints={},
        history=(),
        best_epoch=0,
    )
    seen = card.preprocess.apply(stamps(64, "settling"), CENTRE, CENTRE)
    model = LensClassifier.seeded(card.network, bands=SHAPE[0], seed=SEED).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.from_numpy(seen))
        model.head.weight.mul_(3.0 / model.eval()(torch.from_numpy(seen)).std())
    path = folder / "checkpoint.pt"
    scorer = load_checkpoint(path, sha256=save_checkpoint(path, model.state_dict(), card))
    export_onnx(scorer, path.with_suffix(".onnx"), seen)
    return scorer, path.with_suffix(".onnx")


def eager(model: torch.nn.Module, seen: Seen, batch: int, layout: torch.memory_format) -> np.ndarray:
    """Logits of PyTorch as one writes it."""
    with torch.inference_mode():
        parts = (torch.from_numpy(seen[start : start + batch]) for start in range(0, len(seen), batch))
        return np.concatenate([model(part.contiguous(memory_format=layout)).numpy() for part in parts])


def bare(scorer: StampScorer, seen: Seen) -> np.ndarray:
    """Logits of the exported network, of pixels that are normalised already."""
    return np.concatenate([scorer._forward(micro)[:rows] for micro, rows in micro_batches(seen)])  # noqa: SLF001 - the network without what surrounds it


def written(folder: Path, rows: int) -> Dataset:
    """STAMPS with pixels, in shards of 64 rows, made one at a time."""

    def shard(k: int) -> Any:
        n = min(SHARD_ROWS, rows - k * SHARD_ROWS)
        names = [f"target-{k * SHARD_ROWS + i:06d}" for i in range(n)]
        pixels = [encode_planes("image", image) for image in stamps(n, f"shard/{k}")]
        given = STAMPS.mock(n).to_pydict() | {"target_id": names, "stamp_npz": pixels, "reject": [None] * n}
        return STAMPS.conform(given | {"x_center_pix": [CENTRE] * n, "y_center_pix": [CENTRE] * n})

    shards = (shard(k) for k in range(-(-rows // SHARD_ROWS)))
    return write_tables(local_writer(folder, STAMPS), shards, job={"job": "benchmark", "rows": rows})


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the processor, and on the wall."""
    wall, used = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - used, time.perf_counter() - wall


def networks(scorer: Any, onnx: StampScorer, views: int, rounds: int) -> dict[str, float]:
    """Rates of the bare networks and their ratios; raises where a score differs by more than 1e-4."""
    seen = onnx.card.preprocess.apply(stamps(views, "views"), CENTRE, CENTRE)
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    models = {name: scorer.on("cpu").model.to(memory_format=layout) for name, layout in layouts.items()}
    ways: dict[str, Callable[[], np.ndarray]] = {"onnx": lambda: bare(onnx, seen)}
    for name, layout in layouts.items():
        for batch in BATCHES:
            ways[f"{name}, {batch}"] = lambda m=models[name], b=batch, f=layout: eager(m, seen, b, f)
    ours = probabilities(ways["onnx"]())
    worst = max(float(np.abs(probabilities(way()) - ours).max()) for way in ways.values())
    if not worst <= TOLERANCE or np.ptp(ours) < 0.1:
        message = f"scores differ by {worst:.2g}, or say nothing (range {np.ptp(ours):.2g})"
        raise AssertionError(message)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(rounds):
        for j in stream(SEED, "benchmark/order", str(k)).permutation(len(ways)):
            name = list(ways)[j]
            times[name].append(_timed(ways[name])[0])
    used = {name: np.asarray(t) for name, t in times.items()}
    middle = {name: float(np.median(t)) for name, t in used.items()}
    best = min((name for name in used if name != "onnx"), key=middle.__getitem__)
    ratios = used[best] / used["onnx"]
    return {
        "ratio_vs_best_torch": float(np.median(ratios)),
        "ratio_vs_best_torch_low": float(ratios.min()),
        "ratio_vs_best_torch_high": float(ratios.max()),
        "ratio_vs_plain_torch": float(np.median(used[PLAIN] / used["onnx"])),
        "worst_score_difference": worst,
        **{f"views_per_core_s ({name})": views / t for name, t in middle.items()},
    }


def end_to_end(
    onnx: StampScorer, job: ScoreStamps, source: Dataset, out: Path, rounds: int
) -> dict[str, float]:
    """The job's rate as a share of the bare network's over as many views: processor time, and on the wall."""
    views = 2 * source.num_rows
    seen = onnx.card.preprocess.apply(stamps(views, "views"), CENTRE, CENTRE)
    quiet = Console(quiet=True)

    def whole(k: int) -> None:
        run_local(job, source, local_writer(out / str(k), job.writes), console=quiet)

    whole(-1)  # the model is read once
    pairs = [(_timed(lambda: bare(onnx, seen)), _timed(lambda k=k: whole(k))) for k in range(rounds)]
    share = np.array([[b / w for b, w in zip(net, job_, strict=True)] for net, job_ in pairs])
    wall = float(np.median([w for _, (_, w) in pairs]))
    return {
        "end_to_end_fraction": float(np.median(share[:, 0])),
        "end_to_end_fraction_wall": float(np.median(share[:, 1])),
        "rows_per_s_end_to_end": source.num_rows / float(np.median([c for _, (c, _) in pairs])),
        "rows_per_s_end_to_end_wall": source.num_rows / wall,
    }


def _peak_mb(model: Path, source: Dataset, out: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.score_alone", str(model), source.where, str(out)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(folder: Path, views: int, rows: int, rounds: int) -> dict[str, Any]:
    """Every figure of this benchmark; raises where the scores differ."""
    torch.set_num_threads(1)
    scorer, model = exported(folder)
    small, large = (written(folder / f"stamps-{n}", n) for n in (rows, 10 * rows))
    job = scoring_job(model, small)
    found = networks(scorer, job.scorer, views, rounds)
    found |= end_to_end(job.scorer, job, open_dataset(small.where), folder / "scores", rounds)
    peaks = [
        [_peak_mb(model, source, folder / f"peak-{source.num_rows}-{k}") for source in (small, large)]
        for k in range(PEAKS)
    ]
    once, ten = (float(peak) for peak in np.median(peaks, axis=0))
    sizes = {"views": views, "rows": rows, "rounds": rounds, "micro_batch": MICRO_BATCH}
    return {**found, "memory_ratio_10x": ten / once, "peak_mb": once, "peak_mb_10x": ten, **sizes}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Scoring, against eager PyTorch.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--views", type=int, default=256)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where datasets are made; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(Path(folder), options.views, options.rows, options.rounds)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<44} {value:.4g}")


if __name__ == "__main__":
    main()
