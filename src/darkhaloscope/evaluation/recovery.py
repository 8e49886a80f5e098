"""Which injected arcs were found, and what each of them was: what every selection function is made of.

One row is one injection that has pixels and a score. Facts are what completeness is told by; a fact that is
not known is NaN and has a bin of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.measured import HostDomain
from darkhaloscope.contracts.protocol import Protocol, Strata
from darkhaloscope.evaluation.samples import host_domain, sample_of, scored
from darkhaloscope.stats import BinomialMethod, Estimate, binomial, clustered_binomial, effective_rows
from darkhaloscope.stats.rows import Vector
from darkhaloscope.survey.release import to_magnitude

FEWEST_EFFECTIVE = 30.0
"""Effective rows below which a cell is called insufficient."""

TRUTH_COLUMNS = (
    "task_id", "source_mag_r", "flux_r", "weight", "theta_e_prior", "recipe_hash", "reject",
)  # fmt: skip
"""Columns of PAIRED_STAMPS that a recovery needs beside the scores."""

UNITS = {
    "theta_e_arcsec": "arcsec",
    "arc_snr_mf": "",
    "theta_e_over_fwhm": "",
    "psf_fwhm_arcsec": "arcsec",
    "depth_r_mag": "mag",
    "source_mag_r": "mag",
    "host_mag_r": "mag",
}
"""The facts, and their units."""

BINS: Mapping[str, Strata] = {
    "arc_snr_mf": Strata(edges=(5.0, 8.0, 12.0, 20.0, 50.0, 100.0)),
    "theta_e_over_fwhm": Strata(edges=(0.4, 0.8, 1.2, 1.6, 2.0, 3.0)),
    "depth_r_mag": Strata(edges=(23.0, 23.5, 24.0, 24.5, 25.0)),
    "source_mag_r": Strata(edges=(21.0, 23.0, 24.0, 25.0, 26.0)),
    "host_mag_r": Strata(edges=(16.0, 18.0, 19.0, 20.0, 21.0, 22.0)),
}
"""Bins of the facts that the protocol has none for."""

OF_THE_IMAGING = ("psf_fwhm_arcsec", "depth_r_mag")
"""Facts that a galaxy without an arc has too."""


def bins_of(protocol: Protocol) -> dict[str, Strata]:
    """Bins of every fact: the protocol's, and ours where it has none."""
    own = {name: protocol.strata[name] for name in ("theta_e_arcsec", "psf_fwhm_arcsec")}
    return own | dict(BINS)


@dataclass(frozen=True, eq=False)
class Recovery:
    """Injected arcs, one row each.

    found    whether the score is above the threshold
    host     galaxy; rows of one host are not independent
    group    sky cell, which a split never cuts
    weight   how much more often nature makes such a lens than the draw did; 0: not a draw from a population
    facts    by name (`UNITS`), NaN where unknown
    """

    found: NDArray[np.bool_]
    host: NDArray[np.str_]
    group: NDArray[np.str_]
    weight: Vector
    facts: Mapping[str, Vector]
    domain: HostDomain

    def __len__(self) -> int:
        return len(self.found)

    def take(self, rows: NDArray[Any]) -> Self:
        """The given rows."""
        facts = {name: values[rows] for name, values in self.facts.items()}
        return type(self)(
            self.found[rows], self.host[rows], self.group[rows], self.weight[rows], facts, self.domain
        )

    @classmethod
    def of(cls, scores: pa.Table, truth: pa.Table, threshold: float) -> Self:
        """From SCORES of simulated arcs, and the `TRUTH_COLUMNS` of the pairs that hold their rows.

        Raises DataError for scored arcs that `truth` does not hold, and where there is none.
        """
        kept = scored(scores)
        kept = kept.filter(pc.fill_null(pc.equal(kept.column("arc_domain"), "sim"), fill_value=False))
        if not kept.num_rows:
            raise DataError("scores", "hold no simulated arc", "score pairs")
        at = pc.index_in(kept.column("row_id"), value_set=truth.column("task_id").combine_chunks())
        if at.null_count:
            lost = kept.column("row_id").filter(pc.is_null(at))[0].as_py()
            raise DataError("scores", f"{at.null_count} arcs are in no pairs handed in, for instance {lost}")
        of = truth.take(at)
        sample = sample_of(kept)

        def fact(name: str) -> Vector:
            return np.asarray(of.column(name).cast(pa.float64()).to_numpy(), dtype=np.float64)

        theta, fwhm = sample.columns["theta_e_arcsec"], sample.columns["psf_fwhm_arcsec"]
        facts = {
            "theta_e_arcsec": theta,
            "arc_snr_mf": sample.columns["arc_snr_mf"],
            "theta_e_over_fwhm": theta / fwhm,
            "psf_fwhm_arcsec": fwhm,
            "depth_r_mag": sample.columns["depth_r_mag"],
            "source_mag_r": fact("source_mag_r"),
            "host_mag_r": to_magnitude(fact("flux_r")),
        }
        return cls(
            sample.score > threshold, sample.host, sample.group, fact("weight"), facts, host_domain(sample)
        )


@dataclass(frozen=True)
class Cell:
    """k found of n arcs in one cell of a table.

    labels      of its bins, one for each fact
    effective   rows that would say as much were each of a host of its own
    estimates   by interval: jeffreys (cells), wilson (plots), clopper-pearson (claims of "at least")
    enough      whether there are 30 effective rows; if not, its share is not to be read
    """

    labels: tuple[str, ...]
    k: int
    n: int
    effective: float
    estimates: Mapping[BinomialMethod, Estimate]

    @property
    def enough(self) -> bool:
        """Whether the cell may be read."""
        return self.effective >= FEWEST_EFFECTIVE


METHODS: tuple[BinomialMethod, ...] = ("jeffreys", "wilson", "clopper-pearson")


def cell_of(recovery: Recovery, labels: tuple[str, ...], confidence: float = 0.95) -> Cell:
    """The share found among some rows, with hosts as clusters."""
    effective = effective_rows(recovery.found, recovery.host)
    estimates = {
        method: clustered_binomial(
            recovery.found, recovery.host, method=method, confidence=confidence, few=True
        )
        if len(recovery)
        else binomial(0, 0, method=method)
        for method in METHODS
    }
    return Cell(labels, int(recovery.found.sum()), len(recovery), effective, estimates)


def cells(recovery: Recovery, by: Mapping[str, Strata], confidence: float = 0.95) -> tuple[Cell, ...]:
    """Found shares by the bins of one fact or the cross of several; every row is in exactly one cell.

    Cells in which no row lies are left out where several facts are crossed. Raises DataError for a fact that
    the recovery does not have.
    """
    lacking = sorted(set(by) - set(recovery.facts))
    if lacking:
        raise DataError("recovery", f"has no {', '.join(lacking)}", f"one of {', '.join(recovery.facts)}")
    index = np.stack([strata.assign(recovery.facts[name]) for name, strata in by.items()], axis=1)
    shape = [len(strata.labels) for strata in by.values()]
    out = []
    for place in np.ndindex(*shape):
        rows = (index == place).all(axis=1)
        if rows.any() or len(by) == 1:
            labels = tuple(strata.labels[i] for strata, i in zip(by.values(), place, strict=True))
            out.append(cell_of(recovery.take(rows), labels, confidence))
    return tuple(out)


def merged_bins(recovery: Recovery, name: str, strata: Strata) -> Strata:
    """Coarser bins of a fact, each with 30 effective rows where the data allow it.

    The rule, declared beforehand: from the low end on, a bin that has fewer takes in the next one; the last
    takes in the one before it. What is found plays no part: rows are counted by their hosts.
    """
    values = recovery.facts[name]
    edges = [strata.edges[0]]
    for high in strata.edges[1:]:
        inside = (values >= edges[-1]) & (values < high)
        if len(set(recovery.host[inside])) >= FEWEST_EFFECTIVE or high == strata.edges[-1]:
            edges.append(high)
    last = (values >= edges[-2]) & (values < edges[-1]) if len(edges) > 2 else None
    if last is not None and len(set(recovery.host[last])) < FEWEST_EFFECTIVE:
        del edges[-2]
    return Strata(edges=tuple(edges), outside=strata.outside)
