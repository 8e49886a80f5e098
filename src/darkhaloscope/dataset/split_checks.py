"""Splits over all rows: nothing that two rows share may stand in two of them.

Hosts, groups and targets are compared over all rows. Bricks, source galaxies and images are compared over the
rows that are used: what the guard band set aside is in no split.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkhaloscope.contracts.checks import Check, Finding, Findings, above, below, exactly
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.contracts.tables import SPLITS, SPLITS_NAMES
from darkhaloscope.dataset.signatures import near_duplicates
from darkhaloscope.dataset.splits import Fractions
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
    rows = pa.concat_tables([d.expect(SPLITS).read() for d in splits])
    facts = _facts(rows, data)
    used = facts.filter(pc.is_null(facts.column("reject")))
    found = [_crossing(rows, column, name) for name, (column, _) in OVERLAPS.items()]
    found += [_crossing(used, column, name) for name, (column, _) in USED_OVERLAPS.items()]
    found += [_guard(used), _unassigned(rows, facts, data), *_near(used, audits), *_shares(facts, fractions)]
    return Findings([*found, *_filled(facts)])


_BROUGHT = ("brickname", "source_id", "positive")


def _facts(rows: pa.Table, data: Sequence[Dataset]) -> pa.Table:
    """The rows of the splits with brick, source galaxy and whether they hold an arc; null where unknown."""
    bricks: dict[str, Any] = {}
    for dataset in data:
        pairs = "task_id" in dataset.table.schema.names
        key, source = ("task_id", "source_id") if pairs else ("target_id", None)
        for shard in dataset.keys:
            columns = [key, "brickname", *([source] if source else [])]
            part = dataset.read_shard(shard, columns).to_pydict()
            sources = part[source] if source else [None] * len(part[key])
            bricks |= {
                row: (brick, galaxy, pairs)
                for row, brick, galaxy in zip(part[key], part["brickname"], sources, strict=True)
            }
    facts = [bricks.get(row, (None, None, None)) for row in rows.column("row_id").to_pylist()]
    for k, (name, kind) in enumerate(zip(_BROUGHT, (pa.string(), pa.string(), pa.bool_()), strict=True)):
        rows = rows.append_column(name, pa.array([fact[k] for fact in facts], kind))
    return rows


def _crossing(rows: pa.Table, column: str, name: str) -> Finding:
    known = rows.filter(pc.is_valid(rows.column(column)))
    pieces = known.group_by(column).aggregate([("split", "count_distinct")])
    counts = np.asarray(pieces.column("split_count_distinct"))
    names = np.asarray(pieces.column(column).to_pylist(), dtype=object)
    crossing = sorted(str(value) for value in names[counts > 1])
    return SPLIT_CHECKS[name].measure(len(crossing), n=len(names), examples=crossing[:EXAMPLES])


def _guard(used: pa.Table) -> Finding:
    """Used cells with a used neighbour in another split."""
    pairs = {
        (int(group.removeprefix("cell:")), split)
        for group, split in zip(*(used.column(c).to_pylist() for c in ("group", "split")), strict=True)
        if group.startswith("cell:")
    }
    splits_of: dict[int, set[str]] = {}
    for cell, split in pairs:
        splits_of.setdefault(cell, set()).add(split)
    touching = []
    cells = sorted(splits_of)
    for cell, around in zip(cells, neighbouring_cells(cells) if cells else [], strict=True):
        others = set().union(*(splits_of.get(int(n), set()) for n in around))
        if others - splits_of[cell]:
            touching.append(f"cell:{cell}")
    return SPLIT_CHECKS["split_guard_band"].measure(len(touching), n=len(cells), examples=touching[:EXAMPLES])


def _near(used: pa.Table, audits: Sequence[pa.Table]) -> Iterator[Finding]:
    if not audits:
        return
    columns = ("row_id", "signature_a", "signature_b")
    seen = pa.concat_tables([audit.select(columns) for audit in audits])
    seen = seen.filter(pc.is_valid(seen.column("signature_a")))
    split_of = dict(zip(*(used.column(c).to_pylist() for c in ("row_id", "split")), strict=True))
    names = seen.column("row_id").to_pylist()
    at = np.array([k for k, name in enumerate(names) if name in split_of], dtype=np.intp)
    first, second = (seen.column(c).to_numpy()[at] for c in columns[1:])
    split = np.array([SPLITS_NAMES.index(split_of[names[k]]) for k in at], dtype=np.int8)
    found = near_duplicates(first, second, split)
    examples = [f"{names[at[a]]} = {names[at[b]]}" for a, b in found[:EXAMPLES]]
    yield SPLIT_CHECKS["split_near_duplicates"].measure(len(found), n=len(at), examples=examples)


def _unassigned(rows: pa.Table, facts: pa.Table, data: Sequence[Dataset]) -> Finding:
    assigned = Counter(rows.column("row_id").to_pylist())
    keys = ((d, "task_id" if "task_id" in d.table.schema.names else "target_id") for d in data)
    wanted = [row for d, key in keys for row in d.read([key]).column(key).to_pylist()]
    missing = [row for row in wanted if assigned[row] == 0]
    repeated = [row for row, count in assigned.items() if count > 1]
    faults = missing + repeated
    return SPLIT_CHECKS["split_complete"].measure(
        len(faults), n=len(wanted) or facts.num_rows, examples=faults[:EXAMPLES]
    )


def _shares(facts: pa.Table, fractions: Fractions | None) -> Iterator[Finding]:
    """Shares of all rows that were split, used or not: a floor or a guard band changes no assignment."""
    if fractions is None or not facts.num_rows:
        return
    pairs = facts.filter(pc.equal(facts.column("positive"), pa.scalar(value=True)))
    rows = pairs if pairs.num_rows else facts
    counts = Counter(rows.column("split").to_pylist())
    largest = max(Counter(rows.column("group").to_pylist()).values()) / rows.num_rows
    shares = {name: counts[name] / rows.num_rows for name in SPLITS_NAMES}
    worst = max(abs(shares[name] - getattr(fractions, name)) for name in SPLITS_NAMES)
    text = ", ".join(f"{name} {shares[name]:.2f} of {getattr(fractions, name):g}" for name in SPLITS_NAMES)
    yield SPLIT_CHECKS["split_fractions"].measure(max(worst - largest, 0.0), n=rows.num_rows, detail=text)


def _filled(facts: pa.Table) -> Iterator[Finding]:
    """Each split's used hosts with an arc; a pair brings its own control. Without pairs: its targets."""
    used = facts.filter(pc.is_null(facts.column("reject")))
    pairs = used.filter(pc.equal(used.column("positive"), pa.scalar(value=True)))
    counted = pairs if pc.any(facts.column("positive")).as_py() else used
    kinds = Counter(zip(counted.column("split").to_pylist(), counted.column("kind").to_pylist(), strict=True))
    for split in SPLITS_NAMES:
        yield SPLIT_CHECKS[f"split_{split}_filled"].measure(kinds[split, "lrg"], n=counted.num_rows)
