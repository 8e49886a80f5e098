import json
import re

import numpy as np
import pytest
from pydantic import ValidationError

from darkhaloscope.contracts.checks import Check, Findings, Status, above, below, exactly, inside
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.contracts.random import stream
from darkhaloscope.report import (
    Completeness,
    CompletenessBin,
    Epoch,
    History,
    LensPicture,
    ManifestEntry,
    Origin,
    PairPicture,
    RocCurve,
    RunResults,
    render_report,
    write_report,
)
from darkhaloscope.report.numbers import finding_text, quoted
from darkhaloscope.report.report import hard_table, report_json, unlisted_manifests, verdict_sentence

PAIRS, STAMPS, SCORES = "5c0ffee1d0d0abcd", "ab12cd34ef56ab78", "0123456789abcdef"
SIM = Origin(host_domain=HostDomain.SIM, arc_domain=ArcDomain.SIM, manifests=(PAIRS,))
REAL_HOSTS = Origin(host_domain=HostDomain.REAL, arc_domain=ArcDomain.SIM, manifests=(SCORES,))
REAL = Origin(host_domain=HostDomain.REAL, arc_domain=ArcDomain.REAL, manifests=(STAMPS,))


def draw_galaxy(rng, colour=(0.35, 1.0, 1.7), noise=0.006):
    y, x = np.mgrid[:64, :64] - 31.5
    q, phi = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)
    u, v = x * np.cos(phi) + y * np.sin(phi), -x * np.sin(phi) + y * np.cos(phi)
    r = np.sqrt(q * u**2 + v**2 / q + 2.0)
    light = 2.6 * np.exp(-3.3 * (r / 5.0) ** 0.42)
    sky = rng.normal(0, noise, (3, 64, 64))
    return np.array(colour)[:, None, None] * light + sky


def draw_arc(rng, theta_e_arcsec, peak=0.035):
    y, x = np.mgrid[:64, :64] - 31.5
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    turn = np.angle(np.exp(1j * (angle - rng.uniform(0, 2 * np.pi))))
    far = np.exp(-0.5 * ((r - theta_e_arcsec / 0.262) / 1.6) ** 2 - 0.5 * (turn / 0.6) ** 2)
    near = 0.5 * np.exp(-0.5 * ((r - 0.6 * theta_e_arcsec / 0.262) / 1.5) ** 2)
    near *= np.exp(-0.5 * (np.angle(np.exp(1j * (turn - np.pi))) / 0.4) ** 2)
    return peak * np.array([0.75, 1.0, 1.05])[:, None, None] * (far + near)


def draw_pair(index, origin):
    rng = stream(7, "test/pair", str(index))
    theta_e = float(np.linspace(0.6, 2.4, 6)[index % 6])
    control, arc = draw_galaxy(rng), draw_arc(rng, theta_e, peak=0.02 + 0.02 * (index % 3))
    return PairPicture(
        stamp=control + arc,
        control=control,
        arc=arc,
        caption=f"0591m305-{index:05d}#0",
        theta_e_arcsec=theta_e,
        arc_snr_mf=12.0 + 9 * index,
        origin=origin,
    )


def some_epochs(n=14):
    step = np.arange(n)
    noise = stream(7, "test/history", "").normal(0, 0.012, (3, n))
    return tuple(
        Epoch(
            epoch=int(e),
            train_loss=0.69 * np.exp(-e / 7) + 0.18 + noise[0, e],
            select_loss=0.62 * np.exp(-e / 6) + 0.29 + noise[1, e],
            select_auroc=0.93 - 0.36 * np.exp(-e / 4) + noise[2, e],
            select_core_masked_auroc=0.86 - 0.32 * np.exp(-e / 5) - noise[2, e],
            lr=float(1e-3 * 0.5 * (1 + np.cos(np.pi * e / n)) + 1e-6),
        )
        for e in step
    )


def some_roc(label="synthetic hosts", shift=1.7, origin=SIM):
    rng = stream(7, "test/roc", label)
    pos, neg = rng.normal(shift, 1, 245), rng.normal(0, 1, 980)
    cuts = np.sort(np.concatenate([pos, neg]))[::-1]
    fpr = np.array([0.0, *[(neg >= c).mean() for c in cuts], 1.0])
    tpr = np.array([0.0, *[(pos >= c).mean() for c in cuts], 1.0])
    return RocCurve(label=label, fpr=fpr, tpr=tpr, n_pos=len(pos), n_neg=len(neg), origin=origin)


def some_gates():
    return Findings(
        [
            Check(
                name="core_lr_auc_grouped",
                bound=below(0.65),
                why="the core alone must not reveal the label",
                needs_n=300,
            ).measure(
                0.5714,
                n=735,
                interval=(0.5391, 0.6043),
                n_clusters=702,
                detail="asinh arm, GroupKFold by host, R=10",
            ),
            Check(
                name="control_identity",
                bound=exactly(0),
                why="a control is its stamp minus its arc, bit for bit",
            ).measure(0, n=735),
            Check(name="win_rate", bound=above(0.5), why="an arc must raise its own galaxy's score").measure(
                0.9102, n=245, interval=(0.868, 0.942)
            ),
            Check(
                name="sham", bound=inside(0.47, 0.53), why="zero flux must look like nothing", needs_n=3600
            ).measure(0.5102, n=245, interval=(0.461, 0.559), detail="too few rows for an equivalence test"),
            Check(
                name="core_nl_low_overlap",
                bound=below(0.1),
                why="arcs that hardly touch the core",
                needs_n=500,
            ).not_evaluated("too few pairs with kappa < 0.10", n=71),
            Check(name="auroc_synth", version="v1", decides=False, bound=above(0.85)).measure(
                0.8974, n=1225, interval=(0.8731, 0.9182)
            ),
            Check(name="core_lr_auc", version="v1", decides=False, bound=below(0.65)).measure(
                0.431,
                n=1470,
                detail="invalid_null: below .45 identical partners sit on both sides of the fold",
            ),
            Check(name="core_masked_drop", version="v1", decides=False, bound=below(0.1)).measure(
                0.134, n=490, interval=(0.09, 0.18)
            ),
        ]
    )


def measured(name, value, low=None, high=None, n=1225, **more):
    facts = dict(
        method="cluster bootstrap, 95 %, B=2000",
        n_clusters=1180,
        host_domain=HostDomain.SIM,
        arc_domain=ArcDomain.SIM,
        seeds=(42,),
        manifests=(SCORES,),
    )
    return Measured(name=name, value=value, low=low, high=high, n=n, **(facts | more))


def mock_results(**changes):
    none = {"status": Status.NOT_EVALUATED, "n_clusters": None}
    contaminant = {
        "arc_domain": ArcDomain.NONE,
        "host_domain": HostDomain.NATURE,
        "method": "Clopper-Pearson 95 %",
        "n_clusters": None,
    }
    bins = [
        (0, 0.5, 0, 0),
        (0.5, 0.75, 9, 31),
        (0.75, 1, 17, 34),
        (1, 1.5, 41, 58),
        (1.5, 2, 52, 63),
        (2, 2.5, 50, 59),
        (2.5, None, 0, 0),
    ]
    content = dict(
        title="Synthetic sky, demo-sized run",
        config="configs/experiments/demo.yaml",
        seeds=(42,),
        verdict="NO-GO",
        reasons=(
            "foundation check no_shared_host failed: 1 host stands in two splits.",
            "Two gates need more rows.",
        ),
        created="2026-01-05T12:00:00Z",
        code_version="0.1.0+g1234567",
        measured=(
            measured("auroc_synth", 0.89742, 0.87313, 0.91821),
            measured(
                "tpr_at_fpr_1e-2_synth", 0.4123, 0.331, 0.498, detail="threshold from 980 negatives, k = 9"
            ),
            measured("tpr_at_fpr_1e-3_synth", None, n=980, detail="needs 10,000 negatives, has 980", **none),
            measured("precision_at_recall_90_synth", 0.8123, 0.771, 0.846),
            measured("ece_synth", 0.0412, 0.029, 0.058, method="15 bins of equal mass"),
            measured(
                "auroc_real_hosts_sim_arcs",
                0.861,
                0.80,
                0.91,
                n=92,
                n_clusters=46,
                host_domain=HostDomain.REAL,
            ),
            measured(
                "mock_anchor_recall_at_50",
                0.62,
                0.45,
                0.77,
                n=34,
                host_domain=HostDomain.SIM,
                arc_domain=ArcDomain.NATURE,
                method="Jeffreys 95 %",
                n_clusters=None,
            ),
        ),
        gallery=tuple(draw_pair(i, SIM if i < 4 else REAL_HOSTS) for i in range(6)),
        history=History(epochs=some_epochs(), best_epoch=11, seed=42, n_train=1470, n_select=490, origin=SIM),
        roc=(some_roc(), some_roc("real hosts", 1.3, REAL_HOSTS)),
        gates=some_gates(),
        gates_origin=SIM,
        foundation=[
            Check(name="no_shared_host", bound=exactly(0), why="no galaxy may stand in two splits").measure(
                1, n=1225, examples=("0591m305-00017",)
            ),
            Check(name="finite_stamps", bound=exactly(0), why="no NaN in any pixel").measure(0, n=1225),
        ],
        foundation_origin=SIM,
        completeness=Completeness(
            bins=tuple(
                CompletenessBin(
                    lo=lo,
                    hi=hi,
                    k=k,
                    n=n,
                    value=k / n if n else None,
                    low=max(0, k / n - 1 / n**0.5) if n else None,
                    high=min(1, k / n + 0.9 / n**0.5) if n else None,
                )
                for lo, hi, k, n in bins
            ),
            threshold_source="FPR 1e-2 on 980 calibration negatives",
            origin=SIM,
        ),
        contaminants=(
            measured("mock_contaminant_fpr_ring_p50", 0.125, 0.035, 0.29, n=32, **contaminant),
            measured(
                "mock_contaminant_fpr_spiral_p50",
                0.0,
                0.0,
                0.0909,
                n=32,
                detail="no hits: below 3/N",
                **contaminant,
            ),
        ),
        hard_negatives=tuple(
            measured(f"hardneg_sim_{kind}_{name}", value, value - 0.02, value + 0.02, n=700, **changed)
            for kind, values in (("HN0", (0.77, 0.91, 0.74, 0.05)), ("HN1", (0.51, 0.73, 0.29, 0.14)))
            for name, value in zip(("artefact_auc", "auroc", "tpr_at_fpr_01", "fpr"), values, strict=True)
            for changed in [{"status": Status.FAIL} if value == 0.77 else {}]
        ),
        slices=(measured("auroc_synth_psf_1.0-1.3", 0.91, 0.87, 0.94, n=400),),
        real_lenses=tuple(
            LensPicture(
                stamp=3 * draw_galaxy(stream(7, "test/lens", str(i)))
                + draw_arc(stream(8, "test/lens", str(i)), 2.2, 0.1),
                name=f"test field {i}",
                score=0.91 - 0.3 * i,
                percentile=97.4 - 12 * i,
                n_negatives=980,
                origin=REAL,
            )
            for i in range(2)
        ),
        manifests=(
            ManifestEntry(fingerprint=STAMPS, table="stamps v1", rows=1225, what="survey targets"),
            ManifestEntry(
                fingerprint=PAIRS, table="paired_stamps v1", rows=735, what="pairs, baseline recipe"
            ),
            ManifestEntry(fingerprint=SCORES, table="scores v1", rows=2450, what="scores of the test split"),
        ),
        limits=("Two real lens fields were scored; no recall can be read from them.",),
    )
    return RunResults(**(content | changes))


def flat(page):
    """What a reader sees, without pictures and tags."""
    text = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
    text = re.sub(r"data:image/[^\"]*", "", text)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.fixture(scope="module")
def results():
    return mock_results()


@pytest.fixture(scope="module")
def page(results):
    return render_report(results)


def test_sections_stand_in_the_order_a_reader_needs(page):
    order = re.findall(r'<h2 id="(\w+)"', page)
    assert order == [
        "done",
        "numbers",
        "pairs",
        "training",
        "roc",
        "gates",
        "foundation",
        "completeness",
        "hard",
        "contaminants",
        "lenses",
        "provenance",
        "limits",
    ]
    assert page.index("NO-GO</span>") < page.index('<h2 id="done"')


def test_a_no_go_says_so_in_one_sentence_with_its_counts(results, page):
    assert "✕ NO-GO" in flat(page)
    assert (
        "Do not rely on these results: of 7 deciding checks 4 passed, 1 failed (no_shared_host), 2 "
        in flat(page)
    )
    assert verdict_sentence(results) in flat(page)
    assert all(reason in page for reason in results.reasons)


def test_go_is_refused_while_a_deciding_check_is_open():
    with pytest.raises(
        ValidationError, match=r"GO needs every deciding check to pass; not passed: .*no_shared_host"
    ):
        mock_results(verdict="GO")
    with pytest.raises(ValidationError, match="none made"):
        mock_results(verdict="GO", gates=(), foundation=())
    passed = [f for f in some_gates() if f.passed or not f.decides]
    assert "all 3 deciding checks passed" in verdict_sentence(
        mock_results(verdict="GO", gates=passed, foundation=())
    )
    conditional = mock_results(verdict="CONDITIONAL-GO", foundation=())
    assert "◇ CONDITIONAL-GO" in flat(render_report(conditional))


def test_every_measured_number_stands_with_interval_n_method_domain_and_a_linked_manifest(results, page):
    gates = page.index('<h2 id="gates"'), page.index('<h2 id="completeness"')
    rows = re.findall(r"<tr.*?</tr>", page[: gates[0]] + page[gates[1] :], flags=re.DOTALL)
    rows = {name: row for row in rows for name in re.findall(r'class="name"><code>(.*?)</code>', row)}
    for m in (*results.measured, *results.slices, *results.contaminants):
        row = rows[m.name]
        assert f'<a href="#manifest-2"><code>{SCORES[:8]}</code></a>' in row
        assert m.method in row
        assert "seed 42" in row
        assert ("NOT EVALUATED" in row.replace("\u00a0", " ")) == (m.status is Status.NOT_EVALUATED)
    assert 'id="manifest-2"' in page
    assert '0.897 <span class="interval">[0.873, 0.918]</span>' in rows["auroc_synth"]
    assert "needs 10,000 negatives, has 980" in rows["tpr_at_fpr_1e-3_synth"]
    assert "host real · arc simulated" in rows["auroc_real_hosts_sim_arcs"]
    assert "host synthetic · arc mock" in rows["mock_anchor_recall_at_50"]


def test_each_kind_of_hard_negative_is_one_row_with_its_light_and_its_probe(results, page):
    table = hard_table(results.hard_negatives)
    assert [row["kind"] for row in table] == ["HN0", "HN1"]
    assert table[0]["artefact_auc"].status is Status.FAIL
    assert table[1]["fpr"].value == 0.14
    text = flat(page[page.index('<h2 id="hard"') : page.index('<h2 id="contaminants"')])
    assert re.search(r"HN1 light shuffled within rings 700 0\.51\d* \[0\.49\d*, 0\.53\d*\] 0\.73", text)
    assert text.count("FAIL") == 1
    assert "host synthetic · arc simulated" in text
    bare = render_report(mock_results(hard_negatives=()))
    assert "No hard negatives were scored" in flat(bare)


def test_gates_that_decide_come_first_and_the_others_are_marked(page):
    text = flat(page)
    assert (
        text.index("These decide")
        < text.index("core_lr_auc_grouped")
        < text.index("Reported; does not decide")
    )
    assert text.index("Reported; does not decide") < text.index("core_masked_drop")
    assert "needs 3\u202f600" in page
    assert "invalid_null" in text


def test_each_figure_says_what_is_real_how_many_and_which_manifest(page):
    captions = [
        c for c in re.findall(r"<figcaption>(.*?)</figcaption>", page, flags=re.DOTALL) if "Figure" in c
    ]
    assert [int(n) for n in re.findall(r"<b>Figure (\d)\.", page)] == [1, 2, 3, 4, 5, 6, 7]
    assert len(captions) == 7
    for caption in captions:
        if "what is real stands under each" in caption:
            continue
        assert "arcs are" in caption or "there are no arcs" in caption
        assert "#manifest-" in caption
        assert re.search(r"\bn (=|stands)", caption)
    assert "host real · arc real · manifest" in flat(page)
    assert "The galaxies are real, the arcs are simulated." in flat(page)


def test_names_from_outside_are_escaped():
    evil = "<script>alert('x')</script>"
    base = mock_results()
    changed = mock_results(
        title=evil,
        config=evil,
        reasons=(evil,),
        limits=(evil,),
        what_was_done=(evil,),
        created=evil,
        code_version=evil,
        measured=(measured(evil, 0.5, 0.4, 0.6, detail=evil, method=evil, manifests=(evil,), unit=evil),),
        gates=[Check(name=evil, bound=below(1), why=evil).measure(0.5, detail=evil, examples=(evil,))],
        gallery=[base.gallery[0].model_copy(update={"caption": f'"{evil}'})],
        real_lenses=[base.real_lenses[0].model_copy(update={"name": f'"{evil}', "detail": evil})],
        roc=[base.roc[0].model_copy(update={"label": "$" + evil})],
        manifests=(ManifestEntry(fingerprint=evil, table=evil, rows=1, what=evil),),
    )
    page = render_report(changed)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 20
    assert '"<' not in re.sub(r"<[^<>]*>", "", page)


def test_the_page_asks_nothing_of_the_network(page):
    assert "default-src 'none'" in page
    targets = re.findall(r"""\b(?:src|href|action|poster)\s*=\s*["\']?([^"\'\s>]*)""", page)
    assert len(targets) > 20
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert not re.search(r"url\(|@import|<script|<iframe|<object|<embed|srcset", page)


def test_the_same_results_give_the_same_bytes(page):
    assert render_report(mock_results()) == page


def test_missing_pieces_are_said_in_a_sentence():
    bare = RunResults(title="t", config="c", seeds=(1,), verdict="NO-GO", created="d", code_version="v")
    text = flat(render_report(bare))
    for sentence in (
        "no deciding check was made",
        "No number was measured in this run.",
        "No pairs were handed in, so none are shown.",
        "No training history was handed in",
        "No ROC curve",
        "No gate was evaluated, so none has passed.",
        "No foundation check was made, so none has passed.",
        "Completeness was not measured",
        "No contaminants were scored",
        "No real lens was scored in this run",
        "No manifest was handed in, so no number here can be traced.",
    ):
        assert sentence in text
    assert "Figure" not in text


def test_a_manifest_that_is_not_in_the_provenance_table_is_named():
    stray = mock_results(
        measured=(measured("auroc_synth", 0.9, 0.8, 0.95, manifests=("deadbeefdeadbeef", SCORES)),)
    )
    assert unlisted_manifests(stray) == ["deadbeefdeadbeef"]
    assert "not traceable from here: deadbeefdeadbeef" in flat(render_report(stray))
    assert unlisted_manifests(mock_results()) == []


def test_a_shortened_manifest_links_to_its_row():
    page = render_report(
        mock_results(measured=(measured("auroc_synth", 0.9, 0.8, 0.95, manifests=(SCORES[:8],)),))
    )
    assert f'<a href="#manifest-2"><code>{SCORES[:8]}</code></a>' in page


def test_the_twin_has_the_content_without_the_pixels(results, tmp_path):
    page, twin = write_report(results, tmp_path / "deep" / "report.html")
    data = json.loads(twin.read_text())
    assert page.read_text() == render_report(results)
    assert twin.name == "report.json"
    assert data == report_json(results)
    assert data["verdict"] == "NO-GO"
    assert [m["name"] for m in data["measured"]] == [m.name for m in results.measured]
    assert data["measured"][0]["value"] == 0.89742
    assert data["gates"][3]["status"] == "NOT_EVALUATED"
    assert len(data["roc"][0]["fpr"]) == len(results.roc[0].fpr)
    assert data["gallery"][0]["theta_e_arcsec"] == 0.6
    assert not {"stamp", "control", "arc"} & (set(data["gallery"][0]) | set(data["real_lenses"][0]))
    assert not list(tmp_path.glob("**/*.part"))


def test_a_folder_that_cannot_be_made_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"report\.html: the report cannot be written: "):
        write_report(mock_results(), tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.89742, 0.87313, 0.91821, "0.897 [0.873, 0.918]"),
        (0.62, 0.45, 0.77, "0.62 [0.45, 0.77]"),
        (0.996, 0.92, 0.999, "0.996 [0.920, 0.999]"),
        (0.0, 0.0, 0.0909, "0.00 [0.00, 0.09]"),
        (-0.0123, -0.031, 0.004, "\u22120.012 [\u22120.031, 0.004]"),
        (12345.0, 12000.0, 12700.0, "12\u202f345 [12\u202f000, 12\u202f700]"),
        (0.000012, 0.000002, 0.00004, "0.000012 [0.000002, 0.000040]"),
        (0.431, None, None, "0.431"),
        (3.0, None, None, "3"),
        (None, None, None, "none"),
    ],
)
def test_numbers_are_rounded_to_their_interval(value, low, high, shown):
    assert quoted(value, low, high) == shown


def test_rounding_never_moves_a_number_across_its_bound():
    close = Check(name="core_lr_auc", bound=below(0.65)).measure(0.6497, interval=(0.55, 0.75))
    assert quoted(0.6497, 0.55, 0.75) == "0.65 [0.55, 0.75]"
    assert finding_text(close) == "0.6497 [0.5500, 0.7500]"


def test_numpy_scalars_and_nan_are_taken_and_the_wrong_shape_is_not():
    epoch = Epoch(epoch=np.int64(3), train_loss=np.float32(0.5), select_loss=np.nan)
    assert (epoch.epoch, epoch.train_loss, epoch.select_loss) == (3, 0.5, None)
    with pytest.raises(ValidationError):
        LensPicture(
            stamp=np.zeros((64, 64)), name="flat", score=None, percentile=None, n_negatives=0, origin=REAL
        )
    with pytest.raises(ValidationError):
        mock_results(unheard_of=1)
