"""`dhs compare`: finished runs, arm against arm, from the scores that they keep.

What is read of a run, and nothing else: `config.yaml`, `protocol.json`, `splits-…`, `results/seeds.json`, and
for its network and each of `seeds/N` the datasets `scores-…`. Nothing is trained, scored or made. A run that
lacks any of it is refused by name: an arm never loses a seed in silence.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from darkhaloscope import __version__
from darkhaloscope.contracts.config import fingerprint, parse
from darkhaloscope.contracts.errors import ConfigError, DataError, SplitLeakage
from darkhaloscope.contracts.lock import differences, plain
from darkhaloscope.contracts.measured import HostDomain
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.contracts.store import Dataset, open_dataset
from darkhaloscope.contracts.tables import SCORES, SPLITS
from darkhaloscope.evaluation.ablation import Arm, compare
from darkhaloscope.evaluation.endpoints import Network
from darkhaloscope.evaluation.samples import split_rows
from darkhaloscope.pipeline.data import HOSTS, SKY
from darkhaloscope.pipeline.experiment import RUN_PROTOCOL, Experiment, held_experiment
from darkhaloscope.pipeline.openings import Openings
from darkhaloscope.pipeline.seeds import SEEDS
from darkhaloscope.report.comparison import (
    ArmFacts,
    MasterTable,
    read_comparison,
    summary,
    write_comparison,
)
from darkhaloscope.report.paper import PAPER

LOOKALIKES = ("anchors", "lenses")
"""Scores of targets that are test rows all of them, where a run has any."""

SPLIT_OF_TRAINING = ("train", "select")
"""Splits that a network was fitted to, or chosen by."""


@dataclass(frozen=True)
class _Scored:
    """One network's SCORES by name, each the whole dataset."""

    seed: int
    folder: Path
    scores: Mapping[str, Dataset]

    @cached_property
    def checkpoint(self) -> str:
        """SHA-256 of the network, the same for all scores."""
        found = {str(d.manifest.job.get("checkpoint_sha256", "")) for d in self.scores.values()}
        if len(found) > 1:
            raise DataError(str(self.folder), "holds scores of several networks", "score it in one folder")
        return found.pop()


@dataclass(frozen=True)
class _Run:
    """A finished run in a folder."""

    folder: Path
    experiment: Experiment
    protocol: Protocol

    @classmethod
    def of(cls, folder: Path) -> "_Run":
        kept = folder / RUN_PROTOCOL
        experiment = held_experiment(folder)
        if not kept.exists():
            raise DataError(str(kept), "is not there: what the run is measured by is unknown", "run it again")
        protocol = parse(json.loads(kept.read_text(encoding="utf-8")), Protocol, str(kept))
        return cls(folder, experiment, protocol)

    @property
    def targets(self) -> tuple[str, ...]:
        survey = self.experiment.survey
        return ((SKY,) if survey.targets_per_brick else ()) + ((HOSTS,) if survey.hosts is not None else ())

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what is split, in the order in which a run reads them."""
        return (*(f"pairs-{name}" for name in self.targets), *self.targets)

    @cached_property
    def splits(self) -> dict[str, Dataset]:
        return {name: _opened(self.folder / f"splits-{name}").expect(SPLITS) for name in self.sources}

    @cached_property
    def networks(self) -> tuple[_Scored, ...]:
        """The run's own network and that of each further seed."""
        folders = {self.experiment.training.seed: self.folder}
        others = self.folder / "seeds"
        for folder in sorted(others.iterdir()) if others.is_dir() else ():
            if not folder.name.isdecimal() or int(folder.name) in folders:
                raise DataError(str(folder), "is not the folder of a further seed", "move it elsewhere")
            folders[int(folder.name)] = folder
        found = tuple(_Scored(seed, folder, self._scores(folder)) for seed, folder in sorted(folders.items()))
        self._check_seeds({network.seed: network.checkpoint for network in found})
        return found

    def _scores(self, folder: Path) -> dict[str, Dataset]:
        extra = [name for name in LOOKALIKES if (self.folder / f"scores-{name}").exists()]
        found = {}
        for name in (*self.sources, *extra):
            dataset = _opened(folder / f"scores-{name}").expect(SCORES)
            if name in self.splits and dataset.manifest.inputs != self.splits[name].manifest.inputs:
                raise DataError(
                    dataset.where, f"are of other rows than splits-{name}", "score the run's own data"
                )
            found[name] = dataset
        return found

    def _check_seeds(self, checkpoints: Mapping[int, str]) -> None:
        """DataError unless the networks are those that `dhs train --seeds` says it made."""
        told = self.folder / "results" / SEEDS
        if not told.exists():
            return
        listed = {row["seed"]: row["checkpoint"] for row in json.loads(told.read_text("utf-8"))["seeds"]}
        other = sorted(seed for seed, mark in listed.items() if checkpoints.get(seed) != mark)
        if other:
            problem = f"names other networks than those scored, of seed {', '.join(map(str, other))}"
            raise DataError(str(told), problem, "run dhs train --seeds again")

    @cached_property
    def source_marks(self) -> dict[str, str]:
        """Fingerprints of the pixels that were scored, by name."""
        first = self.networks[0].scores
        return {name: dataset.manifest.inputs.get("source", "") for name, dataset in first.items()}

    def open_test(self) -> int:
        """Write down that the networks are looked at; how many have been, on these test rows."""
        pairs = [f"pairs-{name}" for name in self.targets]
        rows = fingerprint(
            [*(self.source_marks[n] for n in pairs), *(self.splits[n].fingerprint for n in pairs)]
        )
        ledger = Openings(self.folder, rows)
        for network in self.networks:
            ledger.open(network.checkpoint, reason=f"network of seed {network.seed} of this run")
        return len(ledger.openings)

    def arm(self, name: str) -> Arm:
        """Its networks with the rows that figures are made of."""
        networks = tuple(self._network(scored) for scored in self.networks)
        ids = [networks[0].test.column("row_id").to_pylist(), networks[0].calib.column("row_id").to_pylist()]
        rows = fingerprint([[self.source_marks[source] for source in self.sources], ids])
        lookalikes = fingerprint([self.source_marks.get(source) for source in LOOKALIKES])
        return Arm(name, networks, rows, lookalikes)

    def _network(self, scored: _Scored) -> Network:
        tables = {name: dataset.read() for name, dataset in scored.scores.items()}
        extra = [name for name in LOOKALIKES if name in tables]
        lookalikes = [tables[name] for name in extra] or [SCORES.schema.empty_table()]
        return Network(
            seed=scored.seed,
            test=split_rows(self._named(tables), "test"),
            calib=split_rows(self._named(tables), "calib"),
            lookalikes=pa.concat_tables(lookalikes),
            manifests=tuple(scored.scores[name].fingerprint for name in self.sources),
            lookalike_manifests=tuple(scored.scores[name].fingerprint for name in extra),
        )

    def _named(self, tables: Mapping[str, pa.Table]) -> Iterator[tuple[str, pa.Table, pa.Table]]:
        return ((f"scores-{name}", tables[name], self.splits[name].read()) for name in self.sources)

    def hosts(self, *splits: str) -> set[str]:
        """Galaxies of some splits, by a name that means the same galaxy in every run.

        A survey's name of a galaxy is its own; a painted galaxy's belongs to the sky it was painted in.
        """
        found: set[str] = set()
        for name in self.targets:
            rows = self.splits[name].read(["row_id", "host_id", "split", "reject"])
            used = pc.and_(
                pc.is_in(rows.column("split"), value_set=pa.array(splits)), pc.is_null(rows.column("reject"))
            )
            domains = self.networks[0].scores[name].read(["row_id", "host_domain"]).to_pylist()
            domain = {row["row_id"]: row["host_domain"] for row in domains}
            for row in rows.filter(used).to_pylist():
                real = domain.get(row["row_id"]) == HostDomain.REAL
                found.add(row["host_id"] if real else f"{self.source_marks[name]}/{row['host_id']}")
        return found


def _opened(folder: Path) -> Dataset:
    """A dataset whose bytes are those that were committed."""
    if not folder.exists():
        raise DataError(str(folder), "is not there", "finish the run: dhs run, or dhs train with its --seeds")
    found = open_dataset(folder)
    found.verify()
    return found


def compare_runs(folders: Sequence[Path], out: Path, *, reference: str | None = None) -> MasterTable:
    """Compare finished runs; write `master_comparison.csv`, `.tex`, `.html`, `.json` and `paper` into `out`.

    reference   name of the arm that the others are compared with; by default the protocol's

    Raises ConfigError for a reference that is not among the arms or a run given twice; DataError for a run
    that is unfinished or was run under another protocol; SplitLeakage where one arm's training saw
    another's test galaxies. The test splits are recorded as opened for every network that is compared.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("dhs compare", "RUN", "names a folder twice", "each run once")
    runs = [_Run.of(folder) for folder in folders]
    protocol = _one_protocol(runs)
    names = _names(runs)
    chosen = reference or protocol.ablations.reference
    if chosen not in names:
        raise ConfigError("dhs compare", "--reference", f"'{chosen}' is none of the arms", ", ".join(names))
    _refuse_one_network_twice(runs, names)
    _refuse_leaks(runs, names)
    base = runs[names.index(chosen)]
    opened = [run.open_test() for run in runs]
    arms = [run.arm(name) for run, name in zip(runs, names, strict=True)]
    found = compare(arms, chosen, protocol, seed=base.experiment.seed)
    declared = (protocol.ablations.reference, *protocol.ablations.arms)
    facts = {
        name: ArmFacts(
            name=name,
            declared=run.experiment.name in declared,
            seeds=tuple(network.seed for network in run.networks),
            checkpoints=tuple(network.checkpoint for network in run.networks),
            changes=() if run is base else tuple(_changes(base.experiment, run.experiment)),
            openings=openings,
        )
        for run, name, openings in zip(runs, names, opened, strict=True)
    }
    table = MasterTable(
        comparison=found,
        arms=tuple(facts[name] for name in found.seeds),
        absent=tuple(n for n in declared if n not in {run.experiment.name for run in runs}),
        deciding=protocol.metrics.primary,
        protocol_version=protocol.version,
        protocol=fingerprint(protocol),
        seeds_min=protocol.statistics.seeds_min,
        code_version=__version__,
    )
    write_comparison(table, out)
    return table


def say_comparison(table: MasterTable, out: Path) -> None:
    """Print the table, one sentence for each arm, and where the files are."""
    console = Console(stderr=True)
    for part in summary(table):
        console.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))
    for line in (f"master table in {out}", f"its figure for a paper: {out / PAPER}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def comparison_again(folder: Path) -> MasterTable:
    """Write the files of a comparison again from the JSON that it left: no run is opened."""
    table = read_comparison(folder)
    write_comparison(table, folder)
    return table


def _one_protocol(runs: Sequence[_Run]) -> Protocol:
    first = runs[0]
    for run in runs[1:]:
        changes = differences(plain(first.protocol), plain(run.protocol))
        if changes:
            problem = f"was run under another protocol than {first.folder.name}: {'; '.join(changes)}"
            raise DataError(str(run.folder), problem, "compare runs of one protocol")
    return first.protocol


def _names(runs: Sequence[_Run]) -> list[str]:
    """Of the experiments; with the folder's name where two runs are of the same one."""
    counts = Counter(run.experiment.name for run in runs)
    names = [
        run.experiment.name
        if counts[run.experiment.name] == 1
        else f"{run.experiment.name}@{run.folder.name}"
        for run in runs
    ]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError("dhs compare", "RUN", f"two runs are called '{twice[0]}'", "rename a folder")
    return names


def _refuse_one_network_twice(runs: Sequence[_Run], names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for run, name in zip(runs, names, strict=True):
        for network in run.networks:
            here = f"{name}, seed {network.seed}"
            other = seen.setdefault(network.checkpoint, here)
            if other != here:
                problem = f"is the same network as {other}: it would count as two"
                raise DataError(str(network.folder), problem, "train each arm and seed by itself")


def _refuse_leaks(runs: Sequence[_Run], names: Sequence[str]) -> None:
    test = [run.hosts("test") for run in runs]
    trained = [run.hosts(*SPLIT_OF_TRAINING) for run in runs]
    for a, b in product(range(len(runs)), repeat=2):
        shared = sorted(test[a] & trained[b])
        if shared:
            problem = (
                f"{len(shared)} test galaxies of {names[a]} trained {names[b]}, "
                f"for instance {shared[0].rpartition('/')[2]}"
            )
            raise SplitLeakage(str(runs[b].folder), problem, "compare runs of the same splits")


def _changes(base: Experiment, other: Experiment) -> list[str]:
    """What an arm's experiment sets otherwise than the reference's."""
    ours, theirs = (e.model_dump(mode="json", exclude={"name", "about"}) for e in (base, other))
    return differences(ours, theirs)
