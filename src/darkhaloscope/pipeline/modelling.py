"""The model stages of a run: train on committed pairs, gate data and model, score what was held out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Findings
from darkhaloscope.contracts.config import fingerprint
from darkhaloscope.contracts.errors import DataChecksFailed, DataError
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.store import Dataset, open_dataset
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SKY_KINDS
from darkhaloscope.evaluation.samples import negatives, split_rows
from darkhaloscope.gates.arrays import PairArrays
from darkhaloscope.gates.classes import SeenClass, class_findings, host_matching
from darkhaloscope.gates.leakage import leakage_findings
from darkhaloscope.gates.reliance import reliance_findings, shuffled_negatives
from darkhaloscope.pipeline.data import DataStages, save_json
from darkhaloscope.pipeline.openings import Openings
from darkhaloscope.stamps.stamp import decode_planes

LEAKAGE_PAIRS = 4000
"""Pairs that the probes of the data see: enough for every gate that a single renderer can decide."""

SHAM_PAIRS = 7400
"""Sham pairs that the probes see: half of the hosts for each class."""

ONNX_STAMPS = 64
"""Stamps on which the exported network must give the logits of the trained one."""

CLASS_ROWS, CLASS_REPEATS = 6200, 3
"""Rows of each class that the probes of an unpaired arm see, and their cross-validations."""

HOST_FACTS = ("flux_g", "flux_r", "flux_z", "shape_r", "light_q", "psfsize_r", "psfdepth_r", "nexp_r")
"""What the hosts of the two classes of an unpaired arm are compared in, as logarithms."""

WATCHED_PAIRS = 600
"""Select pairs that the gates are shown while a model trains."""

RELIANCE_PAIRS = 4000
"""Test pairs whose counterfactuals the model is asked about."""

NEGATIVES = ("disc", "contaminant")
"""Kinds of stamps without an arc that may stand in for a control in training."""

_GATE_COLUMNS = (
    "task_id", "host_id", "stamp_npz", "ctrl_stamp_npz", "arc_npz", "invvar_npz", "x_center_pix",
    "y_center_pix", "kappa_r5", "kappa_box", "theta_e_arcsec", "arc_snr_mf", "reject",
)  # fmt: skip


@dataclass
class ModelStages(DataStages):
    """Training, gates and scores of one run, made when first asked for and kept on disk.

    model_folder   where they are kept; the run's own folder by default. Another seed, or a checkpoint from
                   elsewhere, has a folder of its own and shares the run's data
    checkpoint     a trained network to use instead of training one
    """

    model_folder: Path | None = None
    checkpoint: Path | None = None

    @property
    def models(self) -> Path:
        """Where everything about the model is kept."""
        return self.model_folder or self.out

    @cached_property
    def trained(self) -> Any:
        """The trained checkpoint with its history (`training.train.TrainResult`)."""
        from darkhaloscope.dataset.stored import StoredHard, StoredStamps
        from darkhaloscope.training.train import TrainResult, train

        if self.checkpoint is not None:
            return TrainResult.of(self.checkpoint)
        self.data_checks.raise_if_failed(DataChecksFailed)
        e = self.experiment
        memory, pairs = e.training.memory_mb, self.stored("train")
        hard = None
        if self.hard_negatives:
            alike = e.sampling.hard_negative_likeness
            hard = StoredHard.open(pairs, self.hard_negatives, most_alike=alike, memory_mb=memory)
        stamps = {name: found for name, (found, _) in self.plain_negatives.items()}
        splits = {name: split for name, (_, split) in self.plain_negatives.items()}
        return train(
            e.training,
            sampling=e.sampling,
            preprocess=e.preprocess,
            train_pairs=pairs,
            select_pairs=self.stored("select"),
            negatives=StoredStamps.open(
                stamps, splits, "train", kinds=NEGATIVES, memory_mb=memory, where="train negatives"
            ),
            hard=hard,
            watch=self._watch(),
            out_dir=self.models / "training",
            fingerprints=self._fingerprints(
                pairs=self.pairs, splits=self.pair_splits, stamps=stamps, hard=self.hard_negatives
            ),
        )

    def _watch(self) -> Any:
        """What is looked at while training: expected ranges, and gates on the select split if asked for."""
        from darkhaloscope.training.watch import Watch

        def say(line: str) -> None:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

        e = self.experiment
        if not e.training.gates_every:
            return Watch(self.protocol.expected, None, say)
        rows = _keyed_sample(self.rows("select", _GATE_COLUMNS), WATCHED_PAIRS, e.seed)
        select = PairArrays.read(rows, where="select pairs")
        return Watch(
            self.protocol.expected,
            lambda predict: reliance_findings(select, predict, protocol=self.protocol, seed=e.seed),
            say,
        )

    def stored(self, split: str) -> Any:
        """The pairs of a split that training may use, as a `dataset.stored.StoredPairs`."""
        from darkhaloscope.dataset.stored import StoredPairs

        return StoredPairs.open(
            self.pairs,
            self.pair_splits,
            split,
            snr_floor_mf=self.experiment.splits.snr_floor_mf,
            memory_mb=self.experiment.training.memory_mb,
            where=f"{split} pairs",
        )

    @cached_property
    def onnx(self) -> Path:
        """The trained network as an ONNX file beside its checkpoint, checked on select stamps."""
        from darkhaloscope.training.onnx import export_onnx

        select = self.stored("select")
        some = select.take(range(min(len(select.keys), ONNX_STAMPS)))
        seen = self.scorer.card.preprocess.apply(some.stamp, some.x_center, some.y_center)
        path = self.models / "training" / "checkpoint.onnx"
        export_onnx(self.scorer.on("cpu"), path, seen)
        return Path(path)

    @staticmethod
    def _fingerprints(**groups: dict[str, Dataset]) -> dict[str, str]:
        """Fingerprints by role and source, never by place: a run gives the same bytes in any folder."""
        return {
            f"{role}-{name}": d.fingerprint for role, group in groups.items() for name, d in group.items()
        }

    @cached_property
    def scorer(self) -> Any:
        """The trained model as a `training.model.Scorer`, for the gates: on a GPU where there is one.

        Committed scores are the CPU's whatever there is.
        """
        import torch

        from darkhaloscope.training.model import load_checkpoint

        found = load_checkpoint(self.trained.checkpoint_path, sha256=self.trained.checkpoint_sha256)
        wanted = self.experiment.training.accelerator != "cpu" and torch.cuda.is_available()
        return found.on("cuda") if wanted else found

    def refuse_other_data(self) -> None:
        """DataError unless the network was trained on this run's pairs and splits, so not on test rows."""
        ours = self._fingerprints(pairs=self.pairs, splits=self.pair_splits)
        theirs = self.scorer.card.fingerprints
        other = sorted(name for name, mark in ours.items() if theirs.get(name) != mark)
        if other:
            problem = (
                f"was trained on other data than this run's ({', '.join(other)}), perhaps on its test rows"
            )
            remedy = "validate it in the run that it comes from"
            raise DataError(str(self.trained.checkpoint_path), problem, remedy)

    @cached_property
    def scores(self) -> dict[str, Dataset]:
        """SCORES of every pair (`pairs-…`) and target (`sky`, `hosts`, `anchors`, `lenses`), by name."""
        from darkhaloscope.evaluation.score import Score, ScoreStamps

        which = {
            "checkpoint": str(self.trained.checkpoint_path),
            "checkpoint_sha256": self.trained.checkpoint_sha256,
        }
        pairs = {f"pairs-{name}": d for name, d in self.pairs.items()}
        targets = dict(self.sources)
        targets |= {
            n: d for n, d in (("anchors", self.lookalikes), ("lenses", self.known_lenses)) if d is not None
        }
        jobs: dict[str, tuple[Job, Dataset]] = {name: (Score(**which), d) for name, d in pairs.items()}
        jobs |= {name: (ScoreStamps(**which), d) for name, d in targets.items()}
        return {
            name: self.run_job(f"scores-{name}", job, d, folder=self.models)
            for name, (job, d) in jobs.items()
        }

    def split_scores(self, split: str) -> pa.Table:
        """SCORES of one split over all sources; rows that the split sets aside are left out."""
        named = [(f"pairs-{name}", d) for name, d in self.pair_splits.items()] + [*self.target_splits.items()]
        return split_rows(
            ((f"scores-{name}", self.scores[name].read(), splits.read()) for name, splits in named), split
        )

    @cached_property
    def data_mark(self) -> str:
        """Fingerprint of what the gates on the data are made from: data, protocol, seed."""
        inputs = self._fingerprints(pairs=self.pairs, splits=self.pair_splits, shams=self.shams)
        trusted = None if self.trusted is None else self.trusted.fingerprint
        e = self.experiment
        unpaired = None if e.sampling.paired else [e.training.seed, e.preprocess]
        return fingerprint([inputs, self.protocol, e.seed, trusted, unpaired])

    def gates_mark(self, checkpoint_sha256: str) -> str:
        """Fingerprint of what the gates on a model are made from: those of the data, and the checkpoint."""
        return fingerprint([self.data_mark, checkpoint_sha256])

    @cached_property
    def trusted(self) -> Dataset | None:
        """Pairs by an independent renderer; DataError if they are of another recipe or share a host."""
        place = self.experiment.trusted_pairs
        if place is None:
            return None
        found = open_dataset(place).expect(PAIRED_STAMPS)
        recipes = set(found.read(["recipe_hash"]).column("recipe_hash").to_pylist())
        if recipes != {fingerprint(self.recipe)}:
            problem = "holds arcs of another recipe than the run's: a difference would be the populations'"
            raise DataError(place, problem, "make them with this experiment's file and overrides")
        hosts = set(found.read(["host_id"]).column("host_id").to_pylist())
        for dataset in self.sources.values():
            shared = sorted(hosts & set(dataset.read(["host_id"]).column("host_id").to_pylist()))
            if shared:
                problem = f"shares {len(shared)} hosts with the run, for instance {shared[0]}"
                raise DataError(place, problem, "put them into galaxies of their own")
        return found

    @cached_property
    def gates(self) -> Findings:
        """Every gate of the protocol, on the data and on the model; kept beside what they were made from."""
        mark = self.gates_mark(self.trained.checkpoint_sha256)
        return kept(self.models / "results" / "gates.json", mark, lambda: self.data_gates + self._reliance())

    @cached_property
    def data_gates(self) -> Findings:
        """The gates on the data, which no model changes."""
        return kept(self.out / "results" / "data_gates.json", self.data_mark, self._leakage)

    def _leakage(self) -> Findings:
        seed = self.experiment.seed
        pairs = self._sampled(tuple(self.pairs.values()), LEAKAGE_PAIRS, "pairs")
        sham = self.some_shams()
        classes = Findings() if self.experiment.sampling.paired else self._classes()
        trusted = None if self.trusted is None else self._sampled((self.trusted,), LEAKAGE_PAIRS, "trusted")
        found = leakage_findings(pairs, protocol=self.protocol, seed=seed, sham=sham, trusted=trusted)
        return found + classes

    def _classes(self) -> Findings:
        """What choosing its hosts tells of the label in an unpaired arm: both halves, without arcs."""
        from darkhaloscope.dataset.pairs import PairDataset

        e, pairs = self.experiment, self.stored("train")
        plain = e.sampling.model_copy(update={"hard_negative_ratio": 0.0})
        halves = PairDataset(pairs, plain, e.preprocess, seed=e.training.seed)

        def of(rows: NDArray[np.intp]) -> SeenClass:
            order = stream(e.seed, "gates/class rows", str(len(rows))).permutation(len(rows))
            rows = np.sort(rows[order[:CLASS_ROWS]])
            some = pairs.take(rows.tolist())
            seen = e.preprocess.apply(some.control, some.x_center, some.y_center)
            hosts = np.array([pairs.hosts[k] for k in rows])
            return SeenClass(seen, hosts, some.x_center, some.y_center)

        given, others = of(halves.positive_rows), of(halves.control_rows)
        facts = [self._facts_of(side.hosts) for side in (given, others)]
        probes = class_findings(given, others, protocol=self.protocol, seed=e.seed, repeats=CLASS_REPEATS)
        return Findings([*probes, host_matching(*facts)])

    def _facts_of(self, hosts: NDArray[np.str_]) -> dict[str, NDArray[np.float64]]:
        """What the catalogues say of some hosts, by name of the fact."""
        tables = [d.read(["host_id", *HOST_FACTS]) for d in self.sources.values()]
        rows = pa.concat_tables(tables)
        place = {host: k for k, host in enumerate(rows.column("host_id").to_pylist())}
        at = pa.array([place[str(host)] for host in hosts])
        wanted = rows.take(at)
        values = {name: np.array(wanted.column(name).to_pylist(), dtype=float) for name in HOST_FACTS}
        return {name: np.log(np.where(value > 0, value, np.nan)) for name, value in values.items()}

    def some_shams(self) -> PairArrays:
        """Pairs without an arc that the gates are shown."""
        return self._sampled(tuple(self.shams.values()), SHAM_PAIRS, "sham")

    @cached_property
    def test_pairs(self) -> PairArrays:
        """Test pairs that the model's counterfactuals are made of."""
        rows = _keyed_sample(self.rows("test", _GATE_COLUMNS), RELIANCE_PAIRS, self.experiment.seed)
        return PairArrays.read(rows, where="test pairs")

    @cached_property
    def hard_test(self) -> dict[str, tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """Hard negatives of `test_pairs` by kind: rows that have one, and its stamps.

        HN0 of every pair; of the kinds made before the PSF one for each pair, left out where the light is
        still the arc's.
        """
        pairs = self.test_pairs
        place = {str(key): i for i, key in enumerate(pairs.keys)}
        targets = pa.array(sorted({key.rpartition("#")[0] for key in place}))
        job = self.hardening(SKY_KINDS)
        most_alike = self.experiment.sampling.hard_negative_likeness
        found: dict[str, list[tuple[int, NDArray[np.float32]]]] = {kind: [] for kind in SKY_KINDS}
        for dataset in self.sources.values():
            for shard in dataset.keys:
                rows = dataset.read_shard(shard, job.columns)
                rows = rows.filter(pc.is_in(rows.column("target_id"), value_set=targets))
                for row in job.run(rows).to_pylist() if rows.num_rows else ():
                    alike = row["likeness"] is None or row["likeness"] >= most_alike
                    if row["reject"] is None and not alike and row["task_id"] in place:
                        stamp = decode_planes(row["stamp_npz"], where=row["task_id"])
                        found[row["negative_kind"]].append((place[row["task_id"]], stamp))
        shuffled = shuffled_negatives(pairs, seed=self.experiment.seed)
        return {"HN0": (np.arange(len(pairs)), shuffled)} | {
            kind: (np.array([at for at, _ in rows], dtype=np.intp), np.stack([stamp for _, stamp in rows]))
            for kind, rows in found.items()
            if rows
        }

    @cached_property
    def test_rows(self) -> str:
        """Fingerprint of the test rows: pairs and their splits."""
        datasets = [*self.pairs.values(), *self.pair_splits.values()]
        return fingerprint([d.fingerprint for d in datasets])

    def _reliance(self) -> Findings:
        if self.checkpoint is None:  # another's checkpoint is recorded by who hands it in, with a reason
            own = f"network of seed {self.experiment.training.seed} of this run"
            Openings(self.out, self.test_rows).open(self.trained.checkpoint_sha256, reason=own)
        calibration = negatives(self.split_scores("calib")).score
        return reliance_findings(
            self.test_pairs,
            self.scorer,
            protocol=self.protocol,
            seed=self.experiment.seed,
            negatives=calibration,
        )

    def _sampled(self, datasets: Sequence[Dataset], most: int, where: str) -> PairArrays:
        """At most `most` usable pairs of some datasets, chosen by a keyed hash: the same ones every time."""
        names = pa.concat_tables([d.read(["task_id", "reject"]) for d in datasets])
        kept = set(_keyed_sample(names, most, self.experiment.seed).column("task_id").to_pylist())
        pieces = []
        for dataset in datasets:
            for shard in dataset.keys:
                rows = dataset.read_shard(shard, _GATE_COLUMNS)
                pieces.append(
                    rows.filter(pa.array([t in kept for t in rows.column("task_id").to_pylist()], pa.bool_()))
                )
        return PairArrays.read(pa.concat_tables(pieces), where=where)


def _keyed_sample(rows: pa.Table, most: int, seed: int) -> pa.Table:
    """At most `most` rows without a reject code; which ones depends on their task_id, not on their order."""
    usable = rows.filter(pc.is_null(rows.column("reject")))
    if usable.num_rows <= most:
        return usable
    ranks = [stream(seed, "gates/sample", task).random() for task in usable.column("task_id").to_pylist()]
    chosen = np.sort(np.argsort(ranks, kind="stable")[:most])
    return usable.take(pa.array(chosen))


def kept(path: Path, mark: str, make: Callable[[], Findings]) -> Findings:
    """Findings that a file holds, if they were made from the same; else made, and kept there."""
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["made_from"] == mark:
            return Findings.from_json(held["findings"])
    findings = make()
    save_json(path, {"made_from": mark, "findings": findings.to_json()})
    return findings
