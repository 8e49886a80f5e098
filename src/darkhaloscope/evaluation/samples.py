"""Rows of SCORES, told apart: who is a simulated arc, who a galaxy without one, and whose pixels these are.

What a row is follows from the row, not from the name of its file:

    positives      arc_domain sim: a simulated arc
    negatives      no arc, kind lrg or disc; and the control of each arc, unless its target stands there too
    contaminants   no arc, kind contaminant
    anchors        arc_domain real, or nature: made to play nature's part

Rows are taken as they come: hand in one split. Scores are probabilities at the training prevalence.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.errors import DataError, SchemaMismatch
from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.contracts.protocol import Protocol
from darkhaloscope.stats import Estimate
from darkhaloscope.survey.release import to_magnitude

NEGATIVE_KINDS = ("lrg", "disc")

Vector = NDArray[np.float64]
Text = NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of one class: score and group, domain of the host, and what strata are made of (NaN unknown)."""

    score: Vector
    group: Text
    host: Text
    host_domain: Text
    columns: dict[str, Vector]

    def __len__(self) -> int:
        return len(self.score)

    @property
    def host_number(self) -> NDArray[np.intp]:
        """Hosts numbered 0 … m - 1."""
        return np.unique(self.host, return_inverse=True)[1]

    def take(self, rows: NDArray[Any]) -> Self:
        """The given rows."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return type(self)(
            self.score[rows], self.group[rows], self.host[rows], self.host_domain[rows], columns
        )


_COLUMNS = ("theta_e_arcsec", "arc_snr", "arc_snr_mf", "psf_fwhm_arcsec", "psfdepth_r", "score_ctrl")
_DEPTH = "depth_r_mag"
"""Made of psfdepth_r: the magnitude of a point source at 5 sigma."""


@dataclass(frozen=True)
class Run:
    """What every measured number of one evaluation carries; `seed` is that of its resamples."""

    protocol: Protocol
    seed: int
    seeds: tuple[int, ...]
    manifests: tuple[str, ...]

    def measured(
        self,
        name: str,
        estimate: Estimate,
        host: HostDomain,
        arc: ArcDomain,
        *,
        withheld: str = "",
        detail: str = "",
        n: int | None = None,
    ) -> Measured:
        """One figure; `withheld` says why it is NOT_EVALUATED although a number may stand."""
        missing = withheld or ("" if estimate.value is not None else estimate.detail or "not defined")
        words = [missing, detail, estimate.detail if estimate.detail != missing else ""]
        return Measured(
            name=name,
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            method=estimate.method,
            n=estimate.n if n is None else n,
            n_clusters=estimate.n_clusters,
            host_domain=host,
            arc_domain=arc,
            seeds=self.seeds,
            manifests=self.manifests,
            status=Status.NOT_EVALUATED if missing else Status.PASS,
            detail="; ".join(word for word in words if word),
        )


def sample_of(rows: pa.Table, score: str = "score") -> Sample:
    """Columns of SCORES as arrays; `score` names the view that is the score."""

    def numbers(name: str) -> Vector:
        column = pc.fill_null(rows.column(name).cast(pa.float64()), float("nan"))
        return np.asarray(column.to_numpy(), dtype=float)

    def text(name: str) -> Text:
        return np.asarray(rows.column(name).to_pylist(), dtype=str)

    columns = {name: numbers(name) for name in _COLUMNS}
    columns[_DEPTH] = depth_mag(columns["psfdepth_r"])
    return Sample(numbers(score), text("group"), text("host_id"), text("host_domain"), columns)


def depth_mag(psfdepth: Vector) -> Vector:
    """Magnitude of a point source at 5 sigma, from psfdepth, its inverse variance [1/nmgy^2]; or NaN."""
    depth = np.where(psfdepth > 0, psfdepth, np.nan)
    return to_magnitude(5.0 / np.sqrt(depth))


def scored(rows: pa.Table) -> pa.Table:
    """Rows that have a score."""
    return rows.filter(pc.and_(pc.is_valid(rows.column("score")), pc.is_null(rows.column("reject"))))


def attach_splits(scores: pa.Table, splits: pa.Table, *, where: str = "scores") -> pa.Table:
    """SCORES with two columns more: `split`, and `split_reject` (why its split does not use the row).

    scores, splits   tables SCORES and SPLITS of the same dataset

    Raises DataError for scored rows that no split holds, SchemaMismatch for a repeated row_id in `splits`.
    """
    rows = splits.column("row_id").combine_chunks()
    if pc.count_distinct(rows).as_py() != len(rows):
        raise SchemaMismatch(where, "the splits hold a row_id more than once")
    at = pc.index_in(scores.column("row_id"), value_set=rows)
    if at.null_count:
        lost = scores.column("row_id").filter(pc.is_null(at))[0].as_py()
        raise DataError(
            where, f"{at.null_count} rows are in no split, for instance {lost}", "split them again"
        )
    joined = scores.append_column("split", splits.column("split").take(at))
    return joined.append_column("split_reject", splits.column("reject").take(at))


def split_rows(named: Iterable[tuple[str, pa.Table, pa.Table]], split: str) -> pa.Table:
    """SCORES of one split over all sources; rows that the split sets aside are left out.

    named   for each source where it is, its SCORES and its SPLITS
    """
    pieces = []
    for where, scores, splits in named:
        rows = attach_splits(scores, splits, where=where)
        wanted = pc.and_(pc.equal(rows.column("split"), split), pc.is_null(rows.column("split_reject")))
        pieces.append(rows.filter(wanted).drop_columns(["split", "split_reject"]))
    return pa.concat_tables(pieces)


def positives(rows: pa.Table) -> Sample:
    """Rows with a simulated arc."""
    kept = scored(rows)
    return sample_of(kept.filter(pc.fill_null(pc.equal(kept.column("arc_domain"), "sim"), fill_value=False)))


def negatives(rows: pa.Table) -> Sample:
    """Galaxies without an arc, each target once."""
    kept = scored(rows)
    known = pc.is_in(kept.column("kind"), value_set=pa.array(NEGATIVE_KINDS))
    plain = kept.filter(pc.and_(known, pc.is_null(kept.column("arc_domain"))))
    arcs = kept.filter(pc.fill_null(pc.equal(kept.column("arc_domain"), "sim"), fill_value=False))
    arcs = arcs.filter(pc.is_valid(arcs.column("score_ctrl")))
    seen = set(plain.column("target_id").to_pylist())
    first = []
    for i, target in enumerate(arcs.column("target_id").to_pylist()):
        if target not in seen:
            seen.add(target)
            first.append(i)
    own, controls = sample_of(plain), sample_of(arcs.take(pa.array(first, pa.int64())), "score_ctrl")
    return _joined(own, controls)


def _joined(a: Sample, b: Sample) -> Sample:
    columns = {name: np.concatenate([a.columns[name], b.columns[name]]) for name in a.columns}
    score, group, host, domain = (
        np.concatenate([getattr(a, name), getattr(b, name)])
        for name in ("score", "group", "host", "host_domain")
    )
    return Sample(score, group, host, domain, columns)


def labelled(pos: Sample, neg: Sample) -> tuple[Vector, Vector, Text]:
    """Scores, labels and groups of both classes, positives first."""
    labels = np.repeat([1.0, 0.0], [len(pos), len(neg)])
    return np.concatenate([pos.score, neg.score]), labels, np.concatenate([pos.group, neg.group])


def host_domain(*samples: Sample) -> HostDomain:
    """The one domain of all hosts, or MIXED. DataError where there are none."""
    found = {str(domain) for sample in samples for domain in sample.host_domain}
    if not found:
        raise DataError("scores", "hold no row to take a domain from")
    return HostDomain(found.pop()) if len(found) == 1 else HostDomain.MIXED
