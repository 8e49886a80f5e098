"""Four splits that share no sky cell and no host: train, select, calib, test.

train fits the weights, select stops training early, calib sets thresholds, test is opened once. A *group* (a
HEALPix cell, or a host without a sky position) is never cut. Groups are visited in the order of a keyed hash
and each goes to the split that lacks most rows, so that fractions hold even for few cells and nothing depends
on the order of the input.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS, SPLITS_NAMES, STAMPS, Table

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
    snr_floor_mf   train and select positives fainter than this matched-filter S/N are set aside with the code
                   `below_snr_floor`; calib and test have no floor
    """

    seed: int = 42
    fractions: Fractions = Fractions()
    snr_floor_mf: float = 5.0


def plan_splits(
    strata: Sequence[Mapping[str, int]], config: SplitConfig, reserved: Mapping[str, SplitName] | None = None
) -> dict[str, SplitName]:
    """Give every group a split.

    strata     rows per group, one mapping for each source of rows (synthetic sky, real hosts, …): fractions
               are met within each, and a group that stands in several keeps one split
    reserved   groups whose split is already decided, such as the cells of look-alikes, which are test only
    """
    plan: dict[str, SplitName] = dict(reserved or {})
    for counts in strata:
        total = sum(counts.values())
        lacking: dict[SplitName, float] = {
            "train": config.fractions.train * total,
            "select": config.fractions.select * total,
            "calib": config.fractions.calib * total,
            "test": config.fractions.test * total,
        }
        for group in sorted(counts, key=lambda g: _order(config.seed, g)):
            if group not in plan:
                plan[group] = _neediest(lacking, config.fractions)
            lacking[plan[group]] -= counts[group]
    return plan


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
    snr_floor_mf: float = 5.0

    def run(self, batch: pa.Table) -> pa.Table:
        """Paired stamps to splits, row by row."""
        splits = [self.plan[group] for group in batch.column("group").to_pylist()]
        floored = [
            code
            or (
                "below_snr_floor"
                if split in ("train", "select") and (mf or 0.0) < self.snr_floor_mf
                else None
            )
            for code, split, mf in zip(
                batch.column("reject").to_pylist(),
                splits,
                batch.column("arc_snr_mf").to_pylist(),
                strict=True,
            )
        ]
        return _split_rows(batch, "task_id", splits, floored)


class AssignTargetSplits(Job):
    """Write the split of every target that is not a pair: discs, contaminants, known and mock lenses."""

    reads: ClassVar[Table] = STAMPS
    writes: ClassVar[Table] = SPLITS
    columns: ClassVar[tuple[str, ...]] = ("target_id", "host_id", "group", "kind", "reject")

    job: Literal["assign_target_splits"] = "assign_target_splits"
    plan: dict[str, SplitName]

    def run(self, batch: pa.Table) -> pa.Table:
        """Stamps to splits, row by row."""
        splits = [self.plan[group] for group in batch.column("group").to_pylist()]
        return _split_rows(batch, "target_id", splits, batch.column("reject").to_pylist())


def _split_rows(batch: pa.Table, key: str, splits: Sequence[str], rejects: Sequence[str | None]) -> pa.Table:
    return SPLITS.conform(
        {
            "row_id": batch.column(key),
            "target_id": batch.column("target_id"),
            "host_id": batch.column("host_id"),
            "group": batch.column("group"),
            "kind": batch.column("kind"),
            "split": list(splits),
            "reject": list(rejects),
        }
    )
