"""Each shortcut, planted once and strongly, fails the gate meant for it; clean data pass them all.

The hosts are few, so rows needed and bounds are eased; `benchmarks/shortcuts.py` does the same with the
numbers of the protocol, over many skies.
"""

import functools

import numpy as np
import pytest
from benchmarks import shortcuts
from scipy.ndimage import gaussian_filter
from tests.gates.conftest import radii

from darkhaloscope.contracts.checks import Status, inside
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.protocol import load_protocol
from darkhaloscope.evaluation.metrics import performance_findings
from darkhaloscope.gates import classes, leakage, whole_stamp
from darkhaloscope.gates.classes import SeenClass, class_findings, host_matching
from darkhaloscope.gates.leakage import (
    _Bench,
    _control_identity,
    _sham,
    _sham_pixels,
    _sham_texture,
    leakage_findings,
    look_at,
)
from darkhaloscope.gates.reliance import reliance_findings
from darkhaloscope.gates.whole_stamp import PixelSums, pixel_shift, texture_moments
from darkhaloscope.stamps.preprocess import Preprocess

ASINH = Preprocess(kind="asinh")
EASED = inside(0.38, 0.62)


@pytest.fixture(autouse=True)
def eased(monkeypatch):
    """300 rows of each class decide, with bounds as wide as their intervals ask for."""
    for module, name in ((leakage, "TEXTURE"), (classes, "CLASSES")):
        easy = getattr(module, name).model_copy(update={"bound": EASED, "needs_n": 250})
        monkeypatch.setattr(module, name, easy)
        pixels = functools.partial(_eased_pixels, whole_stamp.pixel_check)
        monkeypatch.setattr(module, "pixel_check", pixels)


def _eased_pixels(check, n_pixels):
    return check(n_pixels).model_copy(update={"needs_n": 250})


@pytest.fixture(scope="module")
def low():
    """The protocol with the sham gates eased alike, and one cross-validation."""
    protocol = load_protocol(overrides=["leakage_probe.repeats=1", "statistics.bootstrap=1000"])
    gates = {
        name: gate.model_copy(update={"needs_n": 250, "bound": (EASED.low, EASED.high)})
        if name.startswith("sham_")
        else gate
        for name, gate in protocol.gates.v2.items()
    }
    return protocol.model_copy(update={"gates": protocol.gates.model_copy(update={"v2": gates})})


SHAM_GATES = ("sham_core_lr_auc", "sham_core_nl_auc", "sham_texture_auc", "sham_pixel_shift")


def sham_findings(pairs, protocol):
    """Those of `leakage_findings` that look at pairs without an arc."""
    bench = _Bench(protocol, 1, {"asinh": ASINH})
    found = [_sham(bench, pairs, kind) for kind in ("linear", "nonlinear")]
    found += [_sham_texture(bench, pairs), _sham_pixels(bench, pairs), _control_identity(bench, pairs)]
    return {f.name: f for f in found}


def marked_outside(hosts):
    image = hosts["image"].copy()
    image[:, :, 40, 16] += 2 * hosts["sigma"]
    return image


PLANTED = {
    "bright core": (lambda h: h["image"] * np.where(radii(h) < 5.0, 1.2, 1.0)[:, None], "sham_core_lr_auc"),
    "mark outside": (marked_outside, "sham_pixel_shift"),
    "smoothing": (lambda h: gaussian_filter(h["image"], (0, 0, 0.6, 0.6)), "sham_texture_auc"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_shortcut_fails_the_gate_meant_for_it(name, hosts, pairs_of, low):
    plant, gate = PLANTED[name]
    found = sham_findings(pairs_of(plant(hosts)), low)
    assert found[gate].status is Status.FAIL, str(found[gate])
    assert found["control_identity"].status is Status.FAIL
    assert found["control_identity"].value == 600


def test_a_mark_in_the_core_is_found_by_pixels_and_not_by_moments(watermark, low):
    found = sham_findings(watermark, low)
    assert found["sham_core_lr_auc"].status is Status.FAIL
    assert found["sham_core_nl_auc"].status is Status.PASS  # one pixel of 78: its gate is the linear one


def test_clean_sham_pairs_pass_every_leakage_gate_and_leave_performance_unevaluated(sham, low):
    found = sham_findings(sham, low)
    assert {f.status for f in found.values()} == {Status.PASS}, [str(f) for f in found.values()]
    assert not found["sham_texture_auc"].decides
    assert not found["sham_pixel_shift"].decides
    performance = reliance_findings(sham, None, protocol=low, seed=1) + performance_findings((), low)
    assert {f.status for f in performance} == {Status.NOT_EVALUATED}
    assert {f.name for f in performance} >= {"auroc_synth", "hardneg_auroc", "core_swap_necessity"}


def test_too_few_rows_are_not_evaluated(sham, low):
    found = sham_findings(sham.take(np.arange(100)), low)
    assert {found[name].status for name in SHAM_GATES} == {Status.NOT_EVALUATED}


# --- classes that are not pairs --------------------------------------------------------------------------


def seen_class(hosts, rows, change=lambda x: x):
    pixels = change(ASINH.apply(hosts["image"][rows], hosts["x"][rows], hosts["y"][rows]))
    return SeenClass(pixels, hosts["names"][rows], hosts["x"][rows], hosts["y"][rows])


def noise_overestimated(seen):
    return np.arcsinh(np.sinh(seen) / 1.05).astype("f4")


def test_a_normalisation_that_depends_on_the_label_is_found(hosts, low):
    first, second = np.arange(300), np.arange(300, 600)
    clean = class_findings(seen_class(hosts, first), seen_class(hosts, second), protocol=low, seed=1)
    assert clean.all_passed, [str(f) for f in clean]
    planted = seen_class(hosts, first, noise_overestimated)
    found = class_findings(planted, seen_class(hosts, second), protocol=low, seed=1)
    assert found.named("class_texture_auc").status is Status.FAIL
    assert found.named("class_core_nl_auc").status is Status.PASS  # the core tells nothing of it


def test_a_factor_before_normalisation_is_no_shortcut_but_breaks_the_controls(hosts, pairs_of, low):
    """Nothing of it is left in what the network sees: only the stored pixels differ."""
    scaled = pairs_of(1.25 * hosts["image"])
    np.testing.assert_allclose(
        ASINH.apply(scaled.stamps, scaled.x_center, scaled.y_center),
        ASINH.apply(scaled.controls, scaled.x_center, scaled.y_center),
        atol=1e-4,
    )
    few = scaled.take(np.arange(40))
    assert sham_findings(few, low)["control_identity"].status is Status.FAIL


def test_hosts_of_another_brightness_are_found_by_the_core(hosts, low):
    brightness = np.log(np.abs(hosts["image"][:, 1, 27:37, 27:37].sum(axis=(1, 2))))
    bright = brightness > np.median(brightness)
    found = class_findings(
        *(seen_class(hosts, np.flatnonzero(rows)) for rows in (bright, ~bright)), protocol=low, seed=1
    )
    assert found.named("class_core_nl_auc").status is Status.FAIL
    assert found.named("class_core_lr_auc").status is Status.FAIL


def test_hosts_of_another_magnitude_are_found_in_the_catalogue():
    rng = np.random.default_rng(3)

    def facts(n=2200, shift=0.0, spread=1.0):
        return {"mag_r": 19 + shift + spread * rng.normal(size=n), "psfsize_r": rng.normal(1.2, 0.1, n)}

    assert host_matching(facts(), facts()).status is Status.PASS
    found = host_matching(facts(shift=0.3), facts())
    assert found.status is Status.FAIL
    assert "largest in mag_r" in found.detail
    assert host_matching(facts(spread=3.0), facts()).status is Status.PASS  # means alone are compared
    assert host_matching(facts(2000), facts(2000)).status is Status.NOT_EVALUATED
    unknown = facts() | {"psfsize_r": np.full(2200, np.nan)}
    assert host_matching(unknown, unknown).status is Status.NOT_EVALUATED
    constant = {"mag_r": np.full(2200, 19.0)}
    assert host_matching(constant, constant).value == 0.0
    assert host_matching(constant, {"mag_r": np.full(2200, 20.0)}).status is Status.FAIL
    with pytest.raises(DataError, match="psfsize_r"):
        host_matching(facts(), {"mag_r": np.zeros(2200)})


def test_a_host_in_both_classes_is_refused(hosts, low):
    side = seen_class(hosts, np.arange(60))
    with pytest.raises(DataError, match="60 hosts are in both"):
        class_findings(side, side, protocol=low, seed=1)


# --- the features, and the experiment --------------------------------------------------------------------


def test_texture_does_not_depend_on_neighbours_and_the_most_shifted_pixel_is_named(hosts):
    seen = ASINH.apply(hosts["image"][:200], hosts["x"][:200], hosts["y"][:200])
    whole = texture_moments(seen)
    assert whole.shape == (200, 75)
    assert np.isfinite(whole).all()
    assert np.ptp(whole, axis=0).min() > 0
    np.testing.assert_allclose(texture_moments(seen[50:60]), whole[50:60], rtol=1e-5, atol=1e-5)
    shifted = seen[100:].copy()
    shifted[:, 2, 5, 7] += 3
    value, where = pixel_shift(PixelSums.of([shifted[:30], shifted[30:]]), PixelSums.of([seen[:100]]))
    assert value > 10
    assert where.startswith("z of x=7 y=5")


@pytest.fixture(scope="module")
def sky():
    return shortcuts.make_sky(5, 120)


def test_the_experiment_sees_what_the_gates_see(sky):
    """It takes no median twice and makes features once; the gates' own way gives the same numbers."""
    own = ASINH.apply(sky.image, sky.x, sky.y)
    for kind in shortcuts.KINDS:
        close = {"rtol": 1e-3, "atol": 2e-3}  # a share of pixels moves by one where a value is at the edge
        np.testing.assert_allclose(shortcuts.plain(sky)[kind], look_at(kind, own, sky.x, sky.y), **close)


def test_the_experiment_names_its_gates_as_the_gates_do(sky, low):
    cut = shortcuts.SHORTCUTS["normalisation"]
    mine = shortcuts.class_gates(sky, "normalisation", cut, 0.05, low)
    sides = [
        SeenClass(
            ASINH.apply(sky.image[rows], sky.x[rows], sky.y[rows]), sky.hosts[rows], sky.x[rows], sky.y[rows]
        )
        for rows in (sky.is_positive, ~sky.is_positive)
    ]
    theirs = class_findings(*sides, protocol=low, seed=1)
    assert [f.name for f in mine] == [*(f.name for f in theirs), "host_matching"]
    pairs = shortcuts.PairArrays.of(sky.image[:9], sky.image[:9], sky.hosts[:9])
    names = {f.name for f in leakage_findings(pairs, protocol=low, seed=1)}
    assert {f.name for f in shortcuts.sham_gates(sky, shortcuts.CLEAN, 0.0, low)} < names
    assert shortcuts.sham_gates(sky, shortcuts.SHORTCUTS["bright core"], 1.2, low)[-1].value == len(sky.sham)
    assert {f.name for f in shortcuts.arc_gates(sky, shortcuts.CLEAN, 0.0, low, n=60)} < names


def test_hosts_chosen_by_magnitude_differ_by_as_many_deviations_as_asked(sky):
    chosen = shortcuts.by_magnitude(sky, 2.0)
    assert chosen.sum() == len(sky) // 2
    assert sky.facts["mag_r"][chosen].mean() < sky.facts["mag_r"][~chosen].mean() - 0.5


def test_an_interrupted_experiment_goes_on_where_it_stopped(tmp_path, monkeypatch):
    made = []
    row = {"design": "sham", "shortcut": "bright core", "strength": 1.2, "gate": "sham_core_lr_auc",
           "failed": True, "value": 0.7, "interval": None, "n": 9, "detail": ""}  # fmt: skip
    monkeypatch.setattr(shortcuts, "make_sky", lambda seed, _n: made.append(seed) or seed)
    monkeypatch.setattr(shortcuts, "BLOCKS", {"main": lambda _: [row], "curve": lambda _: [row]})
    path = tmp_path / "found.jsonl"
    shortcuts.run(path, 2, 1, 9)
    whole = path.read_text()
    path.write_text(whole[:-20])  # killed while the last line was written
    rows = shortcuts.run(path, 3, 1, 9)
    first = shortcuts.FIRST_SEED
    assert made == [first, first + 1, first + 1, first + 2]
    assert [(r["seed"] - first, r["block"]) for r in rows] == [
        (0, "main"),
        (0, "curve"),
        (1, "main"),
        (2, "main"),
    ]
    (main, curve) = shortcuts.table(rows)
    assert (main["failed"], main["seeds"], curve["seeds"]) == (3, 3, 1)
    assert main["meant"]
    page = shortcuts.markdown(shortcuts.table(rows))
    assert "| bright core 1.2 | **3 of 3** (0.7) |" in page
    assert "| bright core | 1.2 | `sham_core_lr_auc` | 1 of 1 |" in page
    assert shortcuts.run(path, 1, 1, 8)[0]["pairs"] == 8  # other sizes are another experiment
