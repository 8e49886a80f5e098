"""The data stages of a run: paint, inject, split, check. Each is a dataset, resumed by its fingerprint."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from darkhaloscope.contracts.checks import Finding, Findings, Status
from darkhaloscope.contracts.config import find_config
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.job import Job
from darkhaloscope.contracts.lock import check_lock
from darkhaloscope.contracts.protocol import Protocol, check_protocol, load_protocol
from darkhaloscope.contracts.store import Dataset, local_writer, open_dataset, write_rows, write_whole
from darkhaloscope.contracts.tables import BRICKS, CATEGORIES, STAMPS, SkyKind
from darkhaloscope.dataset.catalog_checks import check_counts, no_counts
from darkhaloscope.dataset.pair_checks import VerifyPairs, pair_findings
from darkhaloscope.dataset.split_checks import check_splits
from darkhaloscope.dataset.splits import (
    AssignSplits,
    AssignTargetSplits,
    SplitName,
    group_counts,
    guard_band,
    plan_splits,
    source_shares,
)
from darkhaloscope.injection.draw import settled
from darkhaloscope.injection.hard_negatives import InjectHardNegatives
from darkhaloscope.injection.inject import Inject, MakeAnchors
from darkhaloscope.injection.recipe import RealShapes, Recipe
from darkhaloscope.pipeline.experiment import Experiment, run_protocol_changes
from darkhaloscope.pipeline.provenance import (
    check_provenance,
    check_recipe,
    check_reproduction,
    check_run_protocol,
)
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.harvest import AssumedPsf, HarvestSky, harvest_cutouts
from darkhaloscope.survey.release import PIXEL_SCALE_ARCSEC
from darkhaloscope.survey.sky import plan_bricks

SKY, HOSTS, DISTRACTORS = "sky", "hosts", "distractors"


@dataclass
class DataStages:
    """The datasets of one run, made when first asked for and kept on disk.

    ::

        out/bricks, sky           the synthetic sky
        out/lookalikes, anchors   mock contaminants and mock anchors (arcs added in `anchors`)
        out/lenses                cutouts of known lenses
        out/pairs-NAME, sham-NAME injections and zero-flux injections into the source NAME (sky, hosts)
        out/hard-NAME             hard negatives of the pairs, where training asks for them
        out/distractors           contaminants that training sees, where the survey paints any
        out/splits-…              one for each dataset that is split
        out/audit-…               what the checks of the pixels found, one for each dataset of pairs
    """

    experiment: Experiment
    out: Path
    workers: int = 1
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def run_job(
        self, name: str, job: Job, source: Dataset, *, workers: int | None = None, folder: Path | None = None
    ) -> Dataset:
        """Run a job into `out/name` (or a folder's `name`), continuing what is there."""
        writer = local_writer((folder or self.out) / name, job.writes)
        return run_local(job, source, writer, workers=workers or self.workers, console=self.console)

    @cached_property
    def protocol(self) -> Protocol:
        """What the run is measured by."""
        return load_protocol(find_config(self.experiment.protocol))

    @cached_property
    def recipe(self) -> Recipe:
        """How arcs are made; a catalogue of real galaxies is opened and named by its content."""
        return settled(self.experiment.recipe)

    @cached_property
    def sources(self) -> dict[str, Dataset]:
        """Stamps that hosts and plain negatives come from, by name."""
        survey = self.experiment.survey
        found: dict[str, Dataset] = {}
        if survey.targets_per_brick:
            rows = plan_bricks(
                self.experiment.seed, survey.bricks, survey.targets_per_brick, priors=survey.priors, anchors=0
            )
            found[SKY] = self._paint("bricks", SKY, rows)
        if survey.hosts is not None:
            found[HOSTS] = open_dataset(survey.hosts).expect(STAMPS)
        if not any(dataset.num_rows for dataset in found.values()):
            raise DataError(
                str(self.out), "there is not one galaxy to inject into", "raise survey.targets_per_brick"
            )
        return found

    def _paint(self, bricks: str, name: str, rows: pa.Table) -> Dataset:
        survey = self.experiment.survey
        writer = local_writer(self.out / bricks, BRICKS)
        job = {"job": "plan_bricks", "seed": self.experiment.seed, "rows": rows.num_rows}
        plan = write_rows(writer, rows, shard_rows=survey.bricks_per_shard, job=job)
        harvest = HarvestSky(seed=self.experiment.seed, priors=survey.priors, size=survey.size)
        return self.run_job(name, harvest, plan)

    @cached_property
    def lookalikes(self) -> Dataset | None:
        """Mock contaminants, and galaxies that carry a mock anchor's arc; None when none are asked for."""
        wanted = self.experiment.survey.lookalikes
        contaminants = {name: getattr(wanted, name) for name in CATEGORIES}
        if not sum(contaminants.values()) + wanted.anchors:
            return None
        rows = plan_bricks(
            self.experiment.seed,
            wanted.bricks,
            0,
            priors=self.experiment.survey.priors,
            contaminants=contaminants,
            anchors=wanted.anchors,
            first=self.experiment.survey.bricks,
        )
        painted = self._paint("lookalike-bricks", "lookalikes", rows)
        # Anchors are test rows; recipes without a catalogue of galaxies do not look at the share.
        anchors = MakeAnchors(
            recipe=self.recipe, seed=self.experiment.seed, source_share=self._source_shares["test"]
        )
        return self.run_job("anchors", anchors, painted)

    @cached_property
    def absent_lenses(self) -> tuple[str, ...]:
        """Known lenses that the experiment may do without and does."""
        survey = self.experiment.survey
        if not survey.known_lenses_optional:
            return ()
        return tuple(name for name in survey.known_lenses if not Path(name).exists())

    @cached_property
    def known_lenses(self) -> Dataset | None:
        """Cutouts of real lenses as stamps; None where there are none and the experiment allows it."""
        survey = self.experiment.survey
        for name in self.absent_lenses:
            text = f"known lens {name} is not there: it is not scored"
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        paths = [Path(name) for name in survey.known_lenses if name not in self.absent_lenses]
        if not paths:
            return None
        psf = AssumedPsf(psfsize_arcsec=survey.assumed_psfsize_arcsec)
        rows = harvest_cutouts(paths, size=survey.size, kind="lens", psf=psf)
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        job = {"job": "harvest_cutouts", "files": files, "kind": "lens", "psf": list(psf.psfsize_arcsec)}
        return write_rows(local_writer(self.out / "lenses", STAMPS), rows, shard_rows=64, job=job)

    def _inject(self, name: str, source: Dataset, *, sham: bool) -> Dataset:
        e = self.experiment
        job = Inject(
            recipe=self.recipe,
            seed=e.seed,
            draws_per_host=1 if sham else e.draws_per_host,
            sham=sham,
            source_shares=self._shares_by_group,
        )
        return self.run_job(name, job, source)

    @property
    def _source_shares(self) -> dict[SplitName, tuple[float, float]]:
        """A real galaxy lensed in two splits would be the same light twice: each split has its own."""
        return source_shares(self.experiment.splits.fractions)

    @cached_property
    def _shares_by_group(self) -> dict[str, tuple[float, float]]:
        """The same by group; empty where no catalogue of galaxies is drawn from."""
        if not isinstance(self.recipe.shapes, RealShapes):
            return {}
        return {group: self._source_shares[split] for group, split in self.plan.items()}

    @cached_property
    def pairs(self) -> dict[str, Dataset]:
        """Injected pairs by source."""
        return {name: self._inject(f"pairs-{name}", d, sham=False) for name, d in self.sources.items()}

    @cached_property
    def hard_negatives(self) -> dict[str, Dataset]:
        """Hard negatives of the pairs by source; none where training asks for none that are stored."""
        e = self.experiment
        kinds = e.sampling.stored_kinds
        if not kinds or not e.sampling.hard_negative_ratio:
            return {}
        job = self.hardening(kinds)
        return {name: self.run_job(f"hard-{name}", job, d) for name, d in self.sources.items()}

    def hardening(self, kinds: Sequence[SkyKind]) -> InjectHardNegatives:
        """What makes one hard negative of the given kinds for each pair of a source."""
        return InjectHardNegatives(
            recipe=self.recipe,
            seed=self.experiment.seed,
            draws_per_host=self.experiment.draws_per_host,
            source_shares=self._shares_by_group,
            negatives=tuple(kinds),
        )

    @cached_property
    def distractors(self) -> Dataset | None:
        """Contaminants that training may use as negatives, in bricks of their own; or None."""
        wanted = self.experiment.survey.distractors
        contaminants = {name: getattr(wanted, name) for name in CATEGORIES}
        if not sum(contaminants.values()):
            return None
        survey = self.experiment.survey
        rows = plan_bricks(
            self.experiment.seed,
            wanted.bricks,
            0,
            priors=survey.priors,
            contaminants=contaminants,
            anchors=0,
            first=survey.bricks + survey.lookalikes.bricks,
        )
        return self._paint("distractor-bricks", "distractors", rows)

    @cached_property
    def shams(self) -> dict[str, Dataset]:
        """Zero-flux injections by source: what the pipeline itself leaves behind."""
        return {name: self._inject(f"sham-{name}", d, sham=True) for name, d in self.sources.items()}

    @cached_property
    def plan(self) -> dict[str, SplitName]:
        """The split of every sky cell and every host without a position."""
        strata = [group_counts(d.read(["group"])) for d in self.sources.values()]
        reserved: dict[str, SplitName] = {}
        for dataset in (self.lookalikes, self.known_lenses):
            if dataset is not None:
                # Look-alikes and lenses are only ever tested on, so their cells train nothing.
                reserved |= dict.fromkeys(group_counts(dataset.read(["group"])), "test")
        if self.distractors is not None:
            groups = group_counts(self.distractors.read(["group"]))
            reserved |= {group: "train" for group in groups if group not in reserved}
        return plan_splits(strata, self.experiment.splits, reserved)

    @cached_property
    def pair_splits(self) -> dict[str, Dataset]:
        """Split of every pair, by source."""
        floor = self.experiment.splits.snr_floor_mf
        job = AssignSplits(plan=self.plan, guard=guard_band(self.plan), snr_floor_mf=floor)
        return {
            name: self.run_job(f"splits-pairs-{name}", job, d, workers=1) for name, d in self.pairs.items()
        }

    @cached_property
    def target_splits(self) -> dict[str, Dataset]:
        """Split of every target of the sources, by source."""
        job = AssignTargetSplits(plan=self.plan, guard=guard_band(self.plan))
        return {name: self.run_job(f"splits-{name}", job, d, workers=1) for name, d in self.sources.items()}

    @cached_property
    def plain_negatives(self) -> dict[str, tuple[Dataset, Dataset]]:
        """Stamps without an arc that may stand in for a control, with their splits, by name."""
        found = {name: (d, self.target_splits[name]) for name, d in self.sources.items()}
        if self.distractors is not None:
            job = AssignTargetSplits(plan=self.plan, guard=guard_band(self.plan))
            splits = self.run_job(f"splits-{DISTRACTORS}", job, self.distractors, workers=1)
            found[DISTRACTORS] = (self.distractors, splits)
        return found

    def _audits(self, datasets: Mapping[str, Dataset], stem: str, *, sham: bool) -> dict[str, pa.Table]:
        """What one pass over all pixels found, row by row; a dataset that has changed is audited anew."""
        job = VerifyPairs(sham=sham, size=self.experiment.survey.size)
        folders = {name: f"audit-{stem}-{name}-{d.fingerprint[:8]}" for name, d in datasets.items()}
        return {name: self.run_job(folders[name], job, d).read() for name, d in datasets.items()}

    @cached_property
    def data_checks(self) -> Findings:
        """What the pixels and the splits of the pairs show, all rows: a failure here stops training."""
        shifted = declared_shift_pix(self.recipe)
        audits = self._audits(self.pairs, "pairs", sham=False)
        shams = self._audits(self.shams, "sham", sham=True)
        findings = _merged(
            {name: pair_findings([rows], registration_pix=shifted) for name, rows in audits.items()}
            | {f"{name}, no flux": pair_findings([rows], sham=True) for name, rows in shams.items()}
        )
        negatives, splits = zip(*self.plain_negatives.values(), strict=True)
        return findings + check_splits(
            [*self.pair_splits.values(), *splits],
            data=[*self.pairs.values(), *negatives],
            audits=list(audits.values()),
            fractions=self.experiment.splits.fractions,
        )

    @cached_property
    def provenance(self) -> Findings:
        """Whether what lies in the folder is what its manifests say, and can be made again."""
        hosts = [self.sources[HOSTS]] if HOSTS in self.sources else []
        made = (
            check_run_protocol(run_protocol_changes(self.out, self.protocol)),
            check_recipe(self.pairs, self.recipe),
            check_reproduction(self.pairs, self.sources),
        )
        return check_provenance(self.out, outside=hosts) + made

    @cached_property
    def foundation(self) -> Findings:
        """Every check that can be made before training: protocol, data, look-alikes."""
        path = find_config(self.experiment.protocol)
        findings = Findings([*check_protocol(self.protocol), check_lock(self.protocol, path)])
        findings += self.data_checks
        if self.lookalikes is None:
            findings += no_counts("the run has no look-alikes and no anchors", self.protocol)
        else:
            findings += self._lookalike_findings(self.lookalikes)
        save_json(self.out / "results" / "foundation.json", findings.to_json())
        return findings

    def _lookalike_findings(self, dataset: Dataset) -> Findings:
        rows = dataset.read(["kind", "category", "arc_domain", "reject"]).to_pylist()
        usable = [row for row in rows if row["reject"] is None]
        categories = Counter(row["category"] for row in usable if row["kind"] == "contaminant")
        anchors = sum(row["kind"] == "lens" and row["arc_domain"] is not None for row in usable)
        return check_counts(categories, anchors, self.protocol)

    def rows(self, split: str, columns: Sequence[str]) -> pa.Table:
        """Pairs of one split over all sources, in order; rows that the split sets aside are left out."""
        pieces = [
            of_split(self.pairs[name], self.pair_splits[name], split=split, columns=columns, key="task_id")
            for name in self.pairs
        ]
        return pa.concat_tables(pieces)

    def target_rows(self, split: str, columns: Sequence[str], kinds: Sequence[str]) -> pa.Table:
        """Targets of one split and the given kinds over all sources, in order."""
        pieces = [
            of_split(
                self.sources[name],
                self.target_splits[name],
                split=split,
                columns=columns,
                key="target_id",
                kinds=kinds,
            )
            for name in self.sources
        ]
        return pa.concat_tables(pieces)


def declared_shift_pix(recipe: Recipe) -> float:
    """Scatter by which a recipe's imaging shifts each band along each axis [pix]."""
    imaging = recipe.imaging
    return 0.0 if imaging is None else imaging.registration_arcsec / PIXEL_SCALE_ARCSEC


def of_split(
    data: Dataset,
    splits: Dataset,
    *,
    split: str,
    columns: Sequence[str],
    key: str,
    kinds: Sequence[str] | None = None,
) -> pa.Table:
    """Rows of one split, shard by shard: the split's shards follow the data's, row by row."""
    pieces = []
    for shard in data.keys:
        marks = splits.read_shard(shard, ["row_id", "split", "reject", "kind"])
        rows = data.read_shard(shard, columns)
        if key in columns and not rows.column(key).equals(marks.column("row_id")):
            raise DataError(
                splits.where, f"shard {shard} does not follow {data.where} row by row", "split it again"
            )
        wanted = [
            s == split and reject is None and (kinds is None or kind in kinds)
            for s, reject, kind in zip(
                *(marks.column(c).to_pylist() for c in ("split", "reject", "kind")), strict=True
            )
        ]
        pieces.append(rows.filter(pa.array(wanted, pa.bool_())))
    return pa.concat_tables(pieces)


_WORST = {Status.FAIL: 2, Status.NOT_EVALUATED: 1, Status.PASS: 0}


def _merged(parts: Mapping[str, Findings]) -> Findings:
    """The same check on several datasets becomes one finding: the worst of them, over all their rows."""
    worst: dict[tuple[str, str], Finding] = {}
    for name, findings in parts.items():
        for found in findings:
            key = (found.name, found.detail if found.name.startswith("schema_") else "")
            finding = found
            if len(parts) > 1 and found.detail:
                finding = found.model_copy(update={"detail": f"{name}: {found.detail}"})
            held = worst.setdefault(key, finding)
            if held is not finding:
                chosen = max(held, finding, key=lambda f: (_WORST[f.status], f.value or 0.0))
                worst[key] = chosen.model_copy(update={"n": (held.n or 0) + (finding.n or 0)})
    return Findings(worst.values())


def save_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON whole or not at all."""
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
