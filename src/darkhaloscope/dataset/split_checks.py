"""Splits over all rows: nothing that two rows share may stand in two of them.

Hosts, groups and targets are compared over all rows. Bricks, source galaxies and images are compared over the
rows that are used: what the guard band set aside is in no split.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkhaloscope.contracts.checks import Check, Finding, Findings, above, below, exactly
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.contracts.tables import SPLITS, SPLITS_NAMES
from darkhaloscope.dataset.signatures import near_duplicates
from darkhaloscope.dataset.splits import CELL, Fractions
from darkhaloscope.survey.release import neighbouring_cells

EXAMPLES = 3
FRACTION_TOLERANCE = 0.05

OVERLAPS = {
    "split_host_overlap": ("host_id", "a host in two splits lets the test be learned by heart"),
    "split_group_overlap": ("group", "a sky cell in two splits shares seeing, depth and neighbours"),
    "split_target_overlap": ("target_id", "a target in two splits is the same image twice"),
}
USED_OVERLAPS = {
    "split_brick_overlap": ("brickname", "a brick in two splits shares its exposures and its overlaps"),
    "split_source_overlap": ("source_id", "a source galaxy in two splits is the same arc light twice"),
}
SPLIT_CHECKS = {
    **{name: Check(name=name, bound=exactly(0), why=why) for name, (_, why) in OVERLAPS.items()},
    **{name: Check(name=name, bound=exactly(0), why=why) for name, (_, why) in USED_OVERLAPS.items()},
    "split_guard_band": Check(
        name="split_guard_band",
        bound=exactly(0),
        why="neighbouring cells in two splits share overlapping stamps and the same nights",
    ),
    "split_near_duplicates": Check(
        name="split_near_duplicates",
        bound=exactly(0),
        why="one image under two names, in two splits, is a test question seen in training",
    ),
    "split_complete": Check(
        name="split_complete", bound=exactly(0), why="every row belongs to exactly one split"
    ),
    "split_fractions": Check(
        name="split_fractions",
        bound=below(FRACTION_TOLERANCE),
        why="shares other than the declared ones mean that splits were swapped or lost "
        "[largest departure, less the share of the largest group]",
    ),
    **{
        f"split_{split}_filled": Check(
            name=f"split_{split}_filled",
            bound=above(0),
            why="a split needs arcs and galaxies without one: the fewer of the two",
        )
        for split in SPLITS_NAMES
    },
}


@dataclass(frozen=True)
class Shared:
    """Values of one column by the splits they stand in.

    n          values that are known
    together   how many stand in a set of several splits, by that set (in the order of SPLITS_NAMES)
    examples   the first of those, in their own order
    """

    n: int
    together: Mapping[tuple[str, ...], int]
    examples: tuple[str, ...]

    @property
    def intersections(self) -> str:
        """Sizes of the pairwise intersections of splits that are not empty, in words."""
        sizes = {
            (a, b): sum(n for names, n in self.together.items() if {a, b} <= {*names})
            for a, b in combinations(SPLITS_NAMES, 2)
        }
        return ", ".join(f"{a} and {b} {n}" for (a, b), n in sizes.items() if n)


@dataclass(frozen=True)
class SplitCounts:
    """All that is counted over rows before splits are judged; any engine may count.

    shared          by the name of the check
    cells           (group, split) of the used rows in sky cells
    wanted          rows of the datasets that were split
    unassigned      rows without a split and with several, and the first of each
    rows            how many by (whether it is a pair or None, used, split, kind)
    largest_group   rows of the largest group among the pairs, or among all rows where there are no pairs
    near            rows that were compared, near-duplicates between splits, the first; None: not looked for
    """

    shared: Mapping[str, Shared]
    cells: Collection[tuple[str, str]]
    wanted: int
    unassigned: tuple[int, tuple[str, ...]]
    rows: Mapping[tuple[bool | None, bool, str, str], int]
    largest_group: int
    near: tuple[int, int, tuple[str, ...]] | None = None


def check_splits(
    splits: Sequence[Dataset],
    *,
    data: Sequence[Dataset] = (),
    audits: Sequence[pa.Table] = (),
    fractions: Fractions | None = None,
) -> Findings:
    """Everything that two splits must not share, and that each must have.

    splits      one dataset for each source of rows
    data        the datasets that were split: all their rows must be there; pairs among them bring the bricks
                and the source galaxies
    audits      PAIR_AUDIT rows of the pairs, for near-duplicate images
    fractions   the declared shares
    """
    return judge_splits(_count(splits, data, audits), fractions)


def judge_splits(counts: SplitCounts, fractions: Fractions | None = None) -> Findings:
    """The findings of `check_splits` from what was counted."""
    found = [
        SPLIT_CHECKS[name].measure(
            sum(shared.together.values()), n=shared.n, detail=shared.intersections, examples=shared.examples
        )
        for name, shared in counts.shared.items()
    ]
    faults, examples = counts.unassigned
    n = counts.wanted or sum(counts.rows.values())
    found += [_guard(counts.cells), SPLIT_CHECKS["split_complete"].measure(faults, n=n, examples=examples)]
    if counts.near is not None:
        seen, near, twins = counts.near
        found.append(SPLIT_CHECKS["split_near_duplicates"].measure(near, n=seen, examples=twins))
    return Findings([*found, *_shares(counts, fractions), *_filled(counts)])


def _count(splits: Sequence[Dataset], data: Sequence[Dataset], audits: Sequence[pa.Table]) -> SplitCounts:
    """Everything in memory."""
    rows = pa.concat_tables([d.expect(SPLITS).read() for d in splits])
    facts = _facts(rows, data)
    used = facts.filter(pc.is_null(facts.column("reject")))
    shared = {name: _shared(rows, column) for name, (column, _) in OVERLAPS.items()}
    shared |= {name: _shared(used, column) for name, (column, _) in USED_OVERLAPS.items()}
    wanted, faults, examples = _unassigned(rows, data)
    pairs = facts.filter(pc.equal(facts.column("positive"), pa.scalar(value=True)))
    groups = Counter((pairs if pairs.num_rows else facts).column("group").to_pylist())
    names = zip(*(facts.column(c).to_pylist() for c in ("positive", "reject", "split", "kind")), strict=True)
    return SplitCounts(
        shared=shared,
        cells={
            (group, split)
            for group, split in zip(*(used.column(c).to_pylist() for c in ("group", "split")), strict=True)
            if group.startswith(CELL)
        },
        wanted=wanted,
        unassigned=(faults, examples),
        rows=Counter((positive, reject is None, split, kind) for positive, reject, split, kind in names),
        largest_group=max(groups.values(), default=0),
        near=_near(used, audits) if audits else None,
    )


_BROUGHT = ("brickname", "source_id", "positive")


def _facts(rows: pa.Table, data: Sequence[Dataset]) -> pa.Table:
    """The rows of the splits with brick, source galaxy and whether they hold an arc; null where unknown."""
    bricks: dict[str, Any] = {}
    for dataset in data:
        key, source = row_key(dataset), "source_id" if is_pairs(dataset) else None
        for shard in dataset.keys:
            columns = [key, "brickname", *([source] if source else [])]
            part = dataset.read_shard(shard, columns).to_pydict()
            sources = part[source] if source else [None] * len(part[key])
            bricks |= {
                row: (brick, galaxy, source is not None)
                for row, brick, galaxy in zip(part[key], part["brickname"], sources, strict=True)
            }
    facts = [bricks.get(row, (None, None, None)) for row in rows.column("row_id").to_pylist()]
    for k, (name, kind) in enumerate(zip(_BROUGHT, (pa.string(), pa.string(), pa.bool_()), strict=True)):
        rows = rows.append_column(name, pa.array([fact[k] for fact in facts], kind))
    return rows


def is_pairs(data: Dataset) -> bool:
    """Whether the rows that were split are pairs, each with an arc of its own."""
    return "task_id" in data.table.schema.names


def row_key(data: Dataset) -> str:
    """The column of a dataset that a split's `row_id` names."""
    return "task_id" if is_pairs(data) else "target_id"


def _shared(rows: pa.Table, column: str) -> Shared:
    known = rows.filter(pc.is_valid(rows.column(column)))
    pieces = known.group_by(column).aggregate([("split", "count_distinct"), ("split", "distinct")])
    crossing = pieces.filter(pc.greater(pieces.column("split_count_distinct"), 1))
    together = Counter(in_order(names) for names in crossing.column("split_distinct").to_pylist())
    values = sorted(crossing.column(column).to_pylist())
    return Shared(pieces.num_rows, together, tuple(values[:EXAMPLES]))


def in_order(splits: Iterable[str]) -> tuple[str, ...]:
    """A set of splits in the order of SPLITS_NAMES."""
    return tuple(sorted(splits, key=SPLITS_NAMES.index))


def _guard(cells: Iterable[tuple[str, str]]) -> Finding:
    """Used cells with a used neighbour in another split."""
    splits_of: dict[int, set[str]] = {}
    for group, split in cells:
        splits_of.setdefault(int(group.removeprefix(CELL)), set()).add(split)
    touching = []
    numbers = sorted(splits_of)
    for cell, around in zip(numbers, neighbouring_cells(numbers) if numbers else [], strict=True):
        others = set().union(*(splits_of.get(int(n), set()) for n in around))
        if others - splits_of[cell]:
            touching.append(f"{CELL}{cell}")
    return SPLIT_CHECKS["split_guard_band"].measure(
        len(touching), n=len(numbers), examples=touching[:EXAMPLES]
    )


def _near(used: pa.Table, audits: Sequence[pa.Table]) -> tuple[int, int, tuple[str, ...]]:
    columns = ("row_id", "signature_a", "signature_b")
    seen = pa.concat_tables([audit.select(columns) for audit in audits])
    seen = seen.filter(pc.is_valid(seen.column("signature_a")))
    split_of = dict(zip(*(used.column(c).to_pylist() for c in ("row_id", "split")), strict=True))
    names = seen.column("row_id").to_pylist()
    at = np.array([k for k, name in enumerate(names) if name in split_of], dtype=np.intp)
    first, second = (seen.column(c).to_numpy()[at] for c in columns[1:])
    split = np.array([SPLITS_NAMES.index(split_of[names[k]]) for k in at], dtype=np.int8)
    found = near_duplicates(first, second, split)
    twins = sorted(tuple(sorted((names[at[a]], names[at[b]]))) for a, b in found)
    return len(at), len(found), tuple(f"{a} = {b}" for a, b in twins[:EXAMPLES])


def _unassigned(rows: pa.Table, data: Sequence[Dataset]) -> tuple[int, int, tuple[str, ...]]:
    """How many rows were to be split, how many have no split or several, and the first of those."""
    assigned = Counter(rows.column("row_id").to_pylist())
    wanted = [row for d in data for row in d.read([row_key(d)]).column(0).to_pylist()]
    missing = sorted(row for row in wanted if assigned[row] == 0)
    repeated = sorted(row for row, count in assigned.items() if count > 1)
    return len(wanted), len(missing) + len(repeated), tuple((missing + repeated)[:EXAMPLES])


def _shares(counts: SplitCounts, fractions: Fractions | None) -> Iterator[Finding]:
    """Shares of all rows that were split, used or not: a floor or a guard band changes no assignment."""
    if fractions is None or not counts.rows:
        return
    by_split: Counter[str] = Counter()
    for (_, _, split, _), n in _pairs_or_all(counts).items():
        by_split[split] += n
    total = by_split.total()
    shares = {name: by_split[name] / total for name in SPLITS_NAMES}
    worst = max(abs(shares[name] - getattr(fractions, name)) for name in SPLITS_NAMES)
    text = ", ".join(f"{name} {shares[name]:.2f} of {getattr(fractions, name):g}" for name in SPLITS_NAMES)
    value = max(worst - counts.largest_group / total, 0.0)
    yield SPLIT_CHECKS["split_fractions"].measure(value, n=total, detail=text)


def _pairs_or_all(counts: SplitCounts) -> dict[tuple[bool | None, bool, str, str], int]:
    pairs = {key: n for key, n in counts.rows.items() if key[0]}
    return pairs or dict(counts.rows)


def _filled(counts: SplitCounts) -> Iterator[Finding]:
    """Each split's used hosts with an arc; a pair brings its own control. Without pairs: its targets."""
    kinds: Counter[tuple[str, str]] = Counter()
    for (_, used, split, kind), n in _pairs_or_all(counts).items():
        kinds[split, kind] += n * used
    for split in SPLITS_NAMES:
        yield SPLIT_CHECKS[f"split_{split}_filled"].measure(kinds[split, "lrg"], n=kinds.total())
