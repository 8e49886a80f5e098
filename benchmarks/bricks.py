"""Stamps from bricks: our reader against opening the brick for each target, on a mirror in the real layout.

python -m benchmarks.bricks [--json] [--bricks N] [--targets N] [--rounds N] [--folder FOLDER]

The peer is astropy at its best: for every target each coadd is opened and only the tiles under the stamp are
decompressed (`.section`). Both give the same windows, which is checked to the last bit in the same run.
Rounds are interleaved, files are in the page cache, one thread each. `stamps_per_s_per_core` is the whole
job: reading, checks, encoding, Parquet. Put the folder on a disk that is not what is measured (a RAM disk).
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from benchmarks.mirror import write_mirror
from darkhaloscope.contracts.store import local_writer, open_dataset, write_tables
from darkhaloscope.contracts.tables import STAMPS, TARGETS
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.coadds import HarvestBricks
from darkhaloscope.survey.bricks import Mirror, read_brick
from darkhaloscope.survey.cutouts import Cutout
from darkhaloscope.survey.release import RELEASES
from darkhaloscope.survey.targets import by_brick, make_targets

RELEASE = RELEASES["dr10-south"]
SIZE = 64
FEW = 20
"""Targets of a brick of a sparse sample."""
PER_BAND = ("image", "invvar", "nexp", "psfsize")

Brick = tuple[str, np.ndarray, np.ndarray]


def naive(mirror: Mirror, brick: str, ra: float, dec: float, like: Cutout) -> dict[str, Any]:
    """One target: every coadd of its brick is opened, and the section under the stamp read."""
    stem = f"{mirror.folder_of(brick)}/legacysurvey-{brick}"
    with fits.open(f"{stem}-image-g.fits.fz") as units:
        x, y = WCS(units[1].header).world_to_pixel_values(ra, dec)
        height, width = like.image.shape[1:]
        x0, y0 = round(float(x) - like.x_center_pix), round(float(y) - like.y_center_pix)
        window = slice(y0, y0 + height), slice(x0, x0 + width)
        found = {"image-g": units[1].section[window]}
    centre = (slice(round(float(y)), round(float(y)) + 1), slice(round(float(x)), round(float(x)) + 1))
    for key in ("maskbits", *(f"{kind}-{band}" for band in "grz" for kind in PER_BAND)):
        if key not in found:
            with fits.open(f"{stem}-{key}.fits.fz") as units:
                found[key] = units[1].section[centre if key.startswith(("nexp", "psfsize")) else window]
    return found


def _agree(ours: Cutout, theirs: dict[str, Any]) -> bool:
    same = [np.array_equal(ours.image[k], theirs[f"image-{band}"]) for k, band in enumerate("grz")]
    same += [np.array_equal(ours.invvar[k], theirs[f"invvar-{band}"]) for k, band in enumerate("grz")]
    same += [np.array_equal(ours.mask, theirs["maskbits"])]
    same += [ours.row[f"nexp_{band}"] == theirs[f"nexp-{band}"].item() for band in "grz"]
    same += [ours.row[f"psfsize_{band}"] == float(theirs[f"psfsize-{band}"].item()) for band in "grz"]
    return all(same)


def reading(root: Path, bricks: Sequence[Brick], rounds: int, naive_targets: int) -> dict[str, float]:
    """Seconds per target of both readers; raises if one pixel differs."""
    mirror = Mirror(str(root), RELEASE)
    ours, theirs, ratios = [], [], []
    for number in range(rounds):
        name, ra, dec = bricks[number % len(bricks)]
        start = time.perf_counter()
        answers = read_brick(mirror, name, ra.tolist(), dec.tolist(), size=SIZE, bands="grz")
        ours.append((time.perf_counter() - start) / len(ra))
        chosen = range(0, len(ra), max(len(ra) // naive_targets, 1))
        start = time.perf_counter()
        found = [naive(mirror, name, float(ra[k]), float(dec[k]), answers[k]) for k in chosen]
        theirs.append((time.perf_counter() - start) / len(found))
        if not all(_agree(answers[k], other) for k, other in zip(chosen, found, strict=True)):
            message = "the two readers disagree"
            raise AssertionError(message)
        ratios.append(theirs[-1] / ours[-1])
    return {
        "read_ms_per_target": 1e3 * statistics.median(ours),
        "naive_ms_per_target": 1e3 * statistics.median(theirs),
        "ratio_vs_naive": statistics.median(ratios),
        "ratio_vs_naive_least": min(ratios),
        "ratio_vs_naive_most": max(ratios),
    }


def job(root: Path, targets: Path, out: Path) -> dict[str, float]:
    """The whole job on one core, and the most memory the process ever held."""
    task = HarvestBricks(mirror=str(root), release=RELEASE.name)
    source = open_dataset(targets)
    start = time.perf_counter()
    made = run_local(task, source, local_writer(out, STAMPS))
    seconds = time.perf_counter() - start
    rejected = sum(sum(shard.rejects.values()) for shard in made.manifest.shards)
    # Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024.0
    return {"stamps": made.num_rows - rejected, "seconds": seconds, "peak_rss_mb": peak}


def _job_alone(root: Path, bricks: Sequence[Brick], scratch: Path) -> dict[str, float]:
    """The job in a process of its own, over the first bricks."""
    scratch.mkdir()
    table = [
        make_targets(ra, dec, release=RELEASE, source="benchmark", columns={"brickname": [name] * len(ra)})
        for name, ra, dec in bricks
    ]
    writer = local_writer(scratch / "targets", TARGETS)
    write_tables(writer, by_brick(table, scratch / "rows"), job={"job": "benchmark"})
    command = [sys.executable, "-m", "benchmarks.bricks", "--job", str(root), str(scratch)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(said))


def measure(folder: Path, n_bricks: int, targets: int, rounds: int) -> dict[str, Any]:
    """Everything, on a mirror made in `folder`."""
    root = folder / "mirror"
    bricks = write_mirror(root, n_bricks, targets=targets)
    few = max(n_bricks // 4, 1)
    found: dict[str, Any] = {"bricks": n_bricks, "targets_per_brick": targets, "rounds": rounds}
    found |= reading(root, bricks, rounds, naive_targets=50)
    few_targets = [(name, ra[:FEW], dec[:FEW]) for name, ra, dec in bricks]
    found[f"ratio_vs_naive_at_{FEW}_targets"] = reading(root, few_targets, rounds, FEW)["ratio_vs_naive"]
    whole = _job_alone(root, bricks, folder / "whole")
    part = _job_alone(root, bricks[:few], folder / "part")
    return found | {
        "stamps": whole["stamps"],
        "stamps_per_s_per_core": whole["stamps"] / whole["seconds"],
        "job_ms_per_target": 1e3 * whole["seconds"] / (n_bricks * targets),
        "ratio_vs_naive_whole_job": _whole_ratio(found, whole, n_bricks * targets),
        "peak_rss_mb": whole["peak_rss_mb"],
        f"peak_rss_mb_of_{few}_bricks": part["peak_rss_mb"],
    }


def _whole_ratio(found: dict[str, Any], whole: dict[str, float], targets: int) -> float:
    """The same job, were its reader the naive one."""
    ours = 1e3 * whole["seconds"] / targets
    return float((ours - found["read_ms_per_target"] + found["naive_ms_per_target"]) / ours)


def main() -> None:
    """Print a line per figure, or one JSON object."""
    parser = argparse.ArgumentParser(description="Benchmark the brick reader.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bricks", type=int, default=20)
    parser.add_argument("--targets", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--job", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job is not None:
        root, scratch = args.job
        print(json.dumps(job(root, scratch / "targets", scratch / "stamps")))
        return
    folder = Path(tempfile.mkdtemp(prefix="bricks-", dir=args.folder))
    try:
        found = measure(folder, args.bricks, args.targets, args.rounds)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found) if args.json else "\n".join(f"{k:<32} {v:,.4g}" for k, v in found.items()))


if __name__ == "__main__":
    main()
