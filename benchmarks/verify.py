"""Verifying pairs: our job in one pass over the blobs, against the same checks row by row with numpy.load.

python -m benchmarks.verify [--json] [--pairs N] [--peer-pairs N] [--rounds N]

The pairs are injections into the synthetic sky, a few hundred of them, handed out again and again under new
names by a filesystem in memory: its own time is taken off. Peak memory is that of the whole process, the
filesystem's included; it is read at a tenth of the pairs and at the end.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from benchmarks.peer_verify import looked_at
from darkhaloscope.contracts.store import MANIFEST, Commit, Dataset, Manifest, _parquet, local_writer
from darkhaloscope.contracts.tables import PAIRED_STAMPS
from darkhaloscope.dataset.pair_checks import VerifyPairs, pair_findings
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.stamps.stamp import decode_planes, encode_planes
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks

SEED = 7
SHARD_ROWS = 256
_NAMES = ("task_id", "target_id", "host_id")


def injected(bricks: int) -> pa.Table:
    """Usable pairs of a small sky."""
    sky = HarvestSky(seed=SEED).run(plan_bricks(SEED, bricks, 8, priors=SkyPriors(), anchors=0))
    pairs = Inject(recipe=Recipe(), seed=SEED).run(sky)
    return pairs.filter(pc.is_null(pairs.column("reject"))).combine_chunks()


class MockFiles:
    """The files of a dataset of many pairs, each shard made when it is opened."""

    def __init__(self, pairs: pa.Table, n: int) -> None:
        self.pairs, self.n, self.own_seconds, self.peaks = pairs, n, 0.0, []
        self.shards = -(-n // SHARD_ROWS)

    def manifest(self) -> Manifest:
        rows = [min(SHARD_ROWS, self.n - k * SHARD_ROWS) for k in range(self.shards)]
        commits = tuple(
            Commit(key=f"{k:06d}", file=f"shards/{k}", rows=r, sha256="") for k, r in enumerate(rows)
        )
        facts = {
            "job": {},
            "job_fingerprint": "",
            "inputs": {},
            "code_version": "",
            "fingerprint": str(self.n),
        }
        return Manifest(table=PAIRED_STAMPS.name, version=PAIRED_STAMPS.version, shards=commits, **facts)

    def read(self, path: str) -> bytes:
        if path != MANIFEST:
            raise FileNotFoundError(path)
        return self.manifest().model_dump_json().encode()

    def open(self, path: str) -> Any:
        start = time.perf_counter()
        data = pa.BufferReader(_parquet(self.rows(int(path.rpartition("/")[2])), PAIRED_STAMPS))
        self.peaks.append(peak_rss_mb())
        self.own_seconds += time.perf_counter() - start
        return data

    def rows(self, shard: int) -> pa.Table:
        """Rows of one shard: the base rows in turn, under names of their own."""
        first = shard * SHARD_ROWS
        number = np.arange(first, min(first + SHARD_ROWS, self.n))
        rows = self.pairs.take(pa.array(number % self.pairs.num_rows))
        for name in _NAMES:
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, rows.schema.field(at), pa.array([f"{name}-{k}" for k in number]))
        return rows

    def names(self, _path: str) -> list[str]:
        return []


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure(n: int, n_peer: int, rounds: int) -> dict[str, float]:
    """Rates of both, and peak memory; raises if they do not find the same faults and numbers."""
    base = injected(64)
    faults = agree(base)
    ours, peer = [], []
    for _ in range(rounds):
        # Interleaved: whatever else the machine does falls on both.
        files = MockFiles(base, n_peer)
        peer.append(_peer_seconds(files) / n_peer)
        ours.append(_our_seconds(MockFiles(base, n_peer)) / n_peer)
    files = MockFiles(base, n)
    seconds = _our_seconds(files)
    ratio = np.array(peer) / np.array(ours)
    return {
        "pairs": n,
        "peer_pairs": n_peer,
        "rounds": rounds,
        "faults_compared": faults,
        "ratio_vs_numpy_loop": float(np.median(ratio)),
        "ratio_lowest": float(ratio.min()),
        "ratio_highest": float(ratio.max()),
        "pairs_per_s_per_core": n / seconds,
        "peak_rss_mb": peak_rss_mb(),
        "peak_rss_mb_at_a_tenth": files.peaks[len(files.peaks) // 10],
    }


def _our_seconds(files: MockFiles) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        job, source = VerifyPairs(), Dataset(files, "mock pairs")
        writer = local_writer(Path(folder) / "audit", job.writes)
        audit = run_local(job, source, writer, console=Console(quiet=True))
        findings = pair_findings([audit.read()])
        seconds = time.perf_counter() - start - files.own_seconds
    if not findings.all_passed:
        message = f"clean pairs raised {[str(f) for f in findings if not f.passed]}"
        raise AssertionError(message)
    return seconds


def _peer_seconds(files: MockFiles) -> float:
    source = Dataset(files, "mock pairs")
    start = time.perf_counter()
    for key in source.keys:
        for row in source.read_shard(key).to_pylist():
            looked_at(row)
    return time.perf_counter() - start - files.own_seconds


# --- both find the same ----------------------------------------------------------------------------------


def agree(base: pa.Table) -> int:
    """How many planted faults both found; AssertionError if they differ in a fault or a number."""
    rows = base.slice(0, 48).to_pylist()
    for row, plant in zip(rows, _PLANTS, strict=False):
        plant(row)
    table = PAIRED_STAMPS.conform(rows)
    audit = VerifyPairs().run(table).to_pylist()
    found = 0
    for row, mine in zip(table.to_pylist(), audit, strict=True):
        theirs = looked_at(row)
        names = set((mine["faults"] or "").split())
        if names != theirs.faults:
            message = f"{row['task_id']}: {names} against {theirs.faults}"
            raise AssertionError(message)
        found += len(names)
        for name, value in theirs.numbers.items():
            if not np.isclose(mine[name], value, rtol=1e-4, atol=1e-4):
                message = f"{row['task_id']}: {name} {mine[name]} against {value}"
                raise AssertionError(message)
    return found


def _changed(column: str, prefix: str, change: Any) -> Any:
    def plant(row: dict[str, Any]) -> None:
        row[column] = encode_planes(prefix, change(decode_planes(row[column], prefix, where="plant").copy()))

    return plant


def _put(value: float, *at: int) -> Any:
    def change(cube: np.ndarray) -> np.ndarray:
        cube[at] = value
        return cube

    return change


def _watermark(cube: np.ndarray) -> np.ndarray:
    cube[1, 0, 0] += 1e-4
    return cube


_PLANTS = [
    _changed("stamp_npz", "image", _put(np.nan, 1, 3, 4)),
    _changed("arc_npz", "arc", _put(np.inf, 2, 30, 30)),
    _changed("ctrl_stamp_npz", "image", _put(0.0, 0)),
    _changed("stamp_npz", "image", _put(2e6, 1, 30, 30)),
    _changed("stamp_npz", "image", _watermark),
    _changed("stamp_npz", "image", lambda c: c[::-1]),
    _changed("ctrl_stamp_npz", "image", lambda c: np.minimum(c, 0.02)),
    _changed("arc_npz", "arc", lambda c: 3 * c),
    _changed("arc_npz", "arc", lambda c: c + 1e-9),
    _changed("stamp_npz", "image", lambda c: c[:, 1:, 1:]),
    lambda row: row.update(stamp_npz=row["stamp_npz"][:-7]),
    lambda row: row.update(ctrl_stamp_npz=row["stamp_npz"]),
    lambda row: row.update(arc_snr=1.1 * row["arc_snr"]),
    lambda row: row.update(arc_snr_mf=None),
    lambda row: row.update(psf_fwhm_arcsec=0.0),
]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Verifying pairs, against a loop with numpy.load.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=250_000)
    parser.add_argument("--peer-pairs", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    result = measure(options.pairs, options.peer_pairs, options.rounds)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<28} {value:,.2f}")


if __name__ == "__main__":
    main()
