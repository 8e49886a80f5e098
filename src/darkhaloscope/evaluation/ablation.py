"""Arms against a reference: every endpoint of the protocol over seeds, and one verdict for each difference.

An arm is an experiment trained with several seeds. Values are means over its networks; differences are arm
less reference, seed by seed. `stats.differences` derives their intervals: what seeds scatter, and what the
test rows scatter, which no number of seeds averages away. Rows are resampled by group (sky cell), and the
same draws serve every network of every arm that shares a cell with another, so what the rows do to all of
them cancels in a difference. Three kinds of it:

    paired         the same test rows, bit for bit
    common cells   other rows (another recipe) in the same sky cells: unpaired, with common draws
    independent    no cell in common: unpaired, resampled apart

The verdict follows the protocol's `significance`: recall for what is a recall (AUROC is the recall averaged
over all false-positive rates), fpr for false-positive rates. For the share lost with the core hidden and the
calibration error it states no size, and none is invented. Over arms p is Holm's, endpoint by endpoint. That a
difference is not significant never means that there is none: that is shown by two one-sided tests, or left
open with the difference that could have been found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.config import Frozen
from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import HostDomain, Measured
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.contracts.random import stream
from darkhaloscope.evaluation.endpoints import (
    Endpoint,
    Network,
    Panel,
    common_rate,
    one_per_host,
    panels,
)
from darkhaloscope.evaluation.samples import Run, Text, Vector, negatives
from darkhaloscope.stats import (
    Combined,
    Draws,
    Estimate,
    Mcnemar,
    Replicates,
    combine,
    detectable_share,
    holm,
    mcnemar_exact,
    replicates,
    threshold_at_fpr,
)


class Verdict(StrEnum):
    """What a difference comes to."""

    REFERENCE = "reference"
    SIGNIFICANT = "significant"
    DIFFERS = "differs"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    NOT_EVALUATED = "not evaluated"


class Pairing(StrEnum):
    """What an arm's rows and the reference's have in common."""

    PAIRED = "paired"
    COMMON_CELLS = "unpaired, common cells"
    INDEPENDENT = "unpaired, independent"


@dataclass(frozen=True)
class Arm:
    """One experiment with its networks, ascending by seed.

    rows         names the pixels and splits of its test and calib rows
    lookalikes   names the pixels of its look-alikes: arms with the same names were scored on the same ones

    Raises DataError for a repeated seed, or for networks of other rows.
    """

    name: str
    networks: tuple[Network, ...]
    rows: str
    lookalikes: str = ""

    def __post_init__(self) -> None:
        seeds = [network.seed for network in self.networks]
        if not seeds or sorted(set(seeds)) != seeds:
            raise DataError(self.name, f"has networks of the seeds {seeds}", "each seed once, ascending")
        first = self.networks[0]
        for network in self.networks[1:]:
            for split in ("test", "calib", "lookalikes"):
                ours, theirs = (getattr(n, split).column("row_id") for n in (first, network))
                if not ours.equals(theirs):
                    problem = f"the {split} rows of seed {network.seed} are not those of seed {first.seed}"
                    raise DataError(self.name, problem, "score every seed on the same data")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its networks."""
        return tuple(network.seed for network in self.networks)


class Row(Frozen):
    """One endpoint of one arm, and its difference to the reference.

    delta_each       the differences of single seeds, in the order of `delta.seeds`
    least            the least difference that counts; None where the protocol states none
    p, p_holm        of no difference, and adjusted over the arms; None below the protocol's number of seeds
    p_beyond, …_holm of a difference of `least` or more: small where the arms are equivalent
    mde              true difference found with 80 % power by this design, at Holm's first step
    """

    endpoint: str
    arm: str
    value: Measured
    delta: Measured | None = None
    delta_each: tuple[float, ...] = ()
    pairing: Pairing | None = None
    higher_is_better: bool
    least: float | None = None
    p: float | None = None
    p_holm: float | None = None
    p_beyond: float | None = None
    p_beyond_holm: float | None = None
    mde: float | None = None
    verdict: Verdict
    wording: str


class Detections(Frozen):
    """McNemar's exact test of one network against the reference's: of two networks, not of their recipes.

    arm_only, reference_only   hosts whose arc one of the two finds and the other does not
    p_holm                     over the arms, seed by seed
    mde                        found with 80 % power at this discordance, at Holm's first step
    """

    arm: str
    seed: int
    reference_seed: int
    fpr: float
    n: int
    arm_only: int
    reference_only: int
    difference: float
    discordance: float
    p: float
    p_holm: float
    mde: float


class Comparison(Frozen):
    """The master table: rows by endpoint, the reference first."""

    reference: str
    seeds: dict[str, tuple[int, ...]]
    confidence: float
    bootstrap: int
    seed: int
    rows: tuple[Row, ...]
    detections: tuple[Detections, ...]


def compare(arms: Sequence[Arm], reference: str, protocol: Protocol, *, seed: int) -> Comparison:
    """All endpoints of all arms, each arm against the reference; `seed` is that of the resamples.

    Raises DataError for an arm that is there twice, or a reference that is not there.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names) or reference not in names:
        raise DataError(reference, f"must be one of the arms, each once: {', '.join(names)}")
    arms = sorted(arms, key=lambda arm: arm.name != reference)
    rate = common_rate((network.calib for arm in arms for network in arm.networks), protocol)
    measured = [[panels(network, protocol, rate) for network in arm.networks] for arm in arms]
    rows: list[Row] = []
    run = Run(protocol, seed, (), ())
    for family in dict.fromkeys(name for networks in measured for name in networks[0]):
        having = [k for k, networks in enumerate(measured) if family in networks[0]]
        table = _Family(
            family, [arms[k] for k in having], [[n[family] for n in measured[k]] for k in having], run
        )
        rows += table.rows(reference)
    return Comparison(
        reference=reference,
        seeds={arm.name: arm.seeds for arm in arms},
        confidence=protocol.statistics.confidence,
        bootstrap=protocol.statistics.bootstrap,
        seed=seed,
        rows=tuple(rows),
        detections=() if rate is None else _detections(arms, rate, protocol),
    )


def matched_seeds(arm: Sequence[int], reference: Sequence[int]) -> list[tuple[int, int]]:
    """Which network is compared with which, as places: the same seeds; without any, in order.

    Networks of different seeds are independent, so any matching of them is as good as another.
    """
    common = [seed for seed in arm if seed in reference]
    if common:
        return [(arm.index(seed), reference.index(seed)) for seed in common]
    return [(k, k) for k in range(min(len(arm), len(reference)))]


# --- one panel of all arms -------------------------------------------------------------------------------


FEWEST_CELLS = 5
"""Cells with an exception, below which a share's interval is at least that of no exception."""

Adjusted = tuple[float | None, float | None]
"""Holm's p of no difference, and of one that counts."""

Parts = Sequence[tuple[int, Sequence[int]]]
"""One arm and its networks, or two to be compared, by their places."""

SIGNS = (1.0, -1.0)
"""Of the parts of a difference."""

ON_TEST_ROWS = ("arcs", "detections")
"""Panels that no look-alike is part of."""


class _Drawn(NamedTuple):
    """One arm's columns among the replicates of the arms that share cells with it."""

    component: int
    replicates: Replicates
    first: int

    def columns(self, networks: Sequence[int], width: int, endpoint: int) -> list[int]:
        return [self.first + k * width + endpoint for k in networks]


class _Family:
    """One panel of every arm that has it, resampled."""

    def __init__(self, name: str, arms: Sequence[Arm], measured: Sequence[Sequence[Panel]], run: Run) -> None:
        self.name, self.arms, self.measured, self.run = name, arms, measured, run
        self.panels = [networks[0] for networks in measured]
        self.endpoints = self.panels[0].endpoints
        self.drawn: dict[str, _Drawn] = {}
        if any("" in panel.lacks for panel in self.panels):
            for number, members in enumerate(components([panel.groups for panel in self.panels])):
                self._draw(number, members)

    def _draw(self, number: int, members: Sequence[int]) -> None:
        universe: Text = np.unique(np.concatenate([self.panels[k].groups for k in members]))
        if not len(universe):
            return
        made = [panel.make(universe) for k in members for panel in self.measured[k]]

        def of(counts: NDArray[np.int32]) -> Vector:
            return np.concatenate([values(counts) for values in made])

        statistics, seed = self.run.protocol.statistics, self.run.seed
        # Cells that have nothing in common are drawn apart: a seed's draws depend on their number alone.
        apart = int(stream(seed, "evaluation/ablation", str(number)).integers(2**31))
        draws = Draws(apart if number else seed, statistics.bootstrap, statistics.confidence)
        found = replicates(of, len(universe), draws)
        first = 0
        for k in members:
            self.drawn[self.arms[k].name] = _Drawn(number, found, first)
            first += len(self.arms[k].networks) * len(self.endpoints)

    # Rows

    def rows(self, reference: str) -> Iterator[Row]:
        """By endpoint, with Holm over the arms of each."""
        for place, endpoint in enumerate(self.endpoints):
            made = [self._row(k, place, endpoint, reference) for k in range(len(self.arms))]
            adjusted = zip(holm([r.p for r, _ in made]), holm([r.p_beyond for r, _ in made]), strict=True)
            tests = sum(row.p is not None for row, _ in made)
            for one, both in zip(made, adjusted, strict=True):
                yield self._judged(one, both, tests)

    def _row(self, k: int, place: int, endpoint: Endpoint, reference: str) -> tuple[Row, Combined | None]:
        arm, panel = self.arms[k], self.panels[k]
        found = None if panel.lacks[place] else self._combined([(k, range(len(arm.networks)))], place)
        # What is lost with the core hidden may be less than nothing.
        bounds = (-1.0, 1.0) if endpoint.name.startswith("core_masked_drop") else (0.0, 1.0)
        value = self._measured([k], found, endpoint, arm.seeds, why=panel.lacks[place], bounds=bounds)
        row = Row(
            endpoint=endpoint.name,
            arm=arm.name,
            value=value,
            higher_is_better=endpoint.higher_is_better,
            least=endpoint.least,
            verdict=Verdict.REFERENCE,
            wording="reference",
        )
        if arm.name == reference:
            return row, None
        at = next((i for i, other in enumerate(self.arms) if other.name == reference), None)
        if at is None:
            return row.model_copy(update=_open("the reference has no such rows")), None
        return self._against(row, k, at, place, endpoint)

    def _combined(self, parts: Parts, place: int) -> Combined | None:
        """The mean over networks of an arm, or of its difference to a second; None without an interval."""
        known = self._known(parts)
        if known is None:
            return None
        columns, signs = self._columns(parts, known, place), SIGNS[: len(parts)]
        values = self._each(parts, known, place)
        if len({d.component for d in known}) == 1:
            together = known[0].replicates
            deviating = sum(s * together.values[:, c] for s, c in zip(signs, columns, strict=True))
            covariances = [together.covariance(np.asarray(deviating))]
        else:
            pieces = zip(known, columns, strict=True)
            covariances = [d.replicates.covariance(d.replicates.values[:, c]) for d, c in pieces]
        total = [c for c in covariances if c is not None]
        if len(total) < len(covariances) or not np.isfinite(values).all():
            return None
        least = min(d.replicates.clusters for d in known)
        return combine(values, sum(total), least, rare=self._rare(parts, place))

    def _known(self, parts: Parts) -> list[_Drawn] | None:
        """What was drawn of each part; None unless there is more than one cluster of all of them."""
        drawn = [self.drawn.get(self.arms[k].name) for k, _ in parts]
        known = [d for d in drawn if d is not None and d.replicates.clusters > 1]
        return known if len(known) == len(parts) else None

    def _columns(self, parts: Parts, known: Sequence[_Drawn], place: int) -> list[list[int]]:
        width = len(self.endpoints)
        return [d.columns(networks, width, place) for d, (_, networks) in zip(known, parts, strict=True)]

    def _each(self, parts: Parts, known: Sequence[_Drawn], place: int) -> Vector:
        """Network by network what an arm gives, or its difference to a second."""
        columns = self._columns(parts, known, place)
        signed = zip(SIGNS, known, columns, strict=False)
        return np.asarray(sum(sign * d.replicates.whole[c] for sign, d, c in signed))

    def _rare(self, parts: Parts, place: int) -> bool:
        """Whether so few cells hold an exception, in any network, that a share's scatter says little.

        An exception is a hit, or a miss where hits are the rule.
        """
        found = 0
        for k, networks in parts:
            panels = [self.measured[k][i] for i in networks]
            cells: list[set[int]] = [set(), set()]
            for panel in panels:
                if panel.hits is None or panel.at is None:
                    return False
                for side, hit in enumerate((True, False)):
                    cells[side] |= set(panel.at[panel.hits[place] == hit].tolist())
            found += min(map(len, cells))
        return found < FEWEST_CELLS

    def _against(
        self, row: Row, k: int, at: int, place: int, endpoint: Endpoint
    ) -> tuple[Row, Combined | None]:
        arm, other = self.arms[k], self.arms[at]
        pairs = matched_seeds(arm.seeds, other.seeds)
        ours, theirs = [i for i, _ in pairs], [j for _, j in pairs]
        why = self.panels[k].lacks[place] or self.panels[at].lacks[place]
        parts = [(k, ours), (at, theirs)]
        found = None if why else self._combined(parts, place)
        seeds = tuple(arm.seeds[i] for i in ours)
        needs = self.run.protocol.statistics.seeds_min
        few = "" if len(pairs) >= needs else _few(len(pairs), needs)
        note = "" if ours == theirs and arm.seeds == other.seeds else _matched(arm, other, pairs)
        delta = self._measured([k, at], found, endpoint, seeds, why=why or few, note=note)
        row = row.model_copy(update={"delta": delta, "pairing": self._pairing(k, at)})
        if found is None or few:
            return row.model_copy(update=_open(delta.detail.partition("; ")[0])), None
        known = self._known(parts)
        each = () if known is None else tuple(self._each(parts, known, place).tolist())
        least = endpoint.least
        beyond = None if least is None else found.p_beyond(least)
        return row.model_copy(update={"delta_each": each, "p": found.p, "p_beyond": beyond}), found

    def _pairing(self, k: int, at: int) -> Pairing:
        arm, other = self.arms[k], self.arms[at]
        alike = self.name in ON_TEST_ROWS or arm.lookalikes == other.lookalikes
        if alike and arm.rows == other.rows and same_rows(arm, other):
            return Pairing.PAIRED
        shared = np.isin(self.panels[k].groups, self.panels[at].groups).any()
        return Pairing.COMMON_CELLS if shared else Pairing.INDEPENDENT

    def _measured(
        self,
        parts: Sequence[int],
        found: Combined | None,
        endpoint: Endpoint,
        seeds: tuple[int, ...],
        *,
        why: str,
        bounds: tuple[float, float] = (-1.0, 1.0),
        note: str = "",
    ) -> Measured:
        """A figure of one arm, or of the difference of two; `why` it is NOT_EVALUATED."""
        first = self.panels[parts[0]]
        name = endpoint.name if len(parts) == 1 else f"{endpoint.name}_delta"
        hosts = {self.panels[k].host for k in parts}
        named = [m for k in parts for panel in self.measured[k] for m in panel.manifests]
        run = replace(self.run, seeds=seeds, manifests=tuple(dict.fromkeys(named)))
        host = hosts.pop() if len(hosts) == 1 else HostDomain.MIXED
        words = [first.detail, note]
        if found is None:
            reason = why or "it is not defined in enough resamples, or there is one cluster"
            estimate = Estimate(None, None, None, first.n, len(first.groups), "none", reason)
        else:
            low, high = found.interval(self.run.protocol.statistics.confidence, bounds)
            method = self.drawn[self.arms[parts[0]].name].replicates.method
            if found.seeds == 1:
                words.append("one seed: the interval is that of the test rows alone")
            else:
                share = found.between / (found.between + found.within) if found.error else 0.0
                words.append(f"seeds are {share:.0%} of the variance")
                method += f", and {found.seeds} seeds"
            estimate = Estimate(found.value, low, high, first.n, found.clusters, method)
        detail = "; ".join(word for word in words if word)
        return run.measured(name, estimate, host, endpoint.arc, withheld=why, detail=detail)

    def _judged(self, made: tuple[Row, Combined | None], adjusted: Adjusted, tests: int) -> Row:
        (row, found), (p_holm, p_beyond_holm) = made, adjusted
        if found is None or p_holm is None:
            return row
        confidence = self.run.protocol.statistics.confidence
        mde = found.detectable(confidence=confidence, least=row.least or 0.0, tests=tests)
        verdict, wording = judge(
            found.value,
            p_holm,
            p_beyond_holm,
            least=row.least,
            mde=mde,
            alpha=1 - confidence,
            higher_is_better=row.higher_is_better,
        )
        return row.model_copy(
            update={
                "p_holm": p_holm,
                "p_beyond_holm": p_beyond_holm,
                "mde": mde,
                "verdict": verdict,
                "wording": wording,
            }
        )


def _matched(arm: Arm, other: Arm, pairs: Sequence[tuple[int, int]]) -> str:
    told = ", ".join(f"{arm.seeds[i]} less {other.seeds[j]}" for i, j in pairs)
    return f"seeds {told}"


def _few(seeds: int, needs: int) -> str:
    if seeds == 1:
        return f"one seed: not significant by rule, needs {needs}"
    return f"{seeds} seeds: not significant by rule, needs {needs}"


def _open(reason: str) -> dict[str, object]:
    return {"verdict": Verdict.NOT_EVALUATED, "wording": f"not evaluated: {reason}"}


def judge(
    delta: float,
    p_holm: float,
    p_beyond_holm: float | None,
    *,
    least: float | None,
    mde: float,
    alpha: float,
    higher_is_better: bool,
) -> tuple[Verdict, str]:
    """The verdict on a difference and its words.

    Significant: p below alpha after Holm and a difference larger than `least`. Equivalent: two one-sided
    tests put it inside ± least, after Holm. Else inconclusive, with what could have been found. Where no
    least difference is stated it differs, or is inconclusive: equivalence has no meaning there.
    """
    better = "better" if (delta > 0) == higher_is_better else "worse"
    found = p_holm < alpha
    if least is None:
        if found:
            return Verdict.DIFFERS, f"differs: {better}; no least size is stated"
        return Verdict.INCONCLUSIVE, f"inconclusive: MDE {mde:.2g}"
    if found and abs(delta) > least:
        return Verdict.SIGNIFICANT, f"significant: {better}"
    if p_beyond_holm is not None and p_beyond_holm < alpha:
        return Verdict.EQUIVALENT, f"equivalent within ±{least:g}"
    note = f", {better} but not shown to exceed {least:g}" if found else ""
    return Verdict.INCONCLUSIVE, f"inconclusive{note}: MDE {mde:.2g}"


def same_rows(arm: Arm, other: Arm) -> bool:
    """Whether the test rows of two arms have the same names."""
    ours, theirs = (a.networks[0].test.column("row_id") for a in (arm, other))
    return sorted(ours.to_pylist()) == sorted(theirs.to_pylist())


def components(groups: Sequence[Text]) -> list[list[int]]:
    """Places of those that are joined by shared groups, in order; each place once."""
    joined = list(range(len(groups)))
    sets = [frozenset(g.tolist()) for g in groups]
    for a, b in combinations(range(len(groups)), 2):
        if sets[a] & sets[b] and joined[a] != joined[b]:
            new, old = sorted((joined[a], joined[b]))
            joined = [new if k == old else k for k in joined]
    return [[k for k, j in enumerate(joined) if j == root] for root in sorted(set(joined))]


# --- networks on common rows -----------------------------------------------------------------------------


def _detections(arms: Sequence[Arm], fpr: float, protocol: Protocol) -> tuple[Detections, ...]:
    """McNemar's test for every arm on the reference's rows, and every matched pair of seeds."""
    reference, found = arms[0], list[tuple[Arm, int, int, Mcnemar]]()
    for arm in arms[1:]:
        if arm.rows != reference.rows or not same_rows(arm, reference):
            continue
        for i, j in matched_seeds(arm.seeds, reference.seeds):
            test = mcnemar_exact(_found(arm.networks[i], fpr), _found(reference.networks[j], fpr))
            found.append((arm, arm.seeds[i], reference.seeds[j], test))
    adjusted: dict[tuple[str, int], float] = {}
    sizes: Mapping[int, int] = {s: sum(other == s for _, _, other, _ in found) for s in reference.seeds}
    for seed in reference.seeds:
        family = [(arm.name, test.p) for arm, _, other, test in found if other == seed]
        for (name, _), p in zip(family, holm([p for _, p in family]), strict=True):
            adjusted[name, seed] = float(p if p is not None else 1.0)
    confidence = protocol.statistics.confidence
    return tuple(
        Detections(
            arm=arm.name,
            seed=seed,
            reference_seed=other,
            fpr=fpr,
            n=test.n,
            arm_only=test.first_only,
            reference_only=test.second_only,
            difference=(test.first_only - test.second_only) / test.n,
            discordance=test.discordance,
            p=test.p,
            p_holm=adjusted[arm.name, other],
            mde=detectable_share(test.n, test.discordance, confidence=confidence, tests=sizes[other]),
        )
        for arm, seed, other, test in found
    )


def _found(network: Network, fpr: float) -> NDArray[np.bool_]:
    """Which of the test arcs, one of each host, are above the threshold that the calib negatives set."""
    threshold = threshold_at_fpr(negatives(network.calib).score, fpr).threshold
    return np.asarray(one_per_host(network.test).score > threshold)
