"""The realism gap: how well simulated lenses can be told from real ones, and what tells them.

One number cannot say it. A probe that separates real lenses from injections may have found the hosts, the
noise, the score it was taught, or the arcs. So the same probe is put to six comparisons, r0 to r5 (see
`comparisons`), in each feature map, and morphology_share = logit(r3) - logit(r1). A difference that was not
seen is never called equivalence: see `separation.Separation.verdict`.

With mock lenses in the part of real ones every name begins with `mock_`. What simulated arcs have a part in
is named `realism_sim_…`: with real lenses on the other side it is no figure of real lenses.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import ArcDomain, Measured
from darkhaloscope.evaluation.arc_light import ArcLight
from darkhaloscope.evaluation.arc_turns import TURNS, bright_region, snr_among_turns
from darkhaloscope.evaluation.comparisons import (
    Comparators,
    Design,
    Populations,
    Side,
    host_of,
    shared_rows,
)
from darkhaloscope.evaluation.propensity import SMD_BOUND, Matching
from darkhaloscope.evaluation.representations import Representation
from darkhaloscope.evaluation.samples import Run
from darkhaloscope.evaluation.separation import (
    LEAST_ROWS,
    MARGIN,
    REPEATS,
    Groups,
    Separation,
    lacks_rows,
    logit_difference,
    paired_differences,
    separate,
)
from darkhaloscope.evaluation.stamp_sets import StampSet
from darkhaloscope.evaluation.two_samples import contrast, kernel_distance
from darkhaloscope.gates.probes import Features
from darkhaloscope.stats import Draws, Estimate, clustered_binomial

NULL_CONFIDENCE = 0.99
"""The null fails where this interval of r0 excludes one half: by chance once in a hundred."""

QUANTILES = tuple(np.linspace(0.0, 1.0, 21).round(2).tolist())
BINS = 20

QUANTITIES = {"brightness": "nmgy/arcsec^2", "g_r": "mag", "r_z": "mag", "snr": ""}
"""What is compared of arcs, with units: fields of `ArcLight`."""

STANDS_OUT = 3.0
"""S/N above which an arc is seen: of noise, one region in 740 is."""

_NO_LIGHT = "needs the inverse variance, theta_E and the PSF's FWHM of both populations"


class Comparison(Frozen):
    """One bar of the figure: a comparison in one feature map."""

    comparison: str
    representation: str
    auc: float | None
    low: float | None
    high: float | None
    verdict: str
    n: int


class Balance(Frozen):
    """Standardised mean difference of one fact before and after matching."""

    fact: str
    before: float
    after: float


class Distribution(Frozen):
    """One quantity of arcs in one population: quantiles at QUANTILES, and counts between edges."""

    quantity: str
    unit: str
    population: str
    n: int
    quantiles: tuple[float, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class RealismFigure(Frozen):
    """Plain data of the figure."""

    margin: float
    comparisons: tuple[Comparison, ...]
    balance: tuple[Balance, ...]
    distributions: tuple[Distribution, ...]


@dataclass(frozen=True)
class Realism:
    """All figures, and the picture's data."""

    measured: tuple[Measured, ...]
    figure: RealismFigure


def realism(
    populations: Populations,
    maps: Sequence[Representation],
    run: Run,
    *,
    repeats: int = REPEATS,
    margin: float = MARGIN,
) -> Realism:
    """Every comparison in every feature map, the kernel distances, and the light of arcs.

    run    protocol, seeds and manifests that the figures carry; `run.seed` keys all draws

    Figures: realism_COMPARISON_MAP and …_kid, realism_sim_morphology_share_MAP, realism_sim_r3_smd,
    realism_sim_arc_QUANTITY, realism_sim_swap_arc_QUANTITY, realism_sim_arc_stands_out. What cannot be made
    is NOT_EVALUATED and says what it needs. Raises DataError for maps of one name.
    """
    if len({m.name for m in maps}) < len(maps):
        raise DataError("feature maps", f"share a name: {', '.join(m.name for m in maps)}")
    bench = _Bench(Comparators(populations, run.seed), run, repeats, margin)
    measured: list[Measured] = []
    bars: list[Comparison] = []
    for phi in maps:
        figures, own = bench.in_map(phi)
        measured += figures
        bars += own
    matching = bench.all.matching
    figure = RealismFigure(
        margin=margin,
        comparisons=tuple(bars),
        balance=_balance(matching),
        distributions=tuple(_distributions(populations, bench.all.light)),
    )
    return Realism((*measured, bench.smd(), *bench.arcs(), bench.stands_out()), figure)


@dataclass(frozen=True, eq=False)
class _Bench:
    all: Comparators
    run: Run
    repeats: int
    margin: float

    def in_map(self, phi: Representation) -> tuple[list[Measured], list[Comparison]]:
        seen = _Seen(phi)
        probes: dict[str, Separation] = {}
        measured: list[Measured] = []
        bars = []
        for design in self.all.designs:
            verdict = "NOT_EVALUATED"
            if design.lacks or design.sides is None or design.groups is None:
                nothing = Estimate(None, None, None, *design.size, "none", design.lacks)
                figures = [
                    self._figure(f"{design.stem}_{phi.name}{end}", nothing, design) for end in ("", "_kid")
                ]
            else:
                sides = (seen.of(design.sides[0]), seen.of(design.sides[1]))
                probe = self._probe(design, phi, *sides, design.groups)
                probes[design.label] = probe
                verdict = design.doubt or probe.verdict(self.margin)
                figures = [self._told(design, phi, probe), self._kid(design, phi, *sides, design.groups)]
            measured += figures
            bars.append(_bar(design, phi, figures[0], verdict))
        return [*measured, self._share(phi, probes)], bars

    def _probe(
        self, design: Design, phi: Representation, a: Features, b: Features, groups: tuple[Groups, Groups]
    ) -> Separation:
        # r1 is set against r3: it learns from as many rows.
        if design.paired and design.sides is not None:
            one, other = design.sides
            a, first = paired_differences(a, b, (one.hosts, other.hosts))
            b, groups = -a, (groups[0][first], groups[0][first])
        m = self.all.matching
        most = len(m.a) if design.label == "r1" and isinstance(m, Matching) else 0
        return separate(
            a,
            b,
            groups,
            seed=self.run.seed,
            purpose=f"evaluation/realism {design.label} {phi.name}",
            repeats=self.repeats,
            most=most if most >= LEAST_ROWS else None,
        )

    def _told(self, design: Design, phi: Representation, probe: Separation) -> Measured:
        status = Status.PASS
        words = [f"{probe.verdict(self.margin)} (one half + {self.margin:g})"]
        if design.label == "r0":
            low, high = probe.interval(NULL_CONFIDENCE)
            status = Status.PASS if low <= 0.5 <= high else Status.FAIL
            holds = "is" if status is Status.PASS else "is not"
            words.append(f"the null {holds} compatible with one half")
        name, detail = f"{design.stem}_{phi.name}", "; ".join([*words, design.detail])
        return self._figure(name, probe.estimate(), design, status=status, detail=detail)

    def _kid(
        self, design: Design, phi: Representation, a: Features, b: Features, groups: tuple[Groups, Groups]
    ) -> Measured:
        found = kernel_distance(a, b, groups, representation=phi.name, seed=self.run.seed)
        detail = f"in the {found.dimension} dimensions of {phi.name}; not comparable with any other map's"
        return self._figure(f"{design.stem}_{phi.name}_kid", found.estimate(), design, detail=detail)

    def _share(self, phi: Representation, probes: Mapping[str, Separation]) -> Measured:
        design = next(d for d in self.all.designs if d.label == "r3")
        absent = [label for label in ("r1", "r3") if label not in probes]
        if absent:
            estimate = Estimate(None, None, None, *design.size, "none", f"needs {' and '.join(absent)}")
        else:
            estimate = logit_difference(probes["r3"], probes["r1"])
        name = self.all.named(f"realism_sim_morphology_share_{phi.name}")
        detail = "logit of r3 less logit of r1, learned from equally many rows"
        return self._figure(name, estimate, design, detail=detail, unit="logit")

    def smd(self) -> Measured:
        """How well the rows of r3 are matched: their worst fact."""
        p, m = self.all.p, self.all.matching
        name = self.all.named("realism_sim_r3_smd")
        design = Design("smd", name, ArcDomain.SIM, host_of(p.nature, p.injected))
        if isinstance(m, str) or not len(m.a):
            reason = m if isinstance(m, str) else "no row has a counterpart within the caliper"
            return self._figure(name, Estimate(None, None, None, 0, 0, "none", reason), design)
        method = "propensity caliper, optimal pairs"
        estimate = Estimate(abs(m.worst[1]), None, None, 2 * len(m.a), None, method)
        status = Status.PASS if m.balanced else Status.FAIL
        detail = f"a property of these rows, so without an interval; must be below {SMD_BOUND:g}; {m}"
        return self._figure(name, estimate, design, status=status, detail=detail)

    def arcs(self) -> list[Measured]:
        """The light of arcs: of nature against injections, and of both families in the same hosts."""
        p = self.all.p
        stem = self.all.named("realism_sim_arc")
        design = Design("arc", stem, ArcDomain.SIM, host_of(p.nature, p.injected))
        found = self._contrasts(design, _whole(p.nature), _whole(p.injected))
        if p.swapped is not None:
            mine, theirs = shared_rows(p.injected, p.swapped)
            design = Design("arc", "realism_sim_swap_arc", ArcDomain.SIM, p.injected.host_domain)
            found += self._contrasts(design, Side(p.injected, mine), Side(p.swapped, theirs))
        return found

    def stands_out(self) -> Measured:
        """The share of injections whose arc is seen among the same region turned about the deflector."""
        s = self.all.p.injected
        design = Design("arc", "realism_sim_arc_stands_out", ArcDomain.SIM, s.host_domain)
        if s.arcs is None or s.invvar is None:
            needs = "needs the noiseless arcs and the inverse variance of the injections"
            return self._figure(design.stem, Estimate(None, None, None, len(s), None, "none", needs), design)
        centre = (s.x_center, s.y_center)
        region = bright_region(s.arcs)
        turned = snr_among_turns(s.stamps, s.invvar, *centre, region, seed=self.run.seed, keys=s.keys)
        known = np.isfinite(turned.snr)
        told = f"{int(known.sum())} of {len(s)} arcs are no ring"
        lacks = lacks_rows((s.groups[known],))
        if lacks:
            nothing = Estimate(None, None, None, int(known.sum()), None, "none", lacks)
            return self._figure(design.stem, nothing, design, detail=told)
        snr = turned.snr[known]
        _, groups = np.unique(s.groups[known], return_inverse=True)
        seen = clustered_binomial(snr > STANDS_OUT, groups)
        detail = f"S/N above {STANDS_OUT:g} by {TURNS} random angles, median {np.median(snr):.2g}; {told}"
        return self._figure(design.stem, seen, design, detail=detail)

    def _contrasts(self, design: Design, a: Side, b: Side) -> list[Measured]:
        light = [self.all.light.get(s.whole.name) for s in (a, b)]
        out = []
        for quantity, unit in QUANTITIES.items():
            name = f"{design.stem}_{quantity}"
            if light[0] is None or light[1] is None:
                nothing = Estimate(None, None, None, len(a.rows) + len(b.rows), None, "none", _NO_LIGHT)
                out.append(self._figure(name, nothing, design, unit=unit))
                continue
            values = (getattr(light[0], quantity)[a.rows], getattr(light[1], quantity)[b.rows])
            out.append(self._contrast(name, values, (a, b), design, unit))
        return out

    def _contrast(
        self,
        name: str,
        values: tuple[NDArray[np.float64], NDArray[np.float64]],
        sides: tuple[Side, Side],
        design: Design,
        unit: str,
    ) -> Measured:
        hosts = (sides[0].hosts, sides[1].hosts)
        known = (hosts[0][np.isfinite(values[0])], hosts[1][np.isfinite(values[1])])
        counts = " and ".join(f"{len(k)} of {len(h)}" for k, h in zip(known, hosts, strict=True))
        lacks = lacks_rows(known)
        if lacks:
            nothing = Estimate(None, None, None, len(known[0]) + len(known[1]), None, "none", lacks)
            return self._figure(name, nothing, design, detail=f"known of {counts} rows", unit=unit)
        draws = Draws(self.run.seed, self.run.protocol.statistics.bootstrap)
        found = contrast(*values, hosts, seed=self.run.seed, purpose=name, draws=draws)
        what = "the signs of pairs" if found.paired else f"whole hosts, energy distance {found.energy:.3g}"
        detail = (
            f"{sides[0].whole.name} less {sides[1].whole.name}; p = {found.p:.3g} by permutation of {what}"
        )
        return self._figure(
            name, found.difference, design, detail=f"{detail}; known of {counts} rows", unit=unit
        )

    def _figure(
        self,
        name: str,
        estimate: Estimate,
        design: Design,
        *,
        status: Status = Status.PASS,
        detail: str = "",
        unit: str = "",
    ) -> Measured:
        made = self.run.measured(
            name, estimate, design.host, design.arc, withheld=design.doubt, detail=detail
        )
        kept = made.status if made.status is Status.NOT_EVALUATED else status
        return made.model_copy(update={"status": kept, "unit": unit})


@dataclass(frozen=True, eq=False)
class _Seen:
    """Features of sets of pixels in one map, made once for all rows that are compared."""

    phi: Representation
    made: dict[int, Features] = field(default_factory=dict)

    def of(self, side: Side) -> Features:
        s = side.whole
        if id(s) not in self.made:
            self.made[id(s)] = np.asarray(self.phi(s.stamps, s.x_center, s.y_center), dtype=np.float64)
        return self.made[id(s)][side.rows]


def _whole(s: StampSet) -> Side:
    return Side(s, np.arange(len(s)))


def _bar(design: Design, phi: Representation, figure: Measured, verdict: str) -> Comparison:
    return Comparison(
        comparison=design.label,
        representation=phi.name,
        auc=figure.value,
        low=figure.low,
        high=figure.high,
        verdict=verdict,
        n=figure.n,
    )


def _balance(m: Matching | str) -> tuple[Balance, ...]:
    if isinstance(m, str) or not len(m.a):
        return ()
    return tuple(Balance(fact=fact, before=m.before[fact], after=after) for fact, after in m.after.items())


def _distributions(p: Populations, light: Mapping[str, ArcLight]) -> Iterator[Distribution]:
    names = [s.name for s in (p.nature, p.injected, p.swapped) if s is not None and s.name in light]
    for quantity, unit in QUANTITIES.items():
        found = {name: getattr(light[name], quantity) for name in names}
        values = {name: v[np.isfinite(v)] for name, v in found.items() if np.isfinite(v).any()}
        if not values:
            continue
        # The outermost hundredth would stretch the axis; it is counted in the first and last bin.
        low, high = np.quantile(np.concatenate(list(values.values())), [0.01, 0.99])
        edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
        for name, v in values.items():
            yield Distribution(
                quantity=quantity,
                unit=unit,
                population=name,
                n=len(v),
                quantiles=tuple(np.quantile(v, QUANTILES).tolist()),
                edges=tuple(edges.tolist()),
                counts=tuple(np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0].tolist()),
            )
