"""Each fault of a catalogue is found by its finding; real catalogues, and clean mock ones, raise none."""

import numpy as np
import pyarrow as pa
import pytest

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.protocol import load_protocol
from darkhaloscope.contracts.store import local_writer, write_rows
from darkhaloscope.contracts.tables import ANCHORS, CONTAMINANTS, STAMPS
from darkhaloscope.dataset.catalog_checks import (
    ANCHOR_CHECKS,
    CONTAMINANT_CHECKS,
    check_anchors,
    check_contaminants,
    check_counts,
)
from darkhaloscope.stamps.stamp import decode_planes, encode_planes
from darkhaloscope.survey.known_lenses import merge_anchors, read_anchor_table

PROTOCOL = load_protocol()
PAPERS = "slacs.csv sha256:" + "ab" * 32


def clean_anchors(n=40, seed=3):
    """Lenses as a survey of published tables gives them: each on a red, extended source."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(130, 230, n), rng.uniform(-5, 30, n)
    return [
        {
            "name": f"SDSSJ{100000 + 371 * k:06d}+{10000 + 7 * k}", "ra_deg": ra[k], "dec_deg": dec[k],
            "theta_e_arcsec": rng.uniform(0.7, 2.0), "z_lens": 0.3, "z_source": 0.9, "evidence": "spec_two_z",
            "channel": "spectroscopic", "source": PAPERS, "match_arcsec": rng.uniform(0, 0.5), "type": "DEV",
            "flux_g": 15.0, "flux_r": 60.0, "flux_z": 130.0, "host_domain": "real", "arc_domain": "real",
        }
        for k in range(n)
    ]  # fmt: skip


def clean_contaminants(seed=5):
    """As many look-alikes of each class as the protocol asks for."""
    rng = np.random.default_rng(seed)
    wanted = [kind for kind, least in PROTOCOL.contaminants.minima.items() for _ in range(least)]
    return [
        {
            "name": f"GZ2 {587722981742 + 13 * k}", "ra_deg": rng.uniform(130, 230),
            "dec_deg": rng.uniform(31, 60),
            "category": kind, "size_arcsec": rng.uniform(4, 14), "source": PAPERS, "host_domain": "real",
        }
        for k, kind in enumerate(wanted)
    ]  # fmt: skip


def anchors_of(rows, **options):
    return check_anchors(ANCHORS.conform(rows), PROTOCOL, **options)


def contaminants_of(rows, **options):
    return check_contaminants(CONTAMINANTS.conform(rows), PROTOCOL, **options)


def first(**values):
    def change(rows):
        rows[0].update(values)

    return change


def every(values):
    def change(rows):
        for row in rows:
            row.update(values(row))

    return change


def twin(**values):
    def change(rows):
        rows[1].update({name: rows[0][name] for name in ("ra_deg", "dec_deg")} | values)

    return change


def cut(n):
    def change(rows):
        del rows[n:]

    return change


ANCHOR_FAULTS = {
    "20 lenses where 30 are asked for": (cut(20), "anchors_count"),
    "a lens without a known Einstein radius too small": (first(theta_e_arcsec=0.3), "anchors_theta_e"),
    "a negative Einstein radius": (first(theta_e_arcsec=-1.0), "anchors_columns"),
    "a name twice, once without its survey": (
        lambda rows: rows[1].update(name=rows[0]["name"].removeprefix("SDSS").lower()),
        "anchors_duplicate_names",
    ),
    "a lens under two names": (twin(), "anchors_duplicate_sky"),
    "recalled, without a table": (first(source="literature"), "anchors_provenance"),
    "a mock arc in a real galaxy": (first(arc_domain="nature"), "anchors_domains"),
    "rounded coordinates": (
        every(lambda row: {"ra_deg": round(row["ra_deg"], 2), "dec_deg": round(row["dec_deg"], 1)}),
        "anchors_positions",
    ),
    "no survey source within 2 arcsec: wrong positions": (
        every(lambda _row: {"match_arcsec": 177.0, "type": None}),
        "anchors_survey_match",
    ),
    "one in five at the wrong place": (
        lambda rows: [row.update(match_arcsec=None) for row in rows[::5]],
        "anchors_survey_match",
    ),
    "anchors on stars": (every(lambda _row: {"type": "PSF"}), "anchors_on_sources"),
    "anchors on sources too faint for a deflector": (
        every(lambda _row: {"flux_r": 0.2}),
        "anchors_on_sources",
    ),
}
CONTAMINANT_FAULTS = {
    "49 rings": (lambda rows: rows.remove(rows[0]), "contaminants_ring"),
    "a galaxy of arcminutes": (first(size_arcsec=500.0), "contaminants_size"),
    "M51 and NGC 5194": (twin(name="NGC 5194"), "contaminants_duplicates"),
    "placeholder coordinates": (
        first(name="GZRing001", ra_deg=180.25, dec_deg=40.5),
        "contaminants_placeholder",
    ),
    "whole degrees": (first(ra_deg=180.0, dec_deg=40.0), "contaminants_placeholder"),
    "no table": (first(source=""), "contaminants_provenance"),
    "a size that is none": (first(size_arcsec=-3.0), "contaminants_columns"),
    "a known lens among the look-alikes": (
        first(ra_deg=clean_anchors()[0]["ra_deg"], dec_deg=clean_anchors()[0]["dec_deg"] + 3 / 3600),
        "contaminants_known_lens",
    ),
}


def test_clean_catalogues_raise_nothing():
    findings = anchors_of(clean_anchors())
    assert findings.all_passed, [str(f) for f in findings if not f.passed]
    assert {f.name for f in findings} == {"anchors_count", *ANCHOR_CHECKS} - {"anchors_blank_sky"}
    found = contaminants_of(clean_contaminants(), anchors=ANCHORS.conform(clean_anchors()))
    assert found.all_passed, [str(f) for f in found if not f.passed]
    classes = {f"contaminants_{name}" for name in PROTOCOL.contaminants.minima}
    assert {f.name for f in found} == {*CONTAMINANT_CHECKS, *classes}


@pytest.mark.parametrize("fault", ANCHOR_FAULTS)
def test_each_fault_of_anchors_is_found_by_its_finding(fault):
    change, name = ANCHOR_FAULTS[fault]
    rows = clean_anchors()
    change(rows)
    failed = {f.name for f in anchors_of(rows).failed}
    assert name in failed
    assert failed <= {name, "anchors_theta_e", "anchors_on_sources"}


@pytest.mark.parametrize("fault", CONTAMINANT_FAULTS)
def test_each_fault_of_contaminants_is_found_by_its_finding(fault):
    change, name = CONTAMINANT_FAULTS[fault]
    rows = clean_contaminants()
    change(rows)
    failed = {f.name for f in contaminants_of(rows, anchors=ANCHORS.conform(clean_anchors())).failed}
    assert failed == {name}


def test_anchors_that_were_never_matched_are_not_evaluated():
    rows = clean_anchors()
    every(lambda _row: {"match_arcsec": None})(rows)
    findings = anchors_of(rows)
    assert {f.name for f in findings.not_evaluated} == {"anchors_survey_match", "anchors_on_sources"}


def test_too_few_lookalikes_are_found_by_class():
    counts = dict(PROTOCOL.contaminants.minima) | {"ring": 49}
    assert [f.name for f in check_counts(counts, 29, PROTOCOL).failed] == [
        "contaminants_ring",
        "anchors_count",
    ]
    assert check_counts(dict(PROTOCOL.contaminants.minima), 30, PROTOCOL).all_passed


def stamps_of(folder, images):
    rows = STAMPS.mock(len(images)).to_pylist()
    for row, image in zip(rows, images, strict=True):
        row.update(kind="lens", category=None, reject=None, stamp_npz=encode_planes("image", image))
        row.update(x_center_pix=31.5, y_center_pix=31.5, pixel_scale_arcsec=0.262)
    return write_rows(local_writer(folder, STAMPS), STAMPS.conform(rows), shard_rows=8, job={"job": "test"})


@pytest.mark.parametrize(("blank", "status"), [(0, Status.PASS), (12, Status.FAIL)])
def test_stamps_of_blank_sky_are_no_lenses(tmp_path, blank, status):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:64, :64]
    galaxy = 0.5 * (1 + ((x - 31.5) ** 2 + (y - 31.5) ** 2) / 9) ** -2
    images = rng.normal(0, 0.01, (24, 3, 64, 64)).astype("f4")
    images[blank:] += galaxy.astype("f4")
    found = anchors_of(clean_anchors(), stamps=stamps_of(tmp_path / "s", images)).named("anchors_blank_sky")
    assert found.status is status
    assert found.n == 24


def test_stamps_of_the_synthetic_sky_have_light_and_a_shifted_centre_has_none(tmp_path):
    from darkhaloscope.stamps.harvest import HarvestSky
    from darkhaloscope.survey.priors import SkyPriors
    from darkhaloscope.survey.sky import plan_bricks

    sky = HarvestSky(seed=3).run(plan_bricks(3, 6, 4, priors=SkyPriors(), anchors=0)).to_pylist()
    images = [decode_planes(row["stamp_npz"], where="t") for row in sky if row["kind"] == "lrg"]
    clean = anchors_of(clean_anchors(), stamps=stamps_of(tmp_path / "a", images))
    assert clean.named("anchors_blank_sky").passed
    moved = [np.roll(image, 26, axis=(1, 2)) for image in images]
    beside = anchors_of(clean_anchors(), stamps=stamps_of(tmp_path / "b", moved))
    assert beside.named("anchors_blank_sky").status is Status.FAIL


@pytest.mark.realdata
def test_published_lenses_pass_what_needs_no_survey(real_data):
    catalogs = real_data / "catalogs"
    tables = [
        read_anchor_table(catalogs / name, evidence="candidate", channel="ground_ml")
        for name in ("new_lenses.tsv", "training_lenses.tsv", "desi_candidates.csv")
    ]
    rows = merge_anchors(tables).anchors
    findings = check_anchors(rows, PROTOCOL)
    assert not findings.failed, [str(f) for f in findings.failed]
    assert findings.named("anchors_count").value > 2000
    assert findings.named("anchors_duplicate_sky").passed
    twice = pa.concat_tables([rows, rows.slice(0, 5)])
    assert check_anchors(twice, PROTOCOL).named("anchors_duplicate_sky").value == 5
