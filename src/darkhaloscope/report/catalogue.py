"""Which figures a run has: one list for the page and for the paper."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.measured import HostDomain, Measured
from darkhaloscope.report import figures
from darkhaloscope.report.parts import Origin, Shown, says_nothing
from darkhaloscope.report.run import RunResults
from darkhaloscope.report.values import (
    ContaminantRate,
    ContaminantRates,
    Examples,
    Gates,
    Lenses,
    Pairs,
    Roc,
    SelectionCurves,
)

Draw = Callable[..., Figure]


class Kind(NamedTuple):
    """A kind of figure: name, function, its values in a run, and why there may be none."""

    name: str
    draw: Draw
    values: Callable[[RunResults], Sequence[Shown]]
    absent: str


class Entry(NamedTuple):
    """One figure of a run."""

    kind: str
    name: str
    draw: Draw
    value: Shown

    @property
    def function(self) -> str:
        """Where the figure is made: ``darkhaloscope.report.figures.curves.roc``."""
        return f"{self.draw.__module__}.{self.draw.__qualname__}"


def _one(value: Shown | None) -> tuple[Shown, ...]:
    return () if value is None else (value,)


def _pairs(r: RunResults) -> Sequence[Shown]:
    return (Pairs(pairs=r.gallery),) if r.gallery else ()


def _examples(r: RunResults) -> Sequence[Shown]:
    return (Examples(examples=r.examples),) if r.examples else ()


def _history(r: RunResults) -> Sequence[Shown]:
    return _one(r.history)


def _roc(r: RunResults) -> Sequence[Shown]:
    return (Roc(curves=r.roc),) if r.roc else ()


def gates_of(r: RunResults) -> Gates | None:
    """The gates of a run, those that decide first; None without any."""
    decided_first = tuple(sorted(r.gates, key=lambda f: not f.decides))
    return Gates(findings=decided_first, origin=r.gates_origin) if r.gates else None


def _curves(r: RunResults) -> Sequence[Shown]:
    return (SelectionCurves(curves=r.selection_curves),) if r.selection_curves else ()


def _contaminants(r: RunResults) -> Sequence[Shown]:
    return r.contaminant_rates or contaminant_rates(r.contaminants, confidence=r.confidence)


def _lenses(r: RunResults) -> Sequence[Shown]:
    return (Lenses(lenses=r.real_lenses),) if r.real_lenses else ()


KINDS = (
    Kind("pairs", figures.pairs, _pairs, "no pairs were handed in"),
    Kind("examples", figures.examples, _examples, "no stamps by category were handed in"),
    Kind("training_loss", figures.training_loss, _history, "no training history was handed in"),
    Kind("training_auroc", figures.training_auroc, _history, "no training history was handed in"),
    Kind("roc", figures.roc, _roc, "nothing was scored, or one of the two classes was empty"),
    Kind("roc_log", figures.roc_log, _roc, "nothing was scored, or one of the two classes was empty"),
    Kind("gates", figures.gates, lambda r: _one(gates_of(r)), "no gate was evaluated"),
    Kind(
        "completeness", figures.completeness, lambda r: _one(r.completeness), "completeness was not measured"
    ),
    Kind("selection_map", figures.selection_map, lambda r: r.selection_maps, "no selection map was measured"),
    Kind("selection_curves", figures.selection_curves, _curves, "no selection curve was measured"),
    Kind("reliability", figures.reliability, lambda r: _one(r.reliability), "no reliability was measured"),
    Kind("contaminants", figures.contaminants, _contaminants, "no contaminants were scored"),
    Kind("lenses", figures.lenses, _lenses, "no real lens was scored"),
    Kind("ablation", figures.ablation, lambda r: _one(r.ablation), "no arms were compared"),
    Kind(
        "realism",
        figures.realism,
        lambda r: _one(r.realism),
        "no real arcs were compared with simulated ones",
    ),
    Kind(
        "comparators", figures.comparators, lambda r: _one(r.comparators), "no probe told two samples apart"
    ),
)
"""Every kind of figure, in the order of a paper."""


def figures_of(results: RunResults) -> tuple[tuple[Entry, ...], dict[str, str]]:
    """The figures of a run, and the kinds it has none of, each with the reason.

    A value in which nothing was measured is a reason and no figure: empty axes say less than a sentence.
    """
    entries: list[Entry] = []
    absent: dict[str, str] = {}
    for kind in KINDS:
        values = kind.values(results)
        told = [value for value in values if not says_nothing(value)]
        if not told:
            absent[kind.name] = "nothing in it could be measured" if values else kind.absent
        names = _names(kind.name, told)
        entries += [Entry(kind.name, name, kind.draw, v) for name, v in zip(names, told, strict=True)]
    return tuple(entries), absent


_DOMAIN = {
    HostDomain.REAL: "real",
    HostDomain.SIM: "synthetic",
    HostDomain.NATURE: "mock",
    HostDomain.MIXED: "mixed",
}


def _names(kind: str, values: Sequence[Shown]) -> list[str]:
    """One name each: contaminants by what they are, so that real and mock share none; others by number."""
    names = [
        f"{kind}_{_DOMAIN[value.origin.host_domain]}" if isinstance(value, ContaminantRates) else kind
        for value in values
    ]
    return [
        name if names.count(name) == 1 else f"{name}_{names[:place].count(name) + 1}"
        for place, name in enumerate(names)
    ]


def _at(method: str, confidence: float) -> str:
    """A method with its level, where it does not say it itself: ``Clopper-Pearson 95 %``."""
    level = "" if "%" in method else f" {100 * confidence:g} %"
    return method.replace("clopper-pearson", "Clopper-Pearson") + level


_RATE = re.compile(r"^(?:mock_)?contaminant_fpr_(?P<category>.+)_p(?P<percent>\d+)$")


def contaminant_rates(rows: Sequence[Measured], *, confidence: float) -> tuple[ContaminantRates, ...]:
    """The rates among measured numbers (``contaminant_fpr_ring_p50``), apart by what the galaxies are.

    confidence   that of the numbers' intervals
    """
    found: dict[HostDomain, list[tuple[Measured, ContaminantRate]]] = {}
    for m in rows:
        name = _RATE.match(m.name)
        if name is None:
            continue
        rate = ContaminantRate(
            category=name["category"],
            threshold=f"p > {int(name['percent']) / 100:g}",
            k=0 if m.value is None else round(m.value * m.n),
            n=m.n,
            value=m.value,
            low=m.low,
            high=m.high,
            sufficient=m.status is Status.PASS,
        )
        found.setdefault(m.host_domain, []).append((m, rate))
    return tuple(
        ContaminantRates(
            rows=tuple(rate for _, rate in each),
            method="; ".join(dict.fromkeys(_at(m.method, confidence) for m, _ in each)),
            origin=Origin(
                host_domain=host,
                arc_domain=each[0][0].arc_domain,
                manifests=tuple(dict.fromkeys(name for m, _ in each for name in m.manifests)),
            ),
        )
        for host, each in found.items()
    )
