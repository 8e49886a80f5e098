import io
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from darkhaloscope.contracts.checks import Check, Status, below, exactly, inside
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.report import figures as f
from darkhaloscope.stamps.rgb import stamp_png

ORIGIN = f.Origin(host_domain=HostDomain.REAL, arc_domain=ArcDomain.SIM, manifests=("feedc0de",))


def read_png(content):
    return imread(io.BytesIO(content))[..., :3]


def corner_cube(band, value=1.0):
    """Light in one band at x = 9, y = 2 only."""
    cube = np.zeros((3, 20, 30), dtype=np.float32)
    cube[band, 2, 9] = value
    return cube


def a_pair():
    control, arc = np.full((3, 20, 20), 0.05), corner_cube(1)[:, :, :20].astype(float)
    return f.PairPicture(
        stamp=control + arc, control=control, arc=arc, theta_e_arcsec=1.234, arc_snr_mf=18.4, origin=ORIGIN
    )


def a_history(**changes):
    epochs = [
        f.Epoch(epoch=i, train_loss=1 / (i + 1), select_loss=1.1 / (i + 1), select_auroc=0.6 + 0.03 * i)
        for i in range(5)
    ]
    return f.History(**({"epochs": epochs, "best_epoch": 3, "seed": 1, "origin": ORIGIN} | changes))


def a_roc(label="hosts", n_neg=400):
    fpr = np.linspace(0, 1, 50)
    return f.RocCurve(label=label, fpr=fpr, tpr=fpr**0.3, n_pos=100, n_neg=n_neg, origin=ORIGIN)


def some_completeness():
    cells = [(0.5, 1.0, 3, 10, 0.3), (1.0, None, 8, 10, 0.8)]
    bins = [
        f.CompletenessBin(
            lo=lo,
            hi=hi,
            k=k,
            n=n,
            value=v,
            low=None if v is None else v - 0.2,
            high=None if v is None else v + 0.2,
        )
        for lo, hi, k, n, v in cells
    ]
    return f.Completeness(bins=bins, threshold_source="FPR 1e-2", origin=ORIGIN)


def some_findings():
    gate = Check(name="core_$x_auc", bound=below(0.65), needs_n=10)
    return [
        gate.measure(0.55, n=50, interval=(0.5, 0.6)),
        gate.measure(0.75, n=50, interval=(0.7, 0.8)),
        gate.measure(0.55, n=5),
        gate.not_evaluated("nothing there"),
        Check(name="sham", bound=inside(0.47, 0.53)).measure(0.5),
        Check(name="leaks", bound=exactly(0), decides=False, version="v1").measure(0),
    ]


def all_svgs():
    return {
        "loss": f.training_loss(a_history()),
        "auroc": f.training_auroc(a_history()),
        "roc": f.roc([a_roc(), a_roc("$ others")]),
        "roc_log": f.roc([a_roc()], log_x=True),
        "completeness": f.completeness(some_completeness()),
        "gates": f.gates(some_findings()),
    }


def test_an_empty_sky_is_the_dark_grey_of_the_viewer():
    expected = np.arcsinh(20 * 0.03) / np.sqrt(20)
    np.testing.assert_allclose(f.viewer_rgb(np.zeros((3, 4, 4))), expected)


def test_the_stretch_is_the_viewers_own_on_a_worked_pixel():
    cube = np.array([0.01, 0.02, 0.04])[:, None, None]  # g r z: planes .09, .098, .118
    mean = (0.09 + 0.098 + 0.118) / 3
    scale = np.arcsinh(20 * mean) / np.sqrt(20) / mean
    np.testing.assert_allclose(f.viewer_rgb(cube)[0, 0], np.array([0.118, 0.098, 0.09]) * scale, rtol=1e-12)


@pytest.mark.parametrize(("band", "plane"), [(0, 2), (1, 1), (2, 0)])
def test_g_r_z_become_blue_green_red(band, plane):
    rgb = f.viewer_rgb(corner_cube(band, 0.05))
    assert rgb[2, 9].argmax() == plane


def test_colours_stay_in_range_and_a_pixel_without_a_value_is_black():
    cube = np.random.Generator(np.random.Philox(3)).normal(0, 50, (3, 16, 16))
    cube[:, 3, 5] = np.nan
    rgb = f.viewer_rgb(cube)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    np.testing.assert_array_equal(rgb[3, 5], 0)


def test_stamps_are_drawn_y_up_at_their_own_size():
    image = read_png(stamp_png(corner_cube(1)))
    assert image.shape == (20, 30, 3)
    brightest = np.unravel_index(image.sum(axis=-1).argmax(), (20, 30))
    assert brightest == (20 - 1 - 2, 9)


def test_a_pair_is_stamp_control_and_arc_in_that_order():
    pair = a_pair()
    image = read_png(f.pair_png(pair))
    assert image.shape == (20, 64, 3)
    for tile, cube in enumerate((pair.stamp, pair.control, pair.arc)):
        here = image[:, 22 * tile : 22 * tile + 20]
        np.testing.assert_allclose(here, f.viewer_rgb(cube)[::-1], atol=1 / 255)


def test_svgs_carry_no_date_no_link():
    for name, content in all_svgs().items():
        assert content.rstrip().endswith(b"</svg>"), name
        assert b"dc:date" not in content
        assert b"<image" not in content
        assert b"Matplotlib v" not in content


def test_figures_do_not_depend_on_the_readers_matplotlibrc():
    plain = all_svgs()
    with mpl.rc_context(
        {"font.size": 20, "axes.facecolor": "black", "svg.hashsalt": "other", "lines.linewidth": 9}
    ):
        assert all_svgs() == plain
        assert f.pairs_gallery([a_pair()]) == f.pairs_gallery([a_pair()])
    assert mpl.rcParams["font.size"] == mpl.rcParamsDefault["font.size"]


def test_the_gallery_for_paper_has_a_row_for_each_pair():
    one, three = (read_png(f.pairs_gallery([a_pair()] * n)).shape for n in (1, 3))
    assert one[1] == three[1]
    assert three[0] > 2.4 * one[0]
    assert f.pair_facts(a_pair()) == "θE 1.23″, S/N 18.4"


def test_pass_fail_and_not_evaluated_differ_in_colour_and_in_shape():
    for looks in (f.STATUS_COLOUR, f.STATUS_MARKER, f.STATUS_SIGN):
        assert set(looks) == set(Status)
        assert len(set(looks.values())) == len(Status)


def test_a_changed_value_or_status_changes_the_gates_figure():
    findings = some_findings()
    drawn = f.gates(findings)
    assert f.gates([findings[0].model_copy(update={"value": 0.56}), *findings[1:]]) != drawn
    assert f.gates([findings[0].model_copy(update={"status": Status.FAIL}), *findings[1:]]) != drawn
    assert f.gates([findings[0].model_copy(update={"interval": None}), *findings[1:]]) != drawn


def test_a_history_with_holes_and_no_kept_epoch_is_still_drawn():
    bare = a_history(epochs=[f.Epoch(epoch=0, train_loss=0.7)], best_epoch=None)
    assert f.training_loss(bare).startswith(b"<?xml")
    assert f.training_auroc(bare).startswith(b"<?xml")


def test_a_roc_curve_needs_finite_rates_in_pairs():
    with pytest.raises(ValueError, match="as many finite"):
        f.RocCurve(label="x", fpr=np.zeros(3), tpr=np.zeros(4), n_pos=1, n_neg=1, origin=ORIGIN)
    with pytest.raises(ValueError, match="as many finite"):
        f.RocCurve(label="x", fpr=np.array([0, np.nan]), tpr=np.zeros(2), n_pos=1, n_neg=1, origin=ORIGIN)


def test_a_roc_without_negatives_is_shaded_throughout():
    assert f.roc([a_roc(n_neg=0)], log_x=True) != f.roc([a_roc(n_neg=400)], log_x=True)


@pytest.mark.parametrize("host", list(HostDomain))
@pytest.mark.parametrize("arc", list(ArcDomain))
def test_only_real_is_ever_called_real(host, arc):
    sentence, tag = f.domain_sentence(host, arc), f.domain_tag(host, arc)
    if host not in (HostDomain.REAL, HostDomain.MIXED) and arc is not ArcDomain.REAL:
        assert "real" not in tag
        assert "real" not in sentence.replace("Neither is real", "")
    assert ("both real" in sentence) == (host is HostDomain.REAL and arc is ArcDomain.REAL)
    assert ("arc real" in tag) == (arc is ArcDomain.REAL)


def test_drawing_never_touches_pyplot():
    code = "import sys, darkhaloscope.report; assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
