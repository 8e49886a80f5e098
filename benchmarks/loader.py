"""Reading training rows: our loader against a plain PyTorch dataset that calls numpy.load on every row.

python -m benchmarks.loader [--json] [--pairs N] [--rounds N] [--workers N] [--batch-size N]

Both read the same pixels in the same DataLoader with the same workers and batches. Ours come from committed
shards, as training reads them; the peer's lie in memory as deflated NPZ, as `numpy.savez_compressed` writes
them. `decode` gives raw pixels of stamps and controls; `augmented` what the network is fed: each member
normalised (asinh, median and MAD of its own annulus), half of the cores dropped, turned and mirrored. In the
run itself pixels of both are compared.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from darkhaloscope.contracts.store import local_writer, write_rows
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS
from darkhaloscope.dataset.pairs import EpochOrder, EvenBatches, PairDataset, TrainingRows, collate
from darkhaloscope.dataset.sampling import PairSampling
from darkhaloscope.dataset.splits import AssignSplits, group_counts
from darkhaloscope.dataset.stored import StoredPairs
from darkhaloscope.injection.inject import Inject
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.stamps.preprocess import Preprocess
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks

SEED = 3
SHARD_ROWS = 256
SAMPLING = PairSampling(hard_negative_ratio=0.0, disc_share=0.0)
ANNULUS = (0.65 * 32, 0.90 * 32)


# --- the peer -------------------------------------------------------------------------------------------


class RowByRow(Dataset[Any]):
    """One pair at a time with numpy.load, and the same work on it written plainly."""

    def __init__(self, blobs: Sequence[tuple[bytes, bytes]], centres: np.ndarray, *, augment: bool) -> None:
        self.blobs, self.centres, self.augment = blobs, centres, augment

    def __len__(self) -> int:
        return len(self.blobs)

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, row = index
        members = [_load(blob) for blob in self.blobs[row]]
        if self.augment:
            members = _augmented(members, self.centres[row], np.random.default_rng([SEED, epoch, row]))
        return torch.from_numpy(np.stack(members)), torch.tensor([1.0, 0.0])


def _load(blob: bytes) -> np.ndarray:
    with np.load(io.BytesIO(blob), allow_pickle=False) as planes:
        return np.stack([planes[f"image_{band}"] for band in "grz"])


def _augmented(members: list[np.ndarray], centre: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(x - centre[0], y - centre[1])
    background, core, outer = (radius >= ANNULUS[0]) & (radius < ANNULUS[1]), radius < 5, radius > 20
    seen = [_normalised(member, background) for member in members]
    if rng.random() < 0.5:
        for member in seen:
            for plane in member:
                plane[core] = np.median(plane[outer])
    turns, mirror = rng.integers(4), rng.random() < 0.5
    turned = [np.rot90(member, turns, axes=(1, 2)) for member in seen]
    return [np.ascontiguousarray(member[:, :, ::-1] if mirror else member) for member in turned]


def _normalised(member: np.ndarray, background: np.ndarray) -> np.ndarray:
    out = np.empty_like(member)
    for plane, target in zip(member, out, strict=True):
        sky = plane[background]
        middle = np.median(sky)
        spread = 1.4826 * np.median(np.abs(sky - middle))
        target[:] = np.arcsinh((plane - middle) / (spread + 1e-10))
    return out


# --- ours -----------------------------------------------------------------------------------------------


class Raw(Dataset[TrainingRows]):
    """Raw pixels of stored pairs, a batch at a time."""

    def __init__(self, pairs: StoredPairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs.keys)

    def __getitem__(self, index: tuple[int, int]) -> TrainingRows:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[tuple[int, int]]) -> list[TrainingRows]:
        block = self.pairs.take([row for _, row in indices])
        x = np.concatenate([block.stamp, block.control])
        return [TrainingRows(torch.from_numpy(x), torch.empty(0), ())]


def _first(batch: Sequence[TrainingRows]) -> TrainingRows:
    return batch[0]


# --- the run --------------------------------------------------------------------------------------------


def stored(folder: Path, n: int) -> StoredPairs:
    """`n` pairs in committed shards: some hundred injections, again and again under new names."""
    sky = HarvestSky(seed=SEED).run(plan_bricks(SEED, 60, 8, priors=SkyPriors(), anchors=0))
    pairs = Inject(seed=SEED).run(sky)
    usable = pairs.filter(pa.compute.is_null(pairs.column("reject"))).combine_chunks()
    rows = usable.take(pa.array(np.arange(n) % usable.num_rows))
    at = rows.schema.get_field_index("task_id")
    rows = rows.set_column(at, rows.schema.field(at), pa.array([f"task-{k:07d}" for k in range(n)]))
    plan = dict.fromkeys(group_counts(rows), "train")
    splits = AssignSplits(plan=plan, snr_floor_mf=0.0).run(rows)
    made = {}
    for name, table, part in (("pairs", PAIRED_STAMPS, rows), ("splits", SPLITS, splits)):
        writer = local_writer(folder / name, table)
        made[name] = write_rows(writer, part, shard_rows=SHARD_ROWS, job={"job": f"benchmark {name}"})
    return StoredPairs.open({"sky": made["pairs"]}, {"sky": made["splits"]}, "train")


def deflated(pairs: StoredPairs) -> list[tuple[bytes, bytes]]:
    """The same pixels as the peer holds them."""
    out = []
    for start in range(0, len(pairs.keys), SHARD_ROWS):
        block = pairs.take(range(start, min(start + SHARD_ROWS, len(pairs.keys))))
        out += [(_deflate(s), _deflate(c)) for s, c in zip(block.stamp, block.control, strict=True)]
    return out


def _deflate(cube: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{f"image_{band}": plane for band, plane in zip("grz", cube, strict=True)})
    return buffer.getvalue()


def seconds(
    rows: Any, pairs: StoredPairs, options: argparse.Namespace, epoch: int, join: Any = None
) -> float:
    """Seconds of one pass over all rows, workers started beforehand."""
    torch.set_num_threads(1)
    order = EpochOrder(pairs.shard_of, seed=SEED, epoch=epoch)
    loader = DataLoader(
        rows, batch_sampler=EvenBatches(order, options.batch_size), collate_fn=join,
        num_workers=options.workers, multiprocessing_context="spawn" if options.workers else None,
        persistent_workers=options.workers > 0,
    )  # fmt: skip
    if options.workers:
        next(iter(loader))
        order.set_epoch(epoch)
    start = time.perf_counter()
    n = 0
    for batch in loader:
        n += len(batch[0])
    elapsed = time.perf_counter() - start
    if n not in (len(pairs.keys), 2 * len(pairs.keys)):
        message = f"{n} rows came for {len(pairs.keys)} pairs"
        raise AssertionError(message)
    return elapsed


def agree(pairs: StoredPairs, blobs: Sequence[tuple[bytes, bytes]], centres: np.ndarray) -> None:
    """Both give the same pixels, raw and normalised; AssertionError if not."""
    rows = list(range(0, len(blobs), max(len(blobs) // 50, 1)))
    block = pairs.take(rows)
    seen = Preprocess(kind="asinh").apply(block.stamp, block.x_center, block.y_center)
    y, x = np.mgrid[:64, :64]
    for k, row in enumerate(rows):
        radius = np.hypot(x - centres[row, 0], y - centres[row, 1])
        stamp = _load(blobs[row][0])
        theirs = _normalised(stamp, (radius >= ANNULUS[0]) & (radius < ANNULUS[1]))
        if not np.array_equal(block.stamp[k], stamp) or not np.allclose(seen[k], theirs, atol=2e-5):
            message = f"pair {row} differs between the two loaders"
            raise AssertionError(message)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Ratios over interleaved rounds."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = stored(Path(folder), options.pairs)
        blobs = deflated(pairs)
        block = [pairs.take([k]) for k in range(len(pairs.keys))]
        centres = np.array([(b.x_center[0], b.y_center[0]) for b in block])
        agree(pairs, blobs, centres)
        fed = PairDataset(pairs, SAMPLING, Preprocess(kind="asinh"), seed=SEED)
        plain, augmented = (RowByRow(blobs, centres, augment=a) for a in (False, True))
        times: dict[str, list[float]] = {"decode": [], "peer_decode": [], "fed": [], "peer_fed": []}
        for epoch in range(options.rounds):
            times["decode"].append(seconds(Raw(pairs), pairs, options, epoch, _first))
            times["peer_decode"].append(seconds(plain, pairs, options, epoch))
            times["fed"].append(seconds(fed, pairs, options, epoch, collate))
            times["peer_fed"].append(seconds(augmented, pairs, options, epoch))
    t = {name: np.array(values) for name, values in times.items()}
    return {
        "pairs": options.pairs,
        "workers": options.workers,
        "rounds": options.rounds,
        "ratio_decode_only": float(np.median(t["peer_decode"] / t["decode"])),
        "ratio_with_augmentation": float(np.median(t["peer_fed"] / t["fed"])),
        "samples_per_s": float(2 * options.pairs / np.median(t["fed"])),
        "samples_per_s_decode_only": float(2 * options.pairs / np.median(t["decode"])),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Training rows, against numpy.load row by row.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    result = measure(options)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<28} {value:,.4g}")


if __name__ == "__main__":
    main()
