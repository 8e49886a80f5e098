"""Whether the datasets of a run are what their manifests say, and come from one another as they say.

A figure names its manifest, a manifest its inputs: the walk from a figure to the pixels must not break, and
at its end rows made again must come out as they lie on the disk.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from darkhaloscope import __version__
from darkhaloscope.contracts.checks import Check, Finding, Findings, exactly
from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.contracts.errors import DataError, SchemaMismatch, StoreError
from darkhaloscope.contracts.store import Dataset, open_dataset
from darkhaloscope.injection.inject import Inject

EXAMPLES = 3
REMADE_HOSTS = 8

PROVENANCE_CHECKS = {
    check.name: check
    for check in (
        Check(
            name="provenance_shards",
            bound=exactly(0),
            why="bytes that changed after their commit belong to no job",
        ),
        Check(
            name="provenance_finished",
            bound=exactly(0),
            why="a folder without a manifest is half a dataset",
        ),
        Check(
            name="provenance_inputs",
            bound=exactly(0),
            why="a dataset made from another version of its input mixes two runs",
        ),
        Check(
            name="provenance_recipe",
            bound=exactly(0),
            why="results must carry the prior they were made with, not the one that is described",
        ),
        Check(
            name="provenance_protocol",
            bound=exactly(0),
            why="a protocol that changes while a run is under way is chosen by its results",
        ),
        Check(
            name="provenance_code",
            bound=exactly(0),
            decides=False,
            why="datasets of several code versions may differ for that reason alone",
        ),
        Check(
            name="provenance_results",
            bound=exactly(0),
            why="a figure whose manifest is gone cannot be traced to its pixels",
        ),
        Check(
            name="pair_reproduces",
            bound=exactly(0),
            why="rows made again from their inputs are the rows on the disk: no salted seed, no edit by "
            "hand, no other code",
        ),
    )
}


def check_provenance(run: Path, *, outside: Sequence[Dataset] = ()) -> Findings:
    """Walk every manifest below a run's folder.

    outside   datasets that the run takes from elsewhere, such as hosts
    """
    names = sorted(p.parent.name for p in run.glob("*/job.json"))
    shards, unfinished, found = [], [], {}
    for name in names:
        try:
            dataset = open_dataset(run / name)
            _ = dataset.table
        except (StoreError, SchemaMismatch) as error:
            unfinished.append(str(error))
            continue
        found[name] = dataset
        shards += _changed(dataset)
    n, checks = len(names), PROVENANCE_CHECKS
    return Findings(
        [
            _count("provenance_finished", unfinished, n),
            _count("provenance_shards", shards, sum(len(d.keys) for d in found.values())),
            _count("provenance_inputs", list(_strays(found, outside)), n),
            _code(found.values()) if found else checks["provenance_code"].not_evaluated("no dataset", n=0),
            _results(run, {d.fingerprint for d in (*found.values(), *outside)}),
        ]
    )


def _count(name: str, faults: list[str], n: int) -> Finding:
    return PROVENANCE_CHECKS[name].measure(len(faults), n=n, examples=faults[:EXAMPLES])


def _changed(dataset: Dataset) -> list[str]:
    try:
        dataset.verify()
    except StoreError as error:
        return [str(error)]
    return []


def _strays(found: Mapping[str, Dataset], outside: Sequence[Dataset]) -> Iterator[str]:
    known = {d.fingerprint for d in (*found.values(), *outside)}
    for name, dataset in found.items():
        for role, mark in dataset.manifest.inputs.items():
            if mark not in known:
                yield f"{name}: its {role} {mark} is not here"


def _code(datasets: Iterable[Dataset]) -> Finding:
    other = [d.where for d in datasets if d.manifest.code_version != __version__]
    return _count("provenance_code", other, len(list(datasets)) or len(other))


def _results(run: Path, known: set[str]) -> Finding:
    """Figures of results/metrics.json whose manifests are not in the run."""
    path = run / "results" / "metrics.json"
    if not path.exists():
        check = PROVENANCE_CHECKS["provenance_results"].model_copy(update={"decides": False})
        return check.not_evaluated("there are no results yet", n=0)
    figures = json.loads(path.read_text(encoding="utf-8"))
    lost = [f["name"] for f in figures if not set(f["manifests"]) <= known]
    return _count("provenance_results", lost, len(figures))


def check_run_protocol(changes: Sequence[str]) -> Finding:
    """Whether the run is measured by the protocol it began under."""
    return PROVENANCE_CHECKS["provenance_protocol"].measure(
        len(changes), detail="; ".join(changes), examples=changes[:EXAMPLES]
    )


def check_recipe(pairs: Mapping[str, Dataset], recipe: object) -> Finding:
    """Whether every pair was made by the recipe that the run declares."""
    wanted, other, n = fingerprint(recipe), [], 0
    for dataset in pairs.values():
        rows = dataset.read(["task_id", "recipe_hash"])
        n += rows.num_rows
        odd = rows.filter(pc.not_equal(rows.column("recipe_hash"), wanted))
        other += odd.column("task_id").to_pylist()
    return _count("provenance_recipe", other, n)


def check_reproduction(pairs: Mapping[str, Dataset], sources: Mapping[str, Dataset]) -> Finding:
    """Make a few hosts' pairs again, by the job in their manifest, and compare every cell and bit."""
    differing: list[str] = []
    n = 0
    for name, dataset in pairs.items():
        described = dataset.manifest.job
        if described.get("job") != "inject" or name not in sources or not dataset.keys:
            continue
        job = Inject.model_validate_json(json.dumps(described))
        try:
            rows, odd = _remade(job, dataset, sources[name])
        except DataError as error:  # what cannot be read cannot be made again either
            rows, odd = 1, [f"{name}: {error}"]
        n += rows
        differing += odd
    check = PROVENANCE_CHECKS["pair_reproduces"]
    if not n:
        return check.not_evaluated("no pairs of this run's own injection to make again", n=0, needs_n=1)
    return _count("pair_reproduces", differing, n)


def _remade(job: Inject, pairs: Dataset, source: Dataset) -> tuple[int, list[str]]:
    """How many rows of the last shard were made again, and which came out otherwise."""
    key = pairs.keys[-1]
    stored, hosts = pairs.read_shard(key), source.read_shard(key)
    wanted = pc.unique(stored.column("target_id"))[:REMADE_HOSTS]
    again = job.run(hosts.filter(pc.is_in(hosts.column("target_id"), wanted)))
    held = stored.filter(pc.is_in(stored.column("target_id"), wanted))
    return held.num_rows, _differing(held, again)


def _differing(held: pa.Table, again: pa.Table) -> list[str]:
    """task_id and column of the first cell of each row that differs."""
    rows = {row["task_id"]: row for row in again.to_pylist()}
    out = []
    for row in held.to_pylist():
        other = rows.get(row["task_id"])
        odd = "the row" if other is None else next((c for c in row if row[c] != other[c]), None)
        if odd is not None:
            out.append(f"{row['task_id']} ({odd})")
    return out
