"""The comparisons of the realism gap: which rows stand on either side, and why some cannot be compared.

r0   real against real lenses, in random halves: the null, which must be compatible with one half
r1   hosts of real lenses against hosts of injections, no arcs: what the hosts alone tell
r2   injections without flux against controls of other hosts: what the pipeline alone tells
r3   real lenses against injections in matched hosts, with matched theta_E and S/N: what the arcs tell
r4   the rows of r3, of which only the arc region is kept, without the deflector
r5   two families of sources injected into the same hosts: what a change of sources tells
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.contracts.random import stream
from darkhaloscope.evaluation.arc_light import ArcLight, arc_region, measure_arcs, only_arcs, only_deflector
from darkhaloscope.evaluation.propensity import SMD_BOUND, Matching, match
from darkhaloscope.evaluation.separation import Groups, lacks_rows, paired_groups
from darkhaloscope.evaluation.stamp_sets import StampSet


@dataclass(frozen=True, eq=False)
class Populations:
    """What the comparisons are made of; what is None leaves its comparison NOT_EVALUATED.

    nature         real lenses, or mock anchors in their part
    injected       simulated arcs; controls: the same rows without them
    nature_hosts   hosts of `nature` without an arc, which exist on a mock sky only. Without them hosts are
                   compared as models of the deflectors of both sides
    sham           injections without flux
    swapped        another family of sources in the hosts of `injected`
    """

    nature: StampSet
    injected: StampSet
    controls: StampSet | None = None
    nature_hosts: StampSet | None = None
    sham: StampSet | None = None
    swapped: StampSet | None = None

    def __post_init__(self) -> None:
        if self.nature.arc_domain not in (ArcDomain.REAL, ArcDomain.NATURE):
            raise DataError(
                self.nature.name, f"holds arcs of kind '{self.nature.arc_domain}'", "real or nature"
            )
        for simulated in (self.injected, self.swapped):
            if simulated is not None and simulated.arc_domain is not ArcDomain.SIM:
                raise DataError(
                    simulated.name, f"holds arcs of kind '{simulated.arc_domain}', not simulated ones"
                )
        for without in (self.controls, self.nature_hosts, self.sham):
            if without is not None and without.arc_domain is not ArcDomain.NONE:
                raise DataError(without.name, f"holds arcs of kind '{without.arc_domain}', where none may be")
        names = [s.name for s in (self.nature, self.injected, self.swapped) if s is not None]
        if len(set(names)) < len(names):
            raise DataError("populations", f"share a name: {', '.join(names)}", "name each for what it is")


@dataclass(frozen=True, eq=False)
class Side:
    """Some rows of a set of pixels; features are made of the whole set once."""

    whole: StampSet
    rows: NDArray[np.intp]

    @property
    def groups(self) -> Groups:
        """What no fold cuts, row by row."""
        return self.whole.groups[self.rows]

    @property
    def hosts(self) -> Groups:
        """The galaxy of each row."""
        return self.whole.hosts[self.rows]


@dataclass(frozen=True, eq=False)
class Design:
    """One comparison: two sides, what no fold cuts, and what its figures are of.

    label     r0 to r5; stem: how the names of its figures begin
    lacks     why there is nothing to compare; doubt: why its numbers must not be read as evidence
    paired    both sides hold the same hosts, and are compared within each
    """

    label: str
    stem: str
    arc: ArcDomain
    host: HostDomain
    sides: tuple[Side, Side] | None = None
    groups: tuple[Groups, Groups] | None = None
    lacks: str = ""
    doubt: str = ""
    detail: str = ""
    paired: bool = False

    def between(
        self, a: Side, b: Side, *, groups: tuple[Groups, Groups] | None = None, detail: str, doubt: str = ""
    ) -> "Design":
        """The design with its sides, unless they are too few.

        groups   of both sides, where they are not the sides' own
        """
        own = groups or (a.groups, b.groups)
        return replace(self, sides=(a, b), groups=own, lacks=lacks_rows(own), detail=detail, doubt=doubt)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and groups of both sides."""
        if self.groups is None:
            return 0, 0
        both = np.concatenate(self.groups)
        return len(both), len(set(both.tolist()))


@dataclass(frozen=True, eq=False)
class Comparators:
    """All comparisons of some populations. `seed` keys what is drawn."""

    p: Populations
    seed: int

    def named(self, name: str) -> str:
        """The name of a figure that mock lenses play a part in, or real ones."""
        return f"mock_{name}" if self.p.nature.arc_domain is ArcDomain.NATURE else name

    @cached_property
    def designs(self) -> tuple[Design, ...]:
        """r0 to r5, each of them, whether it can be made or not."""
        return (self.halves(), self.hosts(), self.sham(), self.matched(), self.arcs_alone(), self.families())

    def halves(self) -> Design:
        """r0."""
        nature = self.p.nature
        names = np.unique(nature.groups)
        rng = stream(self.seed, "evaluation/realism halves", nature.name)
        first = np.isin(nature.groups, rng.permutation(names)[: len(names) // 2])
        stem = "mock_realism_r0" if nature.arc_domain is ArcDomain.NATURE else "real_realism_r0"
        design = Design("r0", stem, nature.arc_domain, nature.host_domain)
        halves = (Side(nature, np.flatnonzero(rows)) for rows in (first, ~first))
        return design.between(*halves, detail="random halves of one population")

    def hosts(self) -> Design:
        """r1."""
        p = self.p
        design = Design("r1", self.named("realism_r1"), ArcDomain.NONE, host_of(p.nature, p.injected))
        if p.nature_hosts is not None and p.controls is not None:
            return design.between(_all(p.nature_hosts), _all(p.controls), detail="hosts without arcs")
        models = (_all(self._without_arcs(s)) for s in (p.nature, p.injected))
        return design.between(*models, detail="models of the deflectors of both sides")

    def _without_arcs(self, s: StampSet) -> StampSet:
        pixels = only_deflector(s.stamps, s.invvar, s.x_center, s.y_center, seed=self.seed, keys=s.keys)
        return s.showing(pixels, ArcDomain.NONE)

    def sham(self) -> Design:
        """r2."""
        sham, controls = self.p.sham, self.p.controls
        design = Design("r2", "realism_r2", ArcDomain.NONE, self.p.injected.host_domain)
        if sham is None or controls is None:
            return replace(design, lacks="needs injections without flux, and controls")
        names = np.unique(np.concatenate([sham.groups, controls.groups]))
        rng = stream(self.seed, "evaluation/realism sham", sham.name)
        first = rng.permutation(names)[: len(names) // 2]
        one, other = (np.isin(s.groups, first) for s in (sham, controls))
        return design.between(
            Side(sham, np.flatnonzero(one)), Side(controls, np.flatnonzero(~other)), detail="disjoint hosts"
        )

    @cached_property
    def matching(self) -> Matching | str:
        """Real lenses and injections matched in all that is known of both; or why they cannot be."""
        nature, injected = self.p.nature, self.p.injected
        shared = set(nature.hosts) & set(injected.hosts)
        if shared:
            return f"{len(shared)} hosts are in both populations, {min(shared)} for one"
        facts = [self._facts(s) for s in (nature, injected)]
        both = [name for name in facts[0] if name in facts[1]]
        try:
            return match(*({name: side[name] for name in both} for side in facts))
        except DataError as error:
            return str(error)

    def _facts(self, s: StampSet) -> dict[str, NDArray[np.float64]]:
        """What rows are matched in; the S/N as it is measured on the pixels of either side."""
        light = self.light.get(s.name)
        measured = {} if light is None else {"arc_snr": np.arcsinh(light.snr)}
        return {**s.facts, "theta_e_arcsec": s.theta_e_arcsec, **measured}

    def matched(self) -> Design:
        """r3."""
        nature, injected, m = self.p.nature, self.p.injected, self.matching
        design = Design("r3", self.named("realism_sim_r3"), ArcDomain.SIM, host_of(nature, injected))
        if isinstance(m, str):
            return replace(design, lacks=m)
        a, b = Side(nature, m.a), Side(injected, m.b)
        doubt = "" if m.balanced else f"unmatched: every difference must be below {SMD_BOUND:g}"
        return design.between(a, b, groups=paired_groups(a.groups, b.groups), doubt=doubt, detail=str(m))

    def arcs_alone(self) -> Design:
        """r4."""
        matched = self.matched()
        design = replace(matched, label="r4", stem=self.named("realism_sim_r4"))
        if matched.sides is None or matched.lacks:
            return design
        known = [np.isfinite(s.whole.theta_e_arcsec + s.whole.psf_fwhm_arcsec)[s.rows] for s in matched.sides]
        kept = known[0] & known[1]
        a, b = (_all(self._only_arcs(s.whole.take(s.rows[kept]))) for s in matched.sides)
        lost = f"; {int((~kept).sum())} pairs without theta_E or FWHM left out" if not kept.all() else ""
        return design.between(
            a,
            b,
            groups=paired_groups(a.groups, b.groups),
            doubt=matched.doubt,
            detail=f"arc regions alone; {matched.detail}{lost}",
        )

    def _only_arcs(self, s: StampSet) -> StampSet:
        region = arc_region(s.stamps.shape, s.x_center, s.y_center, s.theta_e_arcsec, s.psf_fwhm_arcsec)
        pixels = only_arcs(s.stamps, s.invvar, s.x_center, s.y_center, region, seed=self.seed, keys=s.keys)
        return s.showing(pixels, s.arc_domain)

    def families(self) -> Design:
        """r5."""
        injected, swapped = self.p.injected, self.p.swapped
        design = Design("r5", "realism_sim_r5", ArcDomain.SIM, injected.host_domain)
        if swapped is None:
            return replace(design, lacks="needs injections of another family of sources into the same hosts")
        mine, theirs = shared_rows(injected, swapped)
        detail = "two families of sources, compared within each host"
        found = design.between(Side(injected, mine), Side(swapped, theirs), detail=detail)
        return replace(found, paired=True)

    @cached_property
    def light(self) -> Mapping[str, ArcLight]:
        """By population, NaN in rows without theta_E or FWHM; absent for one without a variance."""
        sets = [s for s in (self.p.nature, self.p.injected, self.p.swapped) if s is not None]
        found = {s.name: light_of(s) for s in sets}
        return {name: light for name, light in found.items() if light is not None}


def light_of(s: StampSet) -> ArcLight | None:
    """The light of a population's arcs, NaN where the region is unknown; None without any, or a variance."""
    known = np.flatnonzero(np.isfinite(s.theta_e_arcsec + s.psf_fwhm_arcsec))
    if s.invvar is None or not len(known):
        return None
    part = s.take(known)
    region = arc_region(
        part.stamps.shape, part.x_center, part.y_center, part.theta_e_arcsec, part.psf_fwhm_arcsec
    )
    light = measure_arcs(part.stamps, s.invvar[known], part.x_center, part.y_center, region)
    return light.spread_over(len(s), known)


def shared_rows(a: StampSet, b: StampSet) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of hosts that both sets hold."""
    both = np.intersect1d(a.hosts, b.hosts)
    return np.flatnonzero(np.isin(a.hosts, both)), np.flatnonzero(np.isin(b.hosts, both))


def host_of(*sets: StampSet) -> HostDomain:
    """The one domain of all hosts, or MIXED."""
    found = {s.host_domain for s in sets}
    return found.pop() if len(found) == 1 else HostDomain.MIXED


def _all(whole: StampSet) -> Side:
    return Side(whole, np.arange(len(whole)))
