"""Fabricated values of every figure: as they will mostly be, the least there can be, and the worst."""

from itertools import pairwise

import numpy as np

from darkhaloscope.contracts.checks import Check, above, below, exactly, inside
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.contracts.random import stream
from darkhaloscope.report import values as v

SIM = v.Origin(host_domain=HostDomain.SIM, arc_domain=ArcDomain.SIM, manifests=("5c0ffee1d0d0abcd",))
REAL_HOSTS = v.Origin(host_domain=HostDomain.REAL, arc_domain=ArcDomain.SIM, manifests=("0123456789abcdef",))
REAL = v.Origin(host_domain=HostDomain.REAL, arc_domain=ArcDomain.REAL, manifests=("ab12cd34ef56ab78",))
NO_ARC = v.Origin(host_domain=HostDomain.NATURE, arc_domain=ArcDomain.NONE, manifests=("fedcba9876543210",))

LONG = "a name $of_ {such} length% that no column of any journal & no axis could ever hold it on one line"


def rng(what):
    return stream(11, "test/shown", what)


def cube(seed="c", ring=0.0):
    y, x = np.mgrid[:64, :64] - 31.5
    r = np.hypot(x, y)
    light = 1.4 * np.exp(-0.9 * r**0.6) + ring * 0.05 * np.exp(-0.5 * ((r - 9) / 1.5) ** 2)
    return np.array([0.4, 1.0, 1.6])[:, None, None] * light + rng(seed).normal(0, 0.006, (3, 64, 64))


def pair(**changes):
    control, arc = cube("p"), cube("p", 1.0) - cube("p")
    facts = {
        "stamp": control + arc,
        "control": control,
        "arc": arc,
        "theta_e_arcsec": 1.234,
        "arc_snr_mf": 18.4,
    }
    return v.PairPicture(**(facts | {"origin": SIM} | changes))


def wilson(k, n, z=1.96):
    if not n:
        return {"value": None}
    p, s = k / n, z * z / n
    half = z * np.sqrt(p * (1 - p) / n + s / (4 * n)) / (1 + s)
    middle = (p + s / 2) / (1 + s)
    return {"value": p, "low": max(0.0, middle - half), "high": min(1.0, middle + half)}


def counted(k, n, least=30):
    return {"k": k, "n": n, "sufficient": n >= least, **wilson(k, n)}


def history(n=14, **changes):
    step = np.arange(n)
    epochs = [
        v.Epoch(
            epoch=int(e),
            train_loss=0.69 * np.exp(-e / 7) + 0.18,
            select_loss=0.62 * np.exp(-e / 6) + 0.29,
            select_auroc=0.93 - 0.36 * np.exp(-e / 4),
            select_core_masked_auroc=0.86 - 0.32 * np.exp(-e / 5),
            lr=1e-3 * 0.9**e,
        )
        for e in step
    ]
    facts = {
        "epochs": epochs,
        "best_epoch": n - 3,
        "seed": 42,
        "n_train": 14_700,
        "n_select": 4_900,
        "origin": SIM,
    }
    return v.History(**(facts | changes))


def roc_curve(label, shift=1.7, n_pos=245, n_neg=980, origin=SIM):
    draw = rng(label)
    pos, neg = draw.normal(shift, 1, min(n_pos, 500)), draw.normal(0, 1, min(max(n_neg, 1), 5000))
    cuts = np.sort(np.concatenate([pos, neg]))[::-1]
    fpr = np.array([0.0, *[(neg >= c).mean() for c in cuts], 1.0])
    tpr = np.array([0.0, *[(pos >= c).mean() for c in cuts], 1.0])
    return v.RocCurve(label=label, fpr=fpr, tpr=tpr, n_pos=n_pos, n_neg=n_neg, origin=origin)


def completeness(bins=8, n=60):
    edges = [*np.linspace(0, 0.25 * (bins - 1), bins), None]
    cells = [
        v.CompletenessBin(lo=float(lo), hi=hi, **counted(round(min(0.9, 0.1 + 0.3 * lo) * m), m))
        for i, (lo, hi) in enumerate(pairwise(edges))
        for m in [0 if i == 0 else (n - 7 * i) % n or n]
    ]
    return v.Completeness(bins=cells, threshold_source="FPR 1e-2 on 980 calibration negatives", origin=SIM)


def selection_map(columns=5, rows=6, n=60):
    x = v.Binning(quantity="Einstein radius", unit="arcsec", edges=[*np.linspace(0.5, 2.5, columns), None])
    y = v.Binning(quantity="matched-filter S/N of the arc", edges=[*np.linspace(5, 50, rows), None])
    cells = [
        [
            v.Counted(**counted(round(m * min(0.97, 0.05 + 0.13 * j + 0.1 * i)), m))
            for i in range(columns)
            for m in [max(0, n - 9 * abs(i - j))]
        ]
        for j in range(rows)
    ]
    facts = {"threshold_source": "FPR 1e-2", "method": "Jeffreys 95 %, design effect", "origin": SIM}
    return v.SelectionMap(x=x, y=y, cells=cells, **facts)


def selection_curve(label, quantity, unit, xs, rise, *, log_x=False, fit=True, n=80, origin=SIM):
    xs = np.asarray(xs, dtype=float)

    def share(x):
        t = np.log(x) if log_x else x
        ends = np.log(xs) if log_x else xs
        return 0.95 / (1 + np.exp(-rise * (t - ends.mean()) / (ends.std() or 1.0)))

    points = [
        v.SelectionPoint(x=x, lo=0.9 * x, hi=1.1 * x, **counted(round(m * share(x)), m))
        for i, x in enumerate(xs)
        for m in [max(4, n - 11 * i)]
    ]
    line = None
    if fit:
        x = np.geomspace(xs[0], xs[-1], 60) if log_x else np.linspace(xs[0], xs[-1], 60)
        value = share(x)
        line = v.Fit(
            x=x, value=value, low=value - 0.06, high=np.minimum(value + 0.06, 1), method="P-spline, 95 %"
        )
    return v.SelectionCurve(
        label=label,
        quantity=quantity,
        unit=unit,
        points=points,
        fit=line,
        log_x=log_x,
        threshold_source="FPR 1e-2",
        method="Jeffreys 95 %",
        origin=origin,
    )


def selection_curves():
    return v.SelectionCurves(
        curves=[
            selection_curve(label, *about[:-1], about[-1] - rise, log_x=log, origin=origin)
            for rise, (label, origin) in enumerate([("synthetic hosts", SIM), ("real hosts", REAL_HOSTS)])
            for about, log in (
                (("Einstein radius", "arcsec", np.linspace(0.6, 2.6, 8), 2.0), False),
                (("matched-filter S/N of the arc", "", np.geomspace(5, 180, 8), 2.5), True),
                (("Einstein radius / PSF FWHM", "", np.linspace(0.4, 2.2, 6), 1.5), False),
            )
        ]
    )


def reliability(labels=("uncalibrated", "temperature", "isotonic"), bins=10, counts=True):
    curves = []
    for i, label in enumerate(labels):
        p = (np.arange(bins) + 0.5) / bins
        cells = [
            v.ReliabilityBin(
                probability=q, n=100, **wilson(round(100 * q ** (1 + 0.5 * (len(labels) - 1 - i))), 100)
            )
            for q in p
        ]
        held = v.Histogram(
            label=label,
            edges=np.linspace(0, 1, 21),
            n=20_000,
            origin=SIM,
            counts=tuple(int(2_500 * np.exp(-(3 + i) * q) + 60 * q) for q in (np.arange(20) + 0.5) / 20),
        )
        curves.append(v.ReliabilityCurve(label=label, bins=cells, probabilities=held if counts else None))
    return v.Reliability(curves=curves, n_pos=4_900, n_neg=15_100, method="Wilson 95 %", origin=SIM)


def contaminants(
    categories=("ring", "spiral", "merger", "edge-on", "spike", "artefact"), n=60, thresholds=(0.5, 0.9)
):
    rows = [
        v.ContaminantRate(category=name, threshold=f"p > {p:g}", **counted(k, m, 20))
        for i, name in enumerate(categories)
        for j, p in enumerate(thresholds)
        for m in [max(0, n - 12 * (i % 6))]
        for k in [min(m, max(0, 6 - 2 * j - (i % 6)))]
    ]
    return v.ContaminantRates(rows=rows, origin=NO_ARC)


def ablation(arms=("full", "no hard negatives", "no core dropout", "unpaired", "minimal"), endpoints=3):
    about = [
        ("TPR at FPR 1e-3", "share", 0.41, 0.05),
        ("AUROC", "probability", 0.93, 0.01),
        ("necessity of the core", "share", 0.02, 0.02),
        ("calibration slope", "", 0.9, 0.06),
        ("logit TPR", "", -0.3, 0.2),
    ]
    made = []
    for name, unit, centre, width in about[:endpoints]:
        rows = []
        for i, arm in enumerate(arms):
            seeds = rng(f"{name}{arm}").normal(centre - i * width, width / 2, 5)
            middle, half = seeds.mean(), 2.78 * seeds.std(ddof=1) / np.sqrt(5)
            each = [v.SeedValue(seed=s, value=x) for s, x in enumerate(seeds)]
            rows.append(
                v.Arm(arm=arm, n=1225 - i, value=middle, low=middle - half, high=middle + half, seeds=each)
            )
        made.append(
            v.Endpoint(
                quantity=name,
                unit=unit,
                arms=rows,
                reference=rows[0].value,
                method="t over 5 seeds, 95 %",
                origin=SIM,
            )
        )
    return v.AblationBars(endpoints=made, reference_label="full")


VERDICTS = ("equivalent", "significant", "inconclusive", "differs")


def differences(
    arms=("no hard negatives", "no core dropout", "minimal", "unpaired"), endpoints=3, least=0.02
):
    """Arms less a reference; one arm with a single seed stands last."""
    about = ("auroc_synth", "tpr_at_fpr_001_synth", "mock_anchor_recall_at_100", "a", "b")[:endpoints]
    made = []
    for k, name in enumerate(about):
        rows = [v.Arm(arm="full", n=1500, seeds=seeds_of(), remark="0.931 [0.921, 0.941]")]
        for i, arm in enumerate(arms):
            each = rng(f"{name}{arm}").normal(-0.02 * i * (k + 1), 0.01, 3)
            middle, half = each.mean(), 4.3 * each.std(ddof=1) / np.sqrt(3)
            ends = {"value": middle, "low": middle - half, "high": middle + half}
            rows.append(v.Arm(arm=arm, n=1500, seeds=seeds_of(each), verdict=VERDICTS[(i + k) % 4], **ends))
        rows.append(v.Arm(arm="gen7", n=1500, seeds=seeds_of()[:1], remark="one seed, needs 3"))
        made.append(
            v.Endpoint(
                quantity=f"difference in {name}",
                arms=rows,
                reference=0.0,
                least=least,
                method="95 %: bootstrap of cells, and 3 seeds",
                origin=SIM,
            )
        )
    return v.AblationBars(endpoints=made, reference_label="full", lacking=("a (too few rows)",))


def seeds_of(values=(None, None, None)):
    return tuple(v.SeedValue(seed=seed, value=x) for seed, x in zip((42, 43, 44), values, strict=True))


def histogram(label, centre, origin, n=500, *, bins=24, edges=(0.0, 4.0)):
    counts, edges = np.histogram(rng(label).normal(centre, 0.5, n), np.linspace(*edges, bins + 1))
    return v.Histogram(label=label, edges=edges, counts=tuple(counts), n=n, origin=origin)


def band(label, scale, origin):
    x = np.linspace(0, 8, 30)
    median = scale * np.exp(-x / 2.5)
    return v.QuantileBand(
        label=label, x=x, low=0.8 * median, median=median, high=1.25 * median, n=311, origin=origin
    )


def realism():
    return v.Realism(
        panels=[
            v.Distribution(
                quantity=q,
                unit=u,
                samples=[histogram("real lenses", 1.6, REAL, 112), histogram("gen7 arcs", c, REAL_HOSTS)],
            )
            for q, u, c in (
                ("surface brightness of the arc", "mag/arcsec²", 2.1),
                ("g − r of the arc", "mag", 1.5),
                ("power beyond 0.3 cycles per pixel", "", 1.7),
                ("Einstein radius", "arcsec", 1.6),
            )
        ]
        + [
            v.Profile(
                quantity="arc light",
                unit="nMgy/px",
                x_quantity="distance from the ring",
                x_unit="px",
                samples=[band("real lenses", 1.0, REAL), band("gen7 arcs", 0.8, REAL_HOSTS)],
            )
        ]
    )


def comparators(features=("hand-crafted", "self-supervised")):
    about = {
        "R0": ("real halves", 0.5, REAL),
        "R1": ("hosts only", 0.55, NO_ARC),
        "R2": ("sham", 0.51, SIM),
        "R3": ("matched hosts", 0.71, REAL_HOSTS),
        "R4": ("arc region", 0.64, REAL_HOSTS),
        "R5": ("source swap", 0.58, SIM),
    }
    rows = [
        v.ComparatorAuc(
            comparator=name,
            what=what,
            features=f,
            n=224,
            value=auc + 0.03 * i,
            low=auc + 0.03 * i - 0.06,
            high=auc + 0.03 * i + 0.06,
            origin=origin,
        )
        for name, (what, auc, origin) in about.items()
        for i, f in enumerate(features)
    ]
    return v.ComparatorAucs(rows=rows, margin=0.1, method="grouped 5 × 5 CV, cluster bootstrap 95 %")


def gates():
    gate = Check(name="core_lr_auc_grouped", bound=below(0.65), needs_n=10)
    return v.Gates(
        findings=[
            gate.measure(0.571, n=735, interval=(0.539, 0.604)),
            gate.measure(0.75, n=12_250, interval=(0.7, 0.8)),
            gate.measure(0.55, n=5),
            gate.not_evaluated("nothing there"),
            Check(name="core_swap_sufficiency_low_overlap", bound=inside(0.47, 0.53)).measure(0.91, n=735),
            Check(name="leaks", bound=exactly(0), decides=False, version="v1").measure(0, n=2_345_678),
            Check(name="win_rate", bound=above(0.5)).measure(0.9102, n=245, interval=(0.868, 0.942)),
        ],
        origin=SIM,
    )


def examples(categories=("host", "ring", "spiral", "merger"), each=5):
    return v.Examples(
        examples=[
            v.Example(stamp=cube(f"{name}{i}", ring=float(j > 0)), category=name, origin=NO_ARC)
            for j, name in enumerate(categories)
            for i in range(each)
        ]
    )


def lenses(n=3, name="test field"):
    return v.Lenses(
        lenses=[
            v.LensPicture(
                stamp=cube(f"lens{i}", 2.0),
                name=f"{name} {i}",
                score=None if i == 1 else 0.91 - 0.1 * i,
                percentile=97.4,
                n_negatives=980,
                detail="ranked among real galaxies",
                origin=REAL,
            )
            for i in range(n)
        ]
    )


def arms_gallery(rows=2):
    row = v.ArmRow(
        control=cube(), stamps=[cube()] * 3, arcs=[cube()] * 3, facts="host 1\nθE 1.2″ $r_{20}\nS/N 18"
    )
    return v.ArmsGallery(rows=[row] * rows, arms=["gen5′", "gen7", "gen8"], least_snr=8)


NOTHING = {"k": 0, "n": 0}
MANY = tuple(f"category {i} $x_{i}$" if i % 5 else f"{LONG} {i}" for i in range(40))
_FACTS = {"threshold_source": "none", "method": "none", "origin": SIM}


def typical():
    """By figure."""
    return {
        "pairs": v.Pairs(pairs=[pair(), pair(theta_e_arcsec=0.61, arc_snr_mf=123.4), pair()]),
        "examples": examples(),
        "lenses": lenses(),
        "arms": arms_gallery(),
        "training_loss": history(),
        "training_auroc": history(),
        "roc": v.Roc(curves=[roc_curve("synthetic hosts"), roc_curve("anchors", 1.2, 112, 400, REAL)]),
        "roc_log": v.Roc(
            curves=[roc_curve("synthetic hosts", n_neg=3000), roc_curve("anchors", 1.2, 112, 400, REAL)]
        ),
        "completeness": completeness(),
        "gates": gates(),
        "selection_map": selection_map(),
        "selection_curves": selection_curves(),
        "reliability": reliability(),
        "contaminants": contaminants(),
        "ablation": differences(),
        "realism": realism(),
        "comparators": comparators(),
    }


def minimal():
    """One bin, one row, nothing measured."""
    empty = v.SelectionPoint(x=1.0, **NOTHING)
    curve = {"label": "x", "quantity": "q", "points": [empty], **_FACTS}
    return {
        "pairs": v.Pairs(pairs=[pair(theta_e_arcsec=None, arc_snr_mf=None)]),
        "examples": examples(("host",), 1),
        "lenses": lenses(1),
        "arms": arms_gallery(1),
        "training_loss": v.History(epochs=[v.Epoch(epoch=0)], seed=1, origin=SIM),
        "training_auroc": v.History(epochs=[v.Epoch(epoch=0)], seed=1, origin=SIM),
        "roc": v.Roc(
            curves=[
                v.RocCurve(
                    label="_", fpr=np.array([0.0, 1]), tpr=np.array([0.0, 1]), n_pos=1, n_neg=0, origin=SIM
                )
            ]
        ),
        "roc_log": v.Roc(
            curves=[
                v.RocCurve(
                    label="", fpr=np.array([0.0, 1]), tpr=np.array([0.0, 1]), n_pos=1, n_neg=0, origin=SIM
                )
            ]
        ),
        "completeness": v.Completeness(
            bins=[v.CompletenessBin(lo=0, hi=None, **NOTHING)], threshold_source="none", origin=SIM
        ),
        "gates": v.Gates(findings=[Check(name="g", bound=below(1)).not_evaluated("none")]),
        "selection_map": v.SelectionMap(
            x=v.Binning(quantity="x", edges=(None, None)),
            y=v.Binning(quantity="y", edges=(0, 1)),
            cells=[[v.Counted(**NOTHING)]],
            **_FACTS,
        ),
        "selection_curves": v.SelectionCurves(curves=[v.SelectionCurve(**curve)]),
        "reliability": v.Reliability(
            curves=[v.ReliabilityCurve(label="x", bins=[v.ReliabilityBin(probability=0.5, n=0)])],
            n_pos=0,
            n_neg=0,
            method="none",
            origin=SIM,
        ),
        "contaminants": v.ContaminantRates(
            rows=[v.ContaminantRate(category="ring", threshold="p > 0.5", **NOTHING)], origin=NO_ARC
        ),
        "ablation": v.AblationBars(
            endpoints=[v.Endpoint(quantity="AUROC", arms=[v.Arm(arm="a", n=0)], method="none", origin=SIM)]
        ),
        "realism": v.Realism(
            panels=[
                v.Distribution(
                    quantity="q",
                    samples=[v.Histogram(label="s", edges=np.array([0.0, 1]), counts=(0,), n=0, origin=SIM)],
                )
            ]
        ),
        "comparators": v.ComparatorAucs(
            rows=[v.ComparatorAuc(comparator="R0", features="f", n=0, origin=REAL)], margin=0.1, method="none"
        ),
    }


def extreme():
    """Long and nasty names, many of everything, shares of 0 and 1, counts in the millions."""
    bad = Check(name=LONG, bound=inside(0.4699999, 0.4700001), decides=False, version="v1")
    names = [f"{LONG} {i}" for i in range(6)]
    wide = selection_map(20, 30, 1_234_567)
    return {
        "pairs": v.Pairs(pairs=[pair(theta_e_arcsec=12345.678, arc_snr_mf=1.234e9)] * 6),
        "examples": examples(MANY, 1),
        "lenses": lenses(13, LONG),
        "arms": arms_gallery(5),
        "training_loss": history(300, n_train=123_456_789, n_select=98_765_432, best_epoch=297),
        "training_auroc": history(300, n_train=123_456_789, n_select=98_765_432, best_epoch=297),
        "roc": v.Roc(curves=[roc_curve(name, n_neg=200) for name in names]),
        "roc_log": v.Roc(
            curves=[roc_curve(name, n_neg=500) for name in names[:-1]]
            + [roc_curve("_", n_pos=1_000_000, n_neg=3)]
        ),
        "completeness": completeness(40, 12_345),
        "gates": v.Gates(
            findings=[
                bad.measure(0.47, n=1_234_567_890),
                bad.measure(-1e9, n=1, interval=(-1e9, 1e9)),
                *gates().findings * 5,
            ]
        ),
        "selection_map": wide.model_copy(
            update={
                "x": wide.x.model_copy(update={"quantity": LONG}),
                "y": wide.y.model_copy(update={"quantity": LONG}),
            }
        ),
        "selection_curves": v.SelectionCurves(
            curves=[
                selection_curve(
                    name, f"{q} {LONG}", "arcsec", np.geomspace(1e-6, 1e6, 12), 2.0, log_x=True, n=10**9
                )
                for name in names
                for q in "abcde"
            ]
        ),
        "reliability": reliability([f"{LONG} {i}" for i in range(7)], 50),
        "contaminants": contaminants(MANY, 1_000_000, (0.1, 0.5, 0.7, 0.9)),
        "ablation": differences([f"{LONG} {i}" for i in range(12)], 5, 1e-9),
        "realism": v.Realism(
            panels=[
                v.Distribution(
                    quantity=f"{i} {LONG}",
                    unit="erg/s/cm²/Å",
                    samples=[histogram(name, 1e6, SIM, 10**6, bins=50, edges=(0, 2e6)) for name in names],
                )
                for i in range(7)
            ]
        ),
        "comparators": comparators([f"{LONG} {i}" for i in range(4)]),
    }
