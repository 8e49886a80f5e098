"""Checks before training: every fault that can be found in the data is found before time is spent on it.

All rows are read, shard by shard, so memory does not grow with the dataset. Each fault has a finding of its
own name, with a count that must be zero and the keys of the first rows that show it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkhaloscope.contracts.checks import Bound, Check, Finding, Findings, above, exactly
from darkhaloscope.contracts.errors import StampError
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS, SPLITS_NAMES
from darkhaloscope.stamps import measure
from darkhaloscope.stamps.stamp import decode_planes, decode_stamp
from darkhaloscope.survey.release import BANDS

LARGEST_FLUX_NMGY = 1e6
SMALLEST_VARIANCE = 1e-10
ARC_SNR_TOLERANCE = 0.01
RESIDUAL_SIGMAS = 8.0
EXAMPLES = 3


def _zero(name: str, why: str) -> Check:
    return Check(name=name, bound=exactly(0), why=why)


PAIR_CHECKS = {
    name: _zero(name, why)
    for name, why in {
        "pair_decodes": "a blob that cannot be read is not data",
        "pair_shape": "stamp, control and arc are the same size and have g, r and z",
        "pair_finite": "one NaN stamp makes the loss NaN hundreds of batches later",
        "pair_range": "fluxes beyond ±1e6 nmgy are a unit mistake",
        "pair_variance": "a constant band is missing data, not sky",
        "pair_identical": "a control equal to its stamp is a mislabelled negative",
        "sham_identical": "an injection of zero flux must leave every pixel as it was",
        "pair_residual": "stamp minus control must be the declared arc, within its shot noise",
        "pair_arc_snr": "the recorded arc_snr must be what the pixels say",
    }.items()
}


@dataclass
class _Tally:
    """Rows that broke each check, with the first few keys."""

    rows: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, key: str) -> None:
        self.broken[name] += 1
        seen = self.examples.setdefault(name, [])
        if len(seen) < EXAMPLES:
            seen.append(key)

    def finding(self, check: Check) -> Finding:
        return check.measure(self.broken[check.name], n=self.rows, examples=self.examples.get(check.name, ()))


def check_pairs(pairs: Dataset, *, sham: bool = False) -> Findings:
    """Every pair, pixel by pixel. In a sham, stamp and control must be equal instead of different."""
    pairs.expect(PAIRED_STAMPS)
    tally = _Tally()
    findings: list[Finding] = []
    for key in pairs.keys:
        rows = pairs.read_shard(key)
        findings += [f for f in PAIRED_STAMPS.check(rows) if not f.passed]
        for row in rows.to_pylist():
            if row["reject"] is None:
                tally.rows += 1
                for fault in _pair_faults(row):
                    tally.add(fault, row["task_id"])
    if not findings:
        name = f"schema_{PAIRED_STAMPS.name}"
        findings = [_zero(name, "rows that break the declared table").measure(0, n=pairs.num_rows)]
    left_out = ("pair_identical", "pair_arc_snr") if sham else ("sham_identical",)
    checks = [c for c in PAIR_CHECKS.values() if c.name not in left_out]
    if tally.rows == 0:
        return Findings(findings) + [
            c.not_evaluated("there is no pair to look at", n=0, needs_n=1) for c in checks
        ]
    return Findings(findings) + [tally.finding(check) for check in checks]


def _pair_faults(row: dict[str, object]) -> Iterator[str]:
    """Names of the checks that one pair breaks."""
    try:
        cubes, bands = _decode(row)
    except StampError:
        yield "pair_decodes"
        return
    stamp, control, arc, invvar = cubes
    if bands < len(BANDS):
        yield "pair_variance"
        return
    if not stamp.shape == control.shape == arc.shape == invvar.shape or stamp.shape[0] != len(BANDS):
        yield "pair_shape"
        return
    if not all(np.isfinite(cube).all() for cube in cubes):
        yield "pair_finite"
        return
    if max(np.abs(stamp).max(), np.abs(control).max()) > LARGEST_FLUX_NMGY:
        yield "pair_range"
    if min(stamp.var(axis=(1, 2)).min(), control.var(axis=(1, 2)).min()) < SMALLEST_VARIANCE:
        yield "pair_variance"
    if np.array_equal(stamp, control):
        yield "pair_identical"
    else:
        yield "sham_identical"
        if _residual_sigmas(stamp, control, arc, invvar) > RESIDUAL_SIGMAS:
            yield "pair_residual"
    declared = row["arc_snr"]
    found = float(measure.arc_snr(arc, _without_arc(invvar, arc, row)))
    if not isinstance(declared, float) or abs(found - declared) > ARC_SNR_TOLERANCE * max(declared, 1e-3):
        yield "pair_arc_snr"


def _decode(row: dict[str, object]) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], int]:
    """Stamp, control, arc and invvar, and how many bands both images have: a constant one is absent."""
    where = str(row["task_id"])
    blobs = {name: row[name] for name in ("stamp_npz", "ctrl_stamp_npz", "arc_npz", "invvar_npz")}
    for name, blob in blobs.items():
        if not isinstance(blob, bytes):
            raise StampError(where, f"has no {name}", "a row without pixels needs a reject code")
    stamp, bands = decode_stamp(row["stamp_npz"], where=where, allow_missing=True)  # type: ignore[arg-type]
    control, of_control = decode_stamp(row["ctrl_stamp_npz"], where=where, allow_missing=True)  # type: ignore[arg-type]
    arc = decode_planes(row["arc_npz"], "arc", where=where)  # type: ignore[arg-type]
    invvar = decode_planes(row["invvar_npz"], "invvar", where=where)  # type: ignore[arg-type]
    return (stamp, control, arc, invvar), min(len(bands), len(of_control))


def _without_arc(invvar: np.ndarray, arc: np.ndarray, row: dict[str, object]) -> np.ndarray:
    """The inverse variance before the arc's photons were added: S/N columns are defined on the control's."""
    gain = np.array([row[f"gain_{band}"] for band in BANDS], dtype=float).reshape(-1, 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = 1.0 / invvar - np.maximum(arc, 0.0) / gain
        return np.where(invvar > 0, 1.0 / variance, 0.0)


def _residual_sigmas(stamp: np.ndarray, control: np.ndarray, arc: np.ndarray, invvar: np.ndarray) -> float:
    """Largest departure of stamp - control from the declared arc, in units of the pixel noise.

    The shot noise of the arc is part of that pixel noise, so a right pair stays below five even over millions
    of pixels; an arc in the wrong band, place or unit does not.
    """
    return float((np.abs(stamp - control - arc) * np.sqrt(np.maximum(invvar, 0.0))).max())


def check_splits(splits: Sequence[Dataset], *, pairs: Sequence[Dataset] = ()) -> Findings:
    """No host and no group in two splits, every row assigned once, every split filled with usable pairs.

    splits   one dataset for each source of rows
    pairs    the datasets of pairs among what was split: their rows must all be there
    """
    rows = pa.concat_tables([d.expect(SPLITS).read() for d in splits])
    found = [
        _crossing(
            rows, "host_id", "split_host_overlap", "a host in two splits lets the test be learned by heart"
        ),
        _crossing(
            rows,
            "group",
            "split_group_overlap",
            "a sky cell in two splits shares seeing, depth and neighbours",
        ),
        _crossing(
            rows, "target_id", "split_target_overlap", "a target in two splits is the same image twice"
        ),
    ]
    wanted = [task for d in pairs for task in d.read(["task_id"]).column("task_id").to_pylist()]
    counted = rows.filter(pc.is_in(rows.column("row_id"), pa.array(wanted, pa.string()))) if pairs else rows
    return Findings([*found, _unassigned(rows, wanted), *_filled(counted)])


def _crossing(rows: pa.Table, column: str, name: str, why: str) -> Finding:
    pieces = rows.group_by(column).aggregate([("split", "count_distinct")])
    counts = np.asarray(pieces.column("split_count_distinct"))
    names = np.asarray(pieces.column(column).to_pylist(), dtype=object)
    crossing = sorted(str(value) for value in names[counts > 1])
    return _zero(name, why).measure(len(crossing), n=len(names), examples=crossing[:EXAMPLES])


def _unassigned(rows: pa.Table, wanted: Sequence[str]) -> Finding:
    assigned = Counter(rows.column("row_id").to_pylist())
    missing = [task for task in wanted if assigned[task] == 0]
    repeated = [row for row, count in assigned.items() if count > 1]
    faults = missing + repeated
    check = _zero("split_complete", "every row belongs to exactly one split")
    return check.measure(len(faults), n=len(wanted) or rows.num_rows, examples=faults[:EXAMPLES])


def _filled(rows: pa.Table) -> Iterator[Finding]:
    used = rows.filter(pc.is_null(rows.column("reject")))
    kinds = Counter(zip(used.column("split").to_pylist(), used.column("kind").to_pylist(), strict=True))
    for split in SPLITS_NAMES:
        check = Check(
            name=f"split_{split}_filled", bound=above(0), why="a split without hosts measures nothing"
        )
        yield check.measure(kinds[split, "lrg"], n=used.num_rows)


def check_lookalikes(
    categories: Counter[str], anchors: int, minima: dict[str, int], min_anchors: int
) -> Findings:
    """Enough contaminants of each class and enough anchors for the figures that use them."""
    found = []
    for category, least in minima.items():
        bound = Bound(direction="above", low=least - 1)
        check = Check(
            name=f"contaminants_{category}", bound=bound, why=f"at least {least} of the class are asked for"
        )
        found.append(check.measure(categories[category], n=sum(categories.values())))
    check = Check(
        name="anchors_count",
        bound=Bound(direction="above", low=min_anchors - 1),
        why=f"at least {min_anchors} lenses are asked for",
    )
    return Findings([*found, check.measure(anchors, n=anchors)])
