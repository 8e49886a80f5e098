"""Every fault of the gallery is found by the finding meant for it, as an issue; the sound set raises none."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.dataset.test_catalog_checks import clean_anchors, clean_contaminants, stamps_of
from tests.dataset.test_pair_checks import everywhere, planted
from tests.review.gallery import GALLERY, changed_protocol, gallery_page

from darkhaloscope.contracts.checks import Findings
from darkhaloscope.contracts.config import canonical, parse
from darkhaloscope.contracts.lock import check_lock
from darkhaloscope.contracts.protocol import check_protocol, load_protocol
from darkhaloscope.contracts.store import local_writer, open_dataset, write_rows
from darkhaloscope.contracts.tables import ANCHORS, CONTAMINANTS, PAIRED_STAMPS, SPLITS
from darkhaloscope.dataset.catalog_checks import check_anchors, check_contaminants
from darkhaloscope.dataset.pair_checks import VerifyPairs, pair_findings
from darkhaloscope.dataset.split_checks import check_splits
from darkhaloscope.dataset.splits import (
    AssignSplits,
    Fractions,
    SplitConfig,
    group_counts,
    guard_band,
    plan_splits,
)
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.pipeline.data import DataStages
from darkhaloscope.pipeline.experiment import Experiment, claim, load_experiment
from darkhaloscope.review.assess import assess
from darkhaloscope.review.code import check_code
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks

ROOT = Path(__file__).resolve().parents[2]
SEED = 7
SHARES = Fractions(train=0.55, select=0.12, calib=0.13, test=0.2)


@pytest.fixture(scope="module")
def pairs():
    sky = HarvestSky(seed=SEED).run(plan_bricks(SEED, 12, 6, priors=SkyPriors(), anchors=0))
    return Inject(recipe=Recipe(), seed=SEED).run(sky)


@pytest.fixture(scope="module")
def splits(pairs):
    plan = plan_splits([group_counts(pairs)], SplitConfig(fractions=SHARES, block_nside=64))
    assert guard_band(plan)  # bricks that reach into two cells of two splits: there is something to guard
    return AssignSplits(plan=plan, guard=guard_band(plan), snr_floor_mf=0.0).run(pairs)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run up to its splits: a folder, claimed by its experiment."""
    folder = tmp_path_factory.mktemp("gallery") / "run"
    data = canonical(load_experiment("demo.yaml"))
    data["survey"] |= {"bricks": 16, "targets_per_brick": 4}
    data["survey"]["lookalikes"] |= dict.fromkeys(("ring", "spiral", "merger", "spike", "anchors"), 0)
    experiment = parse(data, Experiment, "gallery")
    claim(folder, experiment)
    _ = DataStages(experiment, folder).foundation
    return folder


def folder_findings(folder):
    return DataStages(load_experiment(folder / "config.yaml"), folder).provenance


class Harness:
    """Plants a fault at its place and gives the findings or issues that follow."""

    def __init__(self, pairs, splits, run, tmp_path):
        self.pairs_rows, self.splits_rows, self.run_folder, self.tmp = pairs, splits, run, tmp_path

    def audit(self, rows):
        return VerifyPairs().run(PAIRED_STAMPS.conform(rows))

    def pairs(self, change):
        return pair_findings([self.audit(planted(self.pairs_rows, change)[0])])

    def all_pairs(self, changes):
        return pair_findings([self.audit(everywhere(self.pairs_rows, *changes))])

    def splits(self, change):
        rows, pairs = self.splits_rows.to_pylist(), self.pairs_rows.to_pylist()
        change(rows, pairs)
        tables = {"splits": (SPLITS, rows), "pairs": (PAIRED_STAMPS, pairs)}
        made = {
            name: write_rows(
                local_writer(self.tmp / name, table), table.conform(part), shard_rows=64, job={"job": "t"}
            )
            for name, (table, part) in tables.items()
        }
        audits = [self.audit(pairs)]
        return check_splits([made["splits"]], data=[made["pairs"]], audits=audits, fractions=SHARES)

    def run(self, change):
        folder = self.tmp / "run"
        shutil.copytree(self.run_folder, folder)

        def rewrite(name, edit):
            old = open_dataset(folder / name)
            shards = {key: old.read_shard(key).to_pylist() for key in old.keys}
            edit([row for shard in shards.values() for row in shard])
            fresh = local_writer(folder / f"{name}.fresh", old.table)
            identity = (old.manifest.job, old.manifest.job_fingerprint, old.manifest.inputs)
            fresh.begin(*identity)
            for key, shard in shards.items():
                fresh.commit(key, old.table.conform(shard))
            fresh.finish(shards, *identity)
            shutil.rmtree(folder / name)
            (folder / f"{name}.fresh").rename(folder / name)

        change(folder, rewrite)
        return provenance_of(folder)

    def protocol(self, change):
        path = changed_protocol(self.tmp, change)
        protocol = load_protocol(path)
        return Findings([*check_protocol(protocol), check_lock(protocol, path)])

    def anchors(self, change):
        rows = clean_anchors()
        change(rows)
        return check_anchors(ANCHORS.conform(rows), load_protocol())

    def anchor_stamps(self, change):
        y, x = np.mgrid[:64, :64] - 31.5
        galaxy = 0.3 * (1 + (x**2 + y**2) / 6) ** -2.5
        noise = np.random.default_rng(1).normal(0, 0.01, (20, 3, 64, 64))
        stamps = stamps_of(self.tmp / "stamps", (noise + change(galaxy)).astype("f4"))
        return check_anchors(ANCHORS.conform(clean_anchors()), load_protocol(), stamps=stamps)

    def contaminants(self, change):
        rows = clean_contaminants()
        change(rows)
        anchors = ANCHORS.conform(clean_anchors())
        return check_contaminants(CONTAMINANTS.conform(rows), load_protocol(), anchors=anchors)


def provenance_of(folder):
    """The provenance of a folder as it lies there: nothing is made anew that was tampered with."""
    from darkhaloscope.pipeline.experiment import run_protocol_changes
    from darkhaloscope.pipeline.provenance import (
        check_provenance,
        check_recipe,
        check_reproduction,
        check_run_protocol,
    )

    experiment = load_experiment(folder / "config.yaml")
    pairs, sky = {"sky": open_dataset(folder / "pairs-sky")}, {"sky": open_dataset(folder / "sky")}
    others = (
        check_run_protocol(run_protocol_changes(folder, load_protocol())),
        check_recipe(pairs, experiment.recipe),
        check_reproduction(pairs, sky),
    )
    return check_provenance(folder) + others


@pytest.fixture
def harness(pairs, splits, run, tmp_path):
    return Harness(pairs, splits, run, tmp_path)


def issues_of(findings):
    return assess("gallery", {"all": tuple(findings)}, created="", code_version="").issues


def nothing(*_args):
    """Plants nothing."""


DATA_FAULTS = [fault for fault in GALLERY if fault.place != "code"]


def test_the_gallery_is_large_and_names_every_fault_once():
    assert len(GALLERY) >= 40
    assert len({fault.id for fault in GALLERY}) == len(GALLERY)
    assert {fault.place for fault in GALLERY} >= {"pairs", "splits", "run", "protocol", "anchors", "code"}


@pytest.mark.parametrize("fault", DATA_FAULTS, ids=lambda fault: fault.id)
def test_a_planted_fault_is_found_by_the_finding_meant_for_it(harness, fault):
    findings = getattr(harness, fault.place.replace(" ", "_"))(fault.plant)
    issues = {issue.rule: issue for issue in issues_of(findings)}
    assert fault.finding in issues, sorted(issues)
    assert issues[fault.finding].severity == severity(fault)


def severity(fault):
    from darkhaloscope.review.advice import advice_for

    return advice_for(fault.finding).severity


@pytest.mark.parametrize("place", ["pairs", "splits", "run", "protocol", "anchors", "contaminants"])
def test_the_sound_set_raises_none(harness, place):
    def untouched(*_args):
        return {}

    findings = getattr(harness, place)(untouched)
    allowed = {"provenance_results"}  # a run without a model has no results yet, and says so
    raised = [issue.rule for issue in issues_of(findings)]
    assert set(raised) <= allowed, [str(f) for f in findings if not f.passed]


@pytest.mark.parametrize("fault", [f for f in GALLERY if f.place == "code"], ids=lambda fault: fault.id)
def test_a_planted_fault_in_code_is_found_and_the_right_way_is_not(tmp_path, fault):
    script = tmp_path / "job.py"
    script.write_text(fault.plant.faulty)
    assert fault.finding in {issue.rule for issue in check_code(script)}
    script.write_text(fault.plant.right)
    assert fault.finding not in {issue.rule for issue in check_code(script)}


def test_the_gallery_page_is_what_the_gallery_says(tmp_path):
    """Renew it by writing the result of `gallery_page(folder)` to the file."""
    assert (ROOT / "docs" / "fault_gallery.md").read_text() == gallery_page(tmp_path)


def test_sound_stamps_of_anchors_raise_none(harness):
    assert not issues_of(harness.anchor_stamps(lambda galaxy: galaxy))


def test_nan_in_one_row_of_1250_is_found(pairs):
    """A share of 0.08 %, which a sample would miss."""
    rows, task = planted(pairs, nan_in_stamp)
    audit = VerifyPairs().run(PAIRED_STAMPS.conform(rows))
    clean = VerifyPairs().run(pairs)
    copies = -(-1250 // clean.num_rows)
    found = pair_findings([audit, *[clean] * copies]).named("pair_finite")
    assert (found.value, found.examples) == (1, (task,))
    assert found.value / found.n < 0.0009
    assert isinstance(audit, pa.Table)


def nan_in_stamp(row):
    from tests.dataset.test_pair_checks import nan_pixel, with_planes

    return with_planes("stamp_npz", nan_pixel)(row)
