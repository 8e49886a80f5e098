import hashlib
import io
import itertools
import os
import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from tests.report import layout, shown

from darkhaloscope.contracts.checks import Check, Status, below
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.report import figures, parts, values
from darkhaloscope.report.captions import caption
from darkhaloscope.report.catalogue import KINDS
from darkhaloscope.report.figures import canvas
from darkhaloscope.report.figures.curves import MOST_MARKS
from darkhaloscope.report.figures.rows import VERDICT_LOOKS, no_hits_bound
from darkhaloscope.stamps.rgb import stamp_png, viewer_rgb
from darkhaloscope.stats.counts import upper_bound_no_hits

INPUTS = {"typical": shown.typical, "minimal": shown.minimal, "extreme": shown.extreme}
EVERY = sorted(shown.typical())
PIXELS = {"arms", "examples", "lenses", "pairs"}


@pytest.fixture(scope="module")
def given():
    return {name: make() for name, make in INPUTS.items()}


@pytest.fixture(scope="module")
def drawn(given):
    """A figure for each input, made once; those who read it do not change what is in it."""
    made = {}

    def figure(which, name):
        if (which, name) not in made:
            made[which, name] = draw(name, given[which][name])
        return made[which, name]

    return figure


def draw(name, value):
    return getattr(figures, name)(value)


def rendered(name, value, kind="svg"):
    return figures.rendered(draw(name, value), kind)


def read_png(content):
    return imread(io.BytesIO(content))[..., :3]


def corner_cube(band, value=1.0):
    """Light in one band at x = 9, y = 2 only."""
    cube = np.zeros((3, 20, 30), dtype=np.float32)
    cube[band, 2, 9] = value
    return cube


# --- what holds for every figure -------------------------------------------------------------------------


def test_every_kind_of_figure_is_looked_at_here():
    public = {name for name in figures.__all__ if name.islower()} - {"pair_png", "rendered"}
    assert set(EVERY) == public
    assert {kind.name for kind in KINDS} == public - {"arms"}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("which", INPUTS)
def test_no_text_is_clipped_overlaps_or_is_small_and_every_axis_is_named(drawn, which, name):
    figure = drawn(which, name)
    assert layout.faults(figure) == []
    assert layout.unnamed_axes(figure) == []


def test_the_layout_checker_sees_a_crowd_a_clipped_text_a_small_one_and_a_nameless_axis():
    figure = Figure(figsize=(2, 2))
    axes = figure.add_subplot()
    axes.set_xticks(np.linspace(0, 1, 30), [f"tick {i}" for i in range(30)])
    axes.text(0.9, 0.5, "far beyond the edge of the canvas")
    axes.text(0.5, 0.5, "tiny", fontsize=4)
    axes.set_ylabel("named")
    found = layout.faults(figure)
    assert any(fault.startswith("overlap: 'tick 3' and 'tick 4'") for fault in found)
    assert any(fault.startswith("clipped: 'far beyond") for fault in found)
    assert any(fault.startswith("small: 'tiny'") for fault in found)
    assert layout.unnamed_axes(figure) == ["axes 0: x"]


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_prints_its_n(drawn, name):
    if name == "arms":
        return
    texts = " ".join(text.get_text() for text, _ in layout.texts_of(drawn("typical", name)))
    assert re.search(r"\bn = \d", texts)


@pytest.mark.parametrize("name", EVERY)
def test_widths_are_those_of_a_journal(given, drawn, name):
    if name == "arms":
        return
    for which in INPUTS:
        assert drawn(which, name).get_size_inches()[0] in (canvas.SINGLE, canvas.DOUBLE)
    png = read_png(rendered(name, given["typical"][name], "png"))
    assert png.shape[1] in (1020, 2100)


def _is_vector(pdf):
    return b"/Subtype /Image" not in pdf


def _fonts(pdf):
    return set(re.findall(rb"/Subtype /(Type3|Type0|CIDFontType2|TrueType)", pdf))


@pytest.mark.parametrize("name", EVERY)
def test_a_pdf_is_vector_with_embedded_truetype_and_holds_no_date(given, name):
    pdf = rendered(name, given["typical"][name], "pdf")
    assert _is_vector(pdf) == (name not in PIXELS)
    assert _fonts(pdf) <= {b"Type0", b"CIDFontType2", b"TrueType"}
    assert pdf.count(b"/FontFile2") >= 1
    assert not re.search(rb"/(CreationDate|ModDate|Producer|Creator)\b", pdf)


def test_the_pdf_checks_see_pixels_and_type_3():
    figure = Figure()
    figure.add_subplot().imshow(np.eye(3))
    out = io.BytesIO()
    with mpl.rc_context({"pdf.fonttype": 3}):
        figure.savefig(out, format="pdf")
    assert not _is_vector(out.getvalue())
    assert b"Type3" in _fonts(out.getvalue())


def test_svgs_carry_no_date_no_link_no_pixels(given):
    for name in EVERY:
        content = rendered(name, given["typical"][name])
        assert content.rstrip().endswith(b"</svg>"), name
        assert b"dc:date" not in content
        assert b"Matplotlib v" not in content
        assert (b"<image" in content) == (name in PIXELS)


def test_figures_do_not_depend_on_the_readers_matplotlibrc(given):
    names = ("roc_log", "selection_map", "contaminants", "gates", "reliability")
    plain = [rendered(name, given["typical"][name]) for name in names]
    strange = {
        "font.size": 20, "axes.facecolor": "black", "svg.hashsalt": "other", "lines.linewidth": 9,
        "font.family": "serif", "xtick.labelsize": 3, "axes.prop_cycle": mpl.cycler(color="r"),
    }  # fmt: skip
    with mpl.rc_context(strange):
        assert [rendered(name, given["typical"][name]) for name in names] == plain
    assert mpl.rcParams["font.size"] == mpl.rcParamsDefault["font.size"]


_DIGESTS = """
import hashlib
from tests.report import shown
from darkhaloscope.report import figures
for name, value in sorted(shown.typical().items()):
    if name in ("contaminants", "gates", "realism", "reliability", "roc_log", "selection_map"):
        for kind in ("svg", "pdf"):
            made = figures.rendered(getattr(figures, name)(value), kind)
            print(name, kind, hashlib.sha256(made).hexdigest())
"""


@pytest.mark.slow
def test_the_same_value_gives_the_same_bytes_in_another_process():
    """Whatever the order of its sets: two hash seeds."""
    told = [
        subprocess.run(
            [sys.executable, "-c", _DIGESTS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0].count("\n") == 12
    assert told[0] == told[1]


def test_drawing_never_touches_pyplot():
    code = "import sys, darkhaloscope.report; assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", EVERY)
def test_a_caption_says_n_how_intervals_were_made_what_is_real_and_from_what(given, name):
    if name == "arms":
        return
    for which in INPUTS:
        value = given[which][name]
        text = caption(value)
        assert re.search(r"\bn = (\d|unrecorded)", text)
        for origin in parts.origins(value):
            assert origin.sentence in text
            assert all(manifest[:8] in text for manifest in origin.manifests)
        if not isinstance(value, (values.Pairs, values.Examples)):
            assert re.search(r"[Ii]nterval|%|quantile", text), text
    if ArcDomain.SIM in {o.arc_domain for o in parts.origins(given["typical"][name])}:
        assert "simulated" in caption(given["typical"][name])


def test_a_value_without_a_caption_is_refused():
    with pytest.raises(TypeError, match="no caption is known for Epoch"):
        caption(values.Epoch(epoch=1))


# --- colours ---------------------------------------------------------------------------------------------

SIGHT = {
    "common": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
"""What is left of linear red, green and blue (Machado, Oliveira & Fernandes 2009, severity 1)."""

TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE 1976 L* a* b* under D65."""
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colours):
    """The least distance of two colours in L* a* b*, by any sight, and where."""
    return min(
        (float(np.linalg.norm(lab(matrix @ linear(a)) - lab(matrix @ linear(b)))), sight, a, b)
        for a, b in itertools.combinations(colours, 2)
        for sight, matrix in SIGHT.items()
    )


def contrast(colour):
    """Of a colour on white, as the Web Content Accessibility Guidelines define it."""
    return 1.05 / (TO_XYZ[1] @ linear(colour) + 0.05)


DISTINCT = 20.0


def test_the_palette_is_told_apart_by_any_sight_and_stands_out_on_white():
    assert nearest(canvas.PALETTE)[0] > DISTINCT, nearest(canvas.PALETTE)
    assert min(contrast(colour) for colour in canvas.PALETTE) > 3
    assert nearest(canvas.STATUS_COLOUR.values())[0] > DISTINCT


def test_red_and_green_would_be_noticed():
    assert nearest(("#d62728", "#2ca02c"))[:2] < (DISTINCT, "deuteranopia")
    assert nearest(("#d62728", "#2ca02c"))[1] == "deuteranopia"
    assert contrast("yellow") < 3


def test_lines_differ_in_colour_or_dash_and_the_first_five_in_everything():
    looks = [canvas.look(i) for i in range(30)]
    assert len({(look.colour, str(look.dash)) for look in looks}) == 30
    for part in range(3):
        assert len({str(look[part]) for look in looks[:5]}) == 5


@pytest.mark.parametrize("name", ["roc", "reliability", "training_loss", "realism", "selection_curves"])
def test_several_curves_are_drawn_with_dashes_of_their_own(given, name):
    figure = draw(name, given["typical"][name])
    handles = figure.legends[0].legend_handles
    if name == "selection_curves":
        handles = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    looks = {
        (h.get_color(), str(h.get_linestyle()), h.get_marker(), str(h._dash_pattern)) for h in handles[:2]
    }
    assert len({look[0] for look in looks}) == 2
    assert len({look[1:] for look in looks}) == 2


def test_shares_are_read_from_lightness_alone():
    """cividis: rising L*, and hardly another colour without red or green."""
    colours = mpl.colormaps["cividis"](np.linspace(0, 1, 64))[:, :3]
    for matrix in SIGHT.values():
        lightness = [lab(matrix @ linear(colour))[0] for colour in colours]
        assert np.all(np.diff(lightness) > 0)


def test_pass_fail_and_not_evaluated_differ_in_colour_and_in_shape():
    for looks in (figures.STATUS_COLOUR, figures.STATUS_MARKER, figures.STATUS_SIGN):
        assert set(looks) == set(Status)
        assert len(set(looks.values())) == len(Status)


# --- stamps ----------------------------------------------------------------------------------------------


def test_an_empty_sky_is_the_dark_grey_of_the_viewer():
    expected = np.arcsinh(20 * 0.03) / np.sqrt(20)
    np.testing.assert_allclose(viewer_rgb(np.zeros((3, 4, 4))), expected)


def test_the_stretch_is_the_viewers_own_on_a_worked_pixel():
    cube = np.array([0.01, 0.02, 0.04])[:, None, None]  # g r z: planes .09, .098, .118
    mean = (0.09 + 0.098 + 0.118) / 3
    scale = np.arcsinh(20 * mean) / np.sqrt(20) / mean
    np.testing.assert_allclose(viewer_rgb(cube)[0, 0], np.array([0.118, 0.098, 0.09]) * scale, rtol=1e-12)


@pytest.mark.parametrize(("band", "plane"), [(0, 2), (1, 1), (2, 0)])
def test_g_r_z_become_blue_green_red(band, plane):
    rgb = viewer_rgb(corner_cube(band, 0.05))
    assert rgb[2, 9].argmax() == plane


def test_colours_stay_in_range_and_a_pixel_without_a_value_is_black():
    cube = np.random.Generator(np.random.Philox(3)).normal(0, 50, (3, 16, 16))
    cube[:, 3, 5] = np.nan
    rgb = viewer_rgb(cube)
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    np.testing.assert_array_equal(rgb[3, 5], 0)


def test_stamps_are_drawn_y_up_at_their_own_size():
    image = read_png(stamp_png(corner_cube(1)))
    assert image.shape == (20, 30, 3)
    brightest = np.unravel_index(image.sum(axis=-1).argmax(), (20, 30))
    assert brightest == (20 - 1 - 2, 9)


def test_a_pair_is_stamp_control_and_arc_in_that_order():
    pair = shown.pair()
    image = read_png(figures.pair_png(pair))
    assert image.shape == (64, 196, 3)
    for tile, cube in enumerate((pair.stamp, pair.control, pair.arc)):
        here = image[:, 66 * tile : 66 * tile + 64]
        np.testing.assert_allclose(here, viewer_rgb(cube)[::-1], atol=1 / 255)


def test_the_pairs_of_a_paper_have_a_row_each():
    one, three = (draw("pairs", values.Pairs(pairs=[shown.pair()] * n)) for n in (1, 3))
    assert (len(one.axes), len(three.axes)) == (3, 9)
    assert three.get_figheight() > 2 * one.get_figheight()
    assert values.pair_facts(shown.pair()) == "θE 1.23″, S/N 18.4"


def test_every_category_is_named_over_its_first_stamp_and_where_a_row_begins():
    value = shown.examples(("host", "ring"), 12)
    titles = [axes.get_title(loc="left") for axes in draw("examples", value).axes]
    assert [i for i, title in enumerate(titles) if title] == [0, 10, 12, 20]
    assert titles[12] == "ring"


# --- single figures --------------------------------------------------------------------------------------


def test_a_changed_value_or_status_changes_the_gates_figure():
    findings = shown.gates().findings

    def drawn(*changed):
        return rendered("gates", values.Gates(findings=[*changed, *findings[1:]]))

    plain = drawn(findings[0])
    assert drawn(findings[0].model_copy(update={"value": 0.56})) != plain
    assert drawn(findings[0].model_copy(update={"status": Status.FAIL})) != plain
    assert drawn(findings[0].model_copy(update={"interval": None})) != plain
    assert drawn(findings[0].model_copy(update={"n": 736})) != plain


def test_more_than_a_dozen_gates_stand_in_two_columns_and_none_is_lost():
    findings = [Check(name=f"gate_{i}", bound=below(1)).measure(0.5, n=9) for i in range(13)]
    for n, columns in ((12, 1), (13, 2)):
        figure = draw("gates", values.Gates(findings=findings[:n]))
        assert len(figure.axes) == columns
        names = [t.get_text() for axes in figure.axes for t in axes.texts if t.get_text().startswith("gate_")]
        assert names == [f.name for f in findings[:n]]


def test_a_long_training_is_a_line_without_marks():
    for n, marked in ((MOST_MARKS, True), (MOST_MARKS + 1, False)):
        line = draw("training_loss", shown.history(n)).axes[0].lines[0]
        assert (line.get_marker() != "none") == marked


def test_a_roc_is_shaded_and_pale_where_ten_of_its_negatives_would_not_lie_above():
    value = values.Roc(curves=[shown.roc_curve("few", n_neg=100), shown.roc_curve("many", n_neg=1000)])
    axes = draw("roc", value).axes[0]
    shade = axes.patches[0]
    assert shade.get_x() + shade.get_width() == pytest.approx(0.01)
    pale = [line for line in axes.lines if line.get_alpha() == 0.4]
    assert [line.get_xdata().max() for line in pale] == [pytest.approx(0.1), pytest.approx(0.01)]
    none = draw("roc_log", values.Roc(curves=[shown.roc_curve("none", n_neg=0)])).axes[0].patches[0]
    assert none.get_x() + none.get_width() == 1


def test_insufficient_bins_and_cells_are_marked_and_carry_no_colour():
    faces = [line.get_markerfacecolor() for line in draw("completeness", shown.completeness()).axes[0].lines]
    cells = shown.completeness().bins
    drawn = [cell for cell in cells if cell.value is not None]
    assert [face == "white" for face in faces[: len(drawn)]] == [not cell.sufficient for cell in drawn]
    figure = draw("selection_map", shown.selection_map())
    hatched = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    cells = [cell for row in shown.selection_map().cells for cell in row]
    assert len(hatched) == sum(not cell.usable for cell in cells) > 0
    assert all(patch.get_facecolor()[:3] == (1, 1, 1) for patch in hatched)


def test_a_cell_of_the_map_stands_at_its_bins_with_its_share_and_counts():
    value = shown.selection_map()
    texts = {t.get_position(): t.get_text() for t in draw("selection_map", value).axes[0].texts}
    cell = value.cells[3][2]
    assert texts[2.5, 3.5] == f"{cell.value:.2f}\n{cell.k}/{cell.n}"
    assert value.cells[0][4].usable is False
    assert texts[4.5, 0.5] == "11/24"


def test_no_hits_are_an_arrow_from_three_over_n():
    row = {"category": "ring", "threshold": "p > 0.5", "value": 0.0, "low": 0.0, "high": 0.06}
    value = values.ContaminantRates(rows=[{"k": 0, "n": 60, **row}], origin=shown.NO_ARC)
    axes = draw("contaminants", value).axes[0]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|"] == [pytest.approx(0.05)]
    assert len([t for t in axes.texts if getattr(t, "arrow_patch", None) is not None]) == 1
    for n in (10, 100, 10_000):
        assert no_hits_bound(n) == pytest.approx(upper_bound_no_hits(n), rel=0.17 if n == 10 else 0.02)
    assert no_hits_bound(0) == no_hits_bound(2) == 1


def test_bars_of_an_ablation_begin_at_the_reference_and_every_seed_is_a_point():
    value = shown.ablation()
    for axes, endpoint in zip(draw("ablation", value).axes, value.endpoints, strict=True):
        bars = [patch for patch in axes.patches if patch.get_height() == 0.5]
        for bar, arm in zip(bars, endpoint.arms, strict=True):
            assert bar.get_x() == pytest.approx(endpoint.reference)
            assert bar.get_x() + bar.get_width() == pytest.approx(arm.value)
        points = [line.get_xdata()[0] for line in axes.lines if line.get_markersize() == 2]
        assert points == [seed.value for arm in endpoint.arms for seed in arm.seeds]


@pytest.mark.parametrize("arms", [1, 2, 10])
def test_differences_read_well_with_few_arms_and_many(arms):
    value = shown.differences([f"arm_{k}_of_an_ablation" for k in range(arms)])
    figure = draw("ablation", value)
    assert layout.faults(figure) == []
    assert layout.unnamed_axes(figure) == []
    texts = [text.get_text() for text, _ in layout.texts_of(figure)]
    assert texts.count("one seed, needs 3") == 3
    assert texts.count("0.931 [0.921, 0.941]") == 3


def test_the_band_of_differences_is_the_least_that_counts_and_always_in_sight():
    for least in (0.02, 0.5):
        value = shown.differences(least=least)
        for axes in draw("ablation", value).axes:
            band = next(patch for patch in axes.patches if patch.get_height() == 1)
            assert (band.get_x(), band.get_width()) == pytest.approx((-least, 2 * least))
            low, high = axes.get_xlim()
            assert low < -least < least < high


def test_verdicts_differ_in_shape_and_in_colour_by_any_sight():
    looks = [which for verdict, which in VERDICT_LOOKS.items() if verdict]
    assert len({which.marker for which in looks}) == len(looks) == 4
    assert nearest([which.colour for which in looks])[0] > DISTINCT


def test_the_mark_of_a_difference_is_its_verdicts():
    value = shown.differences()
    for axes, endpoint in zip(draw("ablation", value).axes, value.endpoints, strict=True):
        marks = {line.get_ydata()[0]: line.get_marker() for line in axes.lines if line.get_markersize() == 4}
        judged = {-k: VERDICT_LOOKS[a.verdict].marker for k, a in enumerate(endpoint.arms) if a.verdict}
        assert marks == judged
        assert -len(endpoint.arms) + 1 not in marks  # one seed: no mark at all


def test_a_caption_of_differences_says_seeds_marks_and_what_was_not_compared():
    text = caption(shown.differences())
    assert "Seeds 42 (gen7); 42, 43, 44 (the others)." in text
    assert "Not compared: a (too few rows)." in text
    assert "hollow diamond: inconclusive, which is not the same as no difference" in text
    plain = caption(shown.differences(arms=("x",)))  # equivalent, significant, inconclusive
    assert "triangle" not in plain


def test_a_caption_lists_a_dozen_manifests_and_counts_more():
    value = shown.differences(endpoints=1)
    for count, said in ((12, f"Manifests {', '.join(12 * ['m'])}"), (13, "13 manifests: see index.json.")):
        origin = shown.SIM.model_copy(update={"manifests": tuple(f"m{k}" for k in range(count))})
        endpoint = value.endpoints[0].model_copy(update={"origin": origin})
        text = caption(value.model_copy(update={"endpoints": (endpoint,)}))
        assert re.sub(r"\bm\d+", "m", text).rstrip(".").endswith(said.rstrip("."))


def test_densities_integrate_to_the_share_inside_the_edges():
    sample = shown.histogram("x", 1.5, shown.SIM).model_copy(update={"n": 1000})
    assert (sample.density * np.diff(sample.edges)).sum() == pytest.approx(sum(sample.counts) / 1000)


def test_the_margin_of_equivalence_is_the_shaded_band():
    band = draw("comparators", shown.comparators()).axes[0].patches[0]
    assert (band.get_x(), band.get_x() + band.get_width()) == (pytest.approx(0.4), pytest.approx(0.6))


# --- values ----------------------------------------------------------------------------------------------


HISTOGRAM = {"label": "h", "edges": np.arange(2.0), "counts": (1,), "n": 2, "origin": shown.SIM}
FIT = {"x": np.arange(2.0), "value": np.zeros(2), "low": np.zeros(2), "high": np.zeros(2), "method": ""}
ROC = {"label": "x", "fpr": np.zeros(3), "tpr": np.zeros(3), "n_pos": 1, "n_neg": 1, "origin": shown.SIM}
CURVE = {
    "label": "x",
    "quantity": "q",
    "points": [values.SelectionPoint(x=-1.0, k=0, n=0)],
    "threshold_source": "",
    "method": "",
    "origin": shown.SIM,
}
MAP = {
    "x": values.Binning(quantity="x", edges=(0, 1)),
    "y": values.Binning(quantity="y", edges=(0, 1, 2)),
    "cells": [[values.Counted(k=0, n=0)], [values.Counted(k=0, n=0)]],
    "threshold_source": "",
    "method": "",
    "origin": shown.SIM,
}
ENDPOINTS = [
    values.Endpoint(quantity=arm, arms=[values.Arm(arm=arm, n=1)], method="", origin=shown.SIM)
    for arm in "ab"
]
BAND = {
    "label": "b",
    "x": FIT["x"],
    "low": FIT["x"],
    "median": FIT["x"],
    "high": FIT["x"],
    "n": 1,
    "origin": shown.SIM,
}


@pytest.mark.parametrize(
    ("kind", "right", "wrong", "said"),
    [
        (values.Ranged, {"value": 0.5}, {"low": 0.4}, "two ends"),
        (values.Ranged, {"value": 0.5}, {"low": 0.6, "high": 0.4}, "upside down"),
        (values.Counted, {"k": 2, "n": 2}, {"k": 3}, "k = 3 of n = 2"),
        (values.Counted, {"k": 2, "n": 2}, {"value": 1.5}, "between 0 and 1"),
        (
            values.Binning,
            {"quantity": "x", "edges": (None, 0, None)},
            {"edges": (0, None, 1)},
            "first and the last",
        ),
        (values.Binning, {"quantity": "x", "edges": (0, 1)}, {"edges": (0, 1, 1)}, "must rise"),
        (values.SelectionMap, MAP, {"cells": MAP["cells"][:1]}, "2 rows of 1 cells"),
        (values.Fit, FIT, {"x": np.zeros(2)}, "must rise"),
        (values.Fit, FIT, {"value": np.zeros(3)}, "as many"),
        (values.Fit, FIT, {"low": np.ones(2)}, "low end"),
        (values.Histogram, HISTOGRAM, {"edges": np.arange(3.0)}, "one edge more"),
        (values.Histogram, HISTOGRAM, {"edges": np.ones(2)}, "finite and rise"),
        (values.Histogram, HISTOGRAM, {"counts": (3,)}, "counts 3 of 2"),
        (values.Histogram, HISTOGRAM, {"counts": (-3,)}, "negative"),
        (values.QuantileBand, BAND, {"low": np.ones(2)}, "cross"),
        (values.QuantileBand, BAND, {"low": np.ones(3)}, "as many"),
        (values.AblationBars, {"endpoints": ENDPOINTS[:1]}, {"endpoints": ENDPOINTS}, "same arms"),
        (values.SelectionCurve, CURVE, {"log_x": True}, "above 0"),
        (values.SelectionCurves, {"curves": [values.SelectionCurve(**CURVE)]}, {"curves": ()}, "at least 1"),
        (values.RocCurve, ROC, {"tpr": np.zeros(4)}, "as many finite"),
        (values.RocCurve, ROC, {"tpr": np.array([0, np.nan, 1])}, "as many finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused_where_it_is_made(kind, right, wrong, said):
    assert kind(**right)
    with pytest.raises(ValueError, match=said):
        kind(**(right | wrong))


def test_nan_becomes_none_and_a_none_is_absent():
    cell = values.Counted(k=0, n=0, value=np.float64("nan"), low=np.nan, high=np.nan)
    assert (cell.value, cell.interval, cell.usable) == (None, None, False)
    assert values.Binning(quantity="x", edges=(np.nan, 1.0, np.inf)).marks == ("\N{MINUS SIGN}∞", "1", "∞")


@pytest.mark.parametrize("name", EVERY)
def test_a_value_without_a_measured_number_says_nothing(given, name):
    silent = {
        "training_loss", "training_auroc", "completeness", "selection_map", "selection_curves", "reliability",
        "contaminants", "ablation", "realism", "comparators",
    }  # fmt: skip
    assert parts.says_nothing(given["minimal"][name]) == (name in silent)
    assert not parts.says_nothing(given["typical"][name])


@pytest.mark.parametrize("host", list(HostDomain))
@pytest.mark.parametrize("arc", list(ArcDomain))
def test_only_real_is_ever_called_real(host, arc):
    sentence, tag = parts.domain_sentence(host, arc), parts.domain_tag(host, arc)
    if host not in (HostDomain.REAL, HostDomain.MIXED) and arc is not ArcDomain.REAL:
        assert "real" not in tag
        assert "real" not in sentence.replace("Neither is real", "")
    assert ("both real" in sentence) == (host is HostDomain.REAL and arc is ArcDomain.REAL)
    assert ("arc real" in tag) == (arc is ArcDomain.REAL)


def test_a_text_is_cut_in_its_middle_to_the_room_it_has():
    whole = canvas.fitted("short", 100)
    cut = canvas.fitted(shown.LONG, 100)
    assert whole == "short"
    assert cut.startswith("a name")
    assert cut.endswith("line")
    assert 80 < canvas.points_of(cut) <= 100
    assert canvas.fitted(shown.LONG, 1) == "…"
    assert canvas.fitted("$x$", 100) == r"\$x\$"


def test_an_axis_label_is_broken_before_it_is_cut():
    assert canvas.axis_label("Einstein radius", "arcsec", 200) == "Einstein radius [arcsec]"
    assert canvas.axis_label("Einstein radius", "arcsec", 60) == "Einstein radius\n[arcsec]"
    assert canvas.axis_label("power beyond 0.3 cycles", "", 70) == "power beyond 0.3\ncycles"
    assert canvas.axis_label(shown.LONG, "", 100).count("…") == 1


@pytest.mark.parametrize(
    ("limits", "marks"),
    [
        ((0, 1), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ((-0.1, 0.1), ["\N{MINUS SIGN}0.08", "\N{MINUS SIGN}0.04", "0.00", "0.04", "0.08"]),
        ((0, 2_000_000), ["0", "4e+05", "8e+05", "1.2e+06", "1.6e+06", "2e+06"]),
        ((3, 3.00004), None),
    ],
)
def test_ticks_have_equal_decimals_and_no_factor_aside(limits, marks):
    figure, axes = canvas.panel("x", "y")
    axes.set_xlim(*limits)
    canvas.few_ticks(axes)
    figure.canvas.draw()
    found = [t.get_text() for t in axes.get_xticklabels() if limits[0] <= t.get_position()[0] <= limits[1]]
    assert axes.xaxis.get_offset_text().get_text() == ""
    assert found == marks if marks else len(set(found)) == len(found)


def test_the_digest_of_a_figure_follows_its_value():
    one, other = (
        values.Gates(findings=[Check(name="g", bound=below(b)).measure(0.5, n=9)]) for b in (0.6, 0.7)
    )
    digests = {hashlib.sha256(rendered("gates", v, "png")).hexdigest() for v in (one, one, other)}
    assert len(digests) == 2
