"""Four splits that share no sky cell and no host: train, select, calib, test.

train fits the weights, select stops training early, calib sets thresholds, test is opened once. A *group* (a
HEALPix cell, or a host without a sky position) is never cut. Blocks of groups are visited in the order of a
keyed hash and each goes to the split that lacks most rows, so that fractions hold even for few cells and
nothing depends on the order of the input.

Between cells of two splits lies a *guard band* of a cell: where two neighbours belong to different splits,
the rows of one are set aside (train gives way first, test last). Stamps that overlap, bricks that lie in two
cells and seeing that two cells share then stand in one split. On a sky of scattered cells that costs little;
on a filled one nearly every cell has such a neighbour, so cells are first gathered into blocks, as large as
needed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS, SPLITS_NAMES, STAMPS, Table
from darkhaloscope.survey.release import CELL_NSIDE, neighbouring_cells

CELL = "cell:"
"""How the group of a row in a sky cell begins."""

SplitName = Literal["train", "select", "calib", "test"]


class Fractions(Frozen):
    """Shares of the rows; they add up to one."""

    train: float = 0.6
    select: float = 0.1
    calib: float = 0.1
    test: float = 0.2

    @model_validator(mode="after")
    def _whole(self) -> Self:
        shares = [getattr(self, name) for name in SPLITS_NAMES]
        if abs(sum(shares) - 1.0) > 1e-9 or min(shares) <= 0:
            message = f"must be positive and add up to 1, but they are {shares}"
            raise ValueError(message)
        return self


class SplitConfig(Frozen):
    """How rows are split, and which of them train and select may use.

    seed           orders the groups
    block_nside    cells are gathered into blocks of this HEALPix resolution, each of one split; None: the
                   finest that keeps the fractions and whose guard band costs at most `guard_share` of the
                   rows, else the cheapest that keeps them
    snr_floor_mf   train and select positives fainter than this matched-filter S/N are set aside with the code
                   `below_snr_floor`; calib and test have no floor
    """

    seed: int = 42
    fractions: Fractions = Fractions()
    snr_floor_mf: float = 5.0
    block_nside: Literal[64, 32, 16, 8, 4, 2] | None = None
    guard_share: float = Field(default=0.1, ge=0, le=1)


def plan_splits(
    strata: Sequence[Mapping[str, int]], config: SplitConfig, reserved: Mapping[str, SplitName] | None = None
) -> dict[str, SplitName]:
    """Give every group a split.

    strata     rows per group, one mapping for each source of rows (synthetic sky, real hosts, …): fractions
               are met within each, and a group that stands in several keeps one split
    reserved   groups whose split is already decided, such as the cells of look-alikes, which are test only
    """
    if config.block_nside is not None:
        return _plan(strata, config, reserved or {}, config.block_nside)
    tried: list[tuple[bool, float, dict[str, SplitName]]] = []
    for nside in _BLOCKS:
        plan = _plan(strata, config, reserved or {}, nside)
        cost, off = _guarded_share(strata, plan), _departure(strata, plan, config.fractions) > _TOLERANCE
        if cost <= config.guard_share and not off:
            return plan
        tried.append((off, cost, plan))
    return min(tried, key=lambda found: found[:2])[2]


_TOLERANCE = 0.045


def _departure(
    strata: Sequence[Mapping[str, int]], plan: Mapping[str, SplitName], fractions: Fractions
) -> float:
    """Largest difference between a split's share of all rows and the declared one."""
    rows: dict[str, int] = dict.fromkeys(SPLITS_NAMES, 0)
    for counts in strata:
        for group, n in counts.items():
            rows[plan[group]] += n
    total = max(sum(rows.values()), 1)
    shares = fractions.model_dump()
    return max(abs(rows[name] / total - float(shares[name])) for name in SPLITS_NAMES)


_BLOCKS: tuple[int, ...] = (64, 32, 16, 8, 4, 2)


def _block(group: str, nside: int) -> str:
    """The block a group belongs to: its cell's parent at a coarser resolution, or itself."""
    if nside == CELL_NSIDE or not group.startswith(CELL):
        return group
    return f"block:{nside}:{int(group.removeprefix(CELL)) // (CELL_NSIDE // nside) ** 2}"


def _plan(
    strata: Sequence[Mapping[str, int]],
    config: SplitConfig,
    reserved: Mapping[str, SplitName],
    nside: int,
) -> dict[str, SplitName]:
    """Splits of all groups when the sky is cut into blocks of one resolution."""
    plan: dict[str, SplitName] = dict(reserved)
    blocks: dict[str, SplitName] = {}
    for counts in strata:
        total = sum(counts.values())
        lacking: dict[SplitName, float] = {
            "train": config.fractions.train * total,
            "select": config.fractions.select * total,
            "calib": config.fractions.calib * total,
            "test": config.fractions.test * total,
        }
        members: dict[str, list[str]] = {}
        for group in sorted(counts):
            if group in reserved:
                lacking[plan[group]] -= counts[group]
            else:
                members.setdefault(_block(group, nside), []).append(group)
        for block in sorted(members, key=lambda b: _order(config.seed, b)):
            split = blocks.setdefault(block, _neediest(lacking, config.fractions))
            plan |= dict.fromkeys(members[block], split)
            lacking[split] -= sum(counts[group] for group in members[block])
    return plan


def guard_band(plan: Mapping[str, SplitName]) -> tuple[str, ...]:
    """Groups whose rows are set aside because a neighbouring cell belongs to another split.

    Of two such neighbours the one whose split comes first in train, select, calib, test is set aside.
    """
    split_of = {int(g.removeprefix(CELL)): split for g, split in plan.items() if g.startswith(CELL)}
    if not split_of:
        return ()
    cells = np.array(sorted(split_of))
    rank = np.array([SPLITS_NAMES.index(split_of[cell]) for cell in cells.tolist()])
    around = neighbouring_cells(cells)
    place = np.minimum(np.searchsorted(cells, around), len(cells) - 1)
    beyond = np.where(cells[place] == around, rank[place], -1)
    aside = (beyond > rank[:, None]).any(axis=1)
    return tuple(f"{CELL}{cell}" for cell in cells[aside])


def _guarded_share(strata: Sequence[Mapping[str, int]], plan: Mapping[str, SplitName]) -> float:
    guard = frozenset(guard_band(plan))
    total = sum(sum(counts.values()) for counts in strata)
    return sum(n for counts in strata for group, n in counts.items() if group in guard) / max(total, 1)


def source_shares(fractions: Fractions) -> dict[SplitName, tuple[float, float]]:
    """The part [low, high) of a catalogue of source galaxies that each split's arcs are made of."""
    names: tuple[SplitName, ...] = ("train", "select", "calib", "test")
    shares = fractions.model_dump()
    edges = [0.0, *accumulate(float(shares[name]) for name in names)]
    edges[-1] = 1.0  # whatever the sum was rounded to
    return dict(zip(names, pairwise(edges), strict=True))


def _neediest(lacking: Mapping[SplitName, float], fractions: Fractions) -> SplitName:
    """The split that lacks the largest share of its quota: small splits fill as fast as large ones."""
    return max(lacking, key=lambda name: (lacking[name] / getattr(fractions, name), name))


def _order(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\x1fsplit\x1f{group}".encode()).digest()


def group_counts(rows: pa.Table) -> dict[str, int]:
    """Rows per group of a stamps or paired_stamps table."""
    counts = pc.value_counts(rows.column("group"))
    return {item["values"]: item["counts"] for item in counts.to_pylist()}


class AssignSplits(Job):
    """Write the split of every pair, and set faint train and select positives aside with their code."""

    reads: ClassVar[Table] = PAIRED_STAMPS
    writes: ClassVar[Table] = SPLITS
    columns: ClassVar[tuple[str, ...]] = (
        "task_id", "target_id", "host_id", "group", "kind", "arc_snr_mf", "reject",
    )  # fmt: skip

    job: Literal["assign_splits"] = "assign_splits"
    plan: dict[str, SplitName]
    guard: tuple[str, ...] = ()
    snr_floor_mf: float = 5.0

    def run(self, batch: pa.Table) -> pa.Table:
        """Paired stamps to splits, row by row."""
        splits = [self.plan[group] for group in batch.column("group").to_pylist()]
        columns = (batch.column(name).to_pylist() for name in ("group", "arc_snr_mf"))
        guard = frozenset(self.guard)
        aside = [
            "guard_band" if group in guard else self._below_floor(split, mf)
            for group, mf, split in zip(*columns, splits, strict=True)
        ]
        return _split_rows(batch, "task_id", splits, aside)

    def _below_floor(self, split: str, mf: float | None) -> str | None:
        faint = split in ("train", "select") and (mf or 0.0) < self.snr_floor_mf
        return "below_snr_floor" if faint else None


class AssignTargetSplits(Job):
    """Write the split of every target that is not a pair: discs, contaminants, known and mock lenses."""

    reads: ClassVar[Table] = STAMPS
    writes: ClassVar[Table] = SPLITS
    columns: ClassVar[tuple[str, ...]] = ("target_id", "host_id", "group", "kind", "reject")

    job: Literal["assign_target_splits"] = "assign_target_splits"
    plan: dict[str, SplitName]
    guard: tuple[str, ...] = ()

    def run(self, batch: pa.Table) -> pa.Table:
        """Stamps to splits, row by row."""
        groups = batch.column("group").to_pylist()
        guard = frozenset(self.guard)
        aside = ["guard_band" if group in guard else None for group in groups]
        return _split_rows(batch, "target_id", [self.plan[group] for group in groups], aside)


def _split_rows(batch: pa.Table, key: str, splits: Sequence[str], aside: Sequence[str | None]) -> pa.Table:
    """Rows of SPLITS; what the data rejected keeps its code, others get that of why they are set aside."""
    own = batch.column("reject").to_pylist()
    return SPLITS.conform(
        {
            "row_id": batch.column(key),
            "target_id": batch.column("target_id"),
            "host_id": batch.column("host_id"),
            "group": batch.column("group"),
            "kind": batch.column("kind"),
            "split": list(splits),
            "reject": [code or other for code, other in zip(own, aside, strict=True)],
        }
    )
