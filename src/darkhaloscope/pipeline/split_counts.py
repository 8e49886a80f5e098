"""What is counted of splits before they are judged, by Spark: the twin of `split_checks` in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from darkhaloscope.contracts.store import Dataset
from darkhaloscope.contracts.tables import PAIR_AUDIT, SPLITS
from darkhaloscope.dataset.signatures import PIECE_BITS, PIECES, SAME_BITS
from darkhaloscope.dataset.split_checks import (
    EXAMPLES,
    OVERLAPS,
    USED_OVERLAPS,
    Shared,
    SplitCounts,
    in_order,
    is_pairs,
    row_key,
)
from darkhaloscope.dataset.splits import CELL
from darkhaloscope.runners.catalogue import Catalogue

_USED = "reject IS NULL"
_COLUMNS = {name: f"`{name}`" for name in SPLITS.schema.names}


def counts_by_spark(
    catalogue: Catalogue,
    splits: Sequence[Dataset],
    *,
    data: Sequence[Dataset] = (),
    audits: Sequence[Dataset] = (),
) -> SplitCounts:
    """As `check_splits` counts, of datasets of any size; the arguments are its own, audits as datasets."""
    catalogue.table("splits", [(d.expect(SPLITS), _COLUMNS) for d in splits])
    catalogue.table("data", [(d, _brought(d)) for d in data] or [(splits[0], _brought(None))])
    # A row that stands twice in the data counts once here, and as a fault where it stands in two splits.
    catalogue.keep(
        "facts",
        """SELECT s.*, b.brickname, b.source_id, b.positive FROM splits s LEFT JOIN (
             SELECT row_id, max(brickname) brickname, max(source_id) source_id, max(positive) positive
             FROM data WHERE row_id IS NOT NULL GROUP BY row_id) b ON s.row_id = b.row_id""",
    )
    try:
        return _counts(catalogue, audits)
    finally:
        catalogue.forget()


def _brought(data: Dataset | None) -> Mapping[str, str]:
    """What a dataset that was split says of its rows; without one, rows that say nothing."""
    if data is None:
        nothing = "CAST(NULL AS STRING)"
        absent = dict.fromkeys(("row_id", "brickname", "source_id"), nothing)
        return {**absent, "positive": "CAST(NULL AS BOOLEAN)"}
    pairs = is_pairs(data)
    return {
        "row_id": row_key(data),
        "brickname": "brickname",
        "source_id": "source_id" if pairs else "CAST(NULL AS STRING)",
        "positive": "true" if pairs else "false",
    }


def _counts(catalogue: Catalogue, audits: Sequence[Dataset]) -> SplitCounts:
    shared = {name: _shared(catalogue, column, "true") for name, (column, _) in OVERLAPS.items()}
    shared |= {name: _shared(catalogue, column, _USED) for name, (column, _) in USED_OVERLAPS.items()}
    rows = catalogue.ask(
        f"SELECT positive, {_USED} AS used, split, kind, count(*) n FROM facts GROUP BY 1, 2, 3, 4"
    )
    cells = catalogue.ask(
        f"SELECT DISTINCT `group`, split FROM facts WHERE {_USED} AND startswith(`group`, '{CELL}')"
    )
    of = "positive" if any(row["positive"] for row in rows) else "true"
    (largest,) = catalogue.ask(
        f"SELECT coalesce(max(n), 0) n FROM (SELECT count(*) n FROM facts WHERE {of} GROUP BY `group`)"
    )
    (wanted,) = catalogue.ask("SELECT count(row_id) n FROM data")
    return SplitCounts(
        shared=shared,
        cells={(row["group"], row["split"]) for row in cells},
        wanted=wanted["n"],
        unassigned=_unassigned(catalogue),
        rows={(r["positive"], r["used"], r["split"], r["kind"]): r["n"] for r in rows},
        largest_group=largest["n"],
        near=_near(catalogue, audits) if audits else None,
    )


def _shared(catalogue: Catalogue, column: str, rows: str) -> Shared:
    sets = f"""SELECT `{column}` AS name, sort_array(collect_set(split)) AS splits FROM facts
               WHERE `{column}` IS NOT NULL AND {rows} GROUP BY `{column}`"""
    counted = catalogue.ask(f"SELECT splits, count(*) n FROM ({sets}) GROUP BY splits")
    together = {in_order(row["splits"]): row["n"] for row in counted if len(row["splits"]) > 1}
    examples: list[dict[str, Any]] = []
    if together:
        crossing = f"SELECT name FROM ({sets}) WHERE size(splits) > 1 ORDER BY name LIMIT {EXAMPLES}"
        examples = catalogue.ask(crossing)
    return Shared(sum(row["n"] for row in counted), together, tuple(row["name"] for row in examples))


def _unassigned(catalogue: Catalogue) -> tuple[int, tuple[str, ...]]:
    """Rows that are in no split, then rows that are in several."""
    missing = """SELECT d.row_id FROM data d LEFT ANTI JOIN splits s ON d.row_id = s.row_id
                 WHERE d.row_id IS NOT NULL"""
    repeated = "SELECT row_id FROM splits GROUP BY row_id HAVING count(*) > 1"
    faults, examples = 0, []
    for found in (missing, repeated):
        (row,) = catalogue.ask(f"SELECT count(*) n FROM ({found})")
        faults += row["n"]
        if row["n"]:
            examples += catalogue.ask(f"SELECT row_id FROM ({found}) ORDER BY row_id LIMIT {EXAMPLES}")
    return faults, tuple(row["row_id"] for row in examples[:EXAMPLES])


def _near(catalogue: Catalogue, audits: Sequence[Dataset]) -> tuple[int, int, tuple[str, ...]]:
    """Rows that share a piece of their signatures are compared, as `near_duplicates` does."""
    columns = {"row_id": "row_id", "a": "signature_a", "b": "signature_b"}
    catalogue.table("audits", [(d.expect(PAIR_AUDIT), columns) for d in audits])
    digits = PIECE_BITS // 4  # hexadecimal
    catalogue.keep(
        "seen",
        f"""SELECT f.row_id, f.split, u.a, u.b,
              concat(lpad(hex(u.a), 16, '0'), lpad(hex(u.b), 16, '0')) AS word
            FROM audits u JOIN (SELECT row_id, max(split) split FROM facts WHERE {_USED} GROUP BY row_id) f
              ON u.row_id = f.row_id WHERE u.a IS NOT NULL""",
    )
    (seen,) = catalogue.ask("SELECT count(*) n FROM seen")
    pieces = f"""SELECT *, piece, substr(word, piece * {digits} + 1, {digits}) AS code FROM seen
                 LATERAL VIEW explode(sequence(0, {PIECES - 1})) AS piece"""
    catalogue.keep(
        "twins",
        f"""WITH pieces AS ({pieces}) SELECT DISTINCT x.row_id AS one, y.row_id AS other
            FROM pieces x JOIN pieces y ON x.piece = y.piece AND x.code = y.code AND x.row_id < y.row_id
            WHERE x.split <> y.split AND bit_count(x.a ^ y.a) + bit_count(x.b ^ y.b) <= {SAME_BITS}""",
    )
    (near,) = catalogue.ask("SELECT count(*) n FROM twins")
    first = catalogue.ask(f"SELECT one, other FROM twins ORDER BY one, other LIMIT {EXAMPLES}")
    return seen["n"], near["n"], tuple(f"{row['one']} = {row['other']}" for row in first)
