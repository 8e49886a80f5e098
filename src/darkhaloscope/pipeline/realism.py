"""The realism gap of a run: its mock anchors against its injections, in three feature maps."""

import json
from dataclasses import replace
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkhaloscope.contracts.config import Frozen, fingerprint
from darkhaloscope.contracts.measured import ArcDomain, HostDomain, Measured
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.evaluation.comparisons import Populations
from darkhaloscope.evaluation.realism import RealismFigure, realism
from darkhaloscope.evaluation.representations import Penultimate, Physical, Representation
from darkhaloscope.evaluation.stamp_sets import StampSet
from darkhaloscope.injection.recipe import other_sources
from darkhaloscope.pipeline.data import SKY, save_json
from darkhaloscope.pipeline.results import Results
from darkhaloscope.report.parts import Histogram, Origin
from darkhaloscope.report.values import ComparatorAuc, ComparatorAucs, Distribution, Realism

_HOST_COLUMNS = (
    "target_id", "flux_g", "flux_r", "flux_z", "psfdepth_r", "z", "shape_r", "psfsize_r", "reject",
)  # fmt: skip
_PAIR_COLUMNS = (
    "task_id", "target_id", "host_id", "group", "host_domain", "arc_domain", "stamp_npz", "ctrl_stamp_npz",
    "arc_npz", "invvar_npz", "theta_e_arcsec", "arc_snr_mf", "psf_fwhm_arcsec", "psfdepth_r", "x_center_pix",
    "y_center_pix", "reject",
)  # fmt: skip

NATURE = "mock anchors"
METHOD = "logistic probe, five folds by host, five times; 95 % by the influence of hosts, Student's t"
WHAT = {
    "r0": "mock lenses, halves",
    "r1": "hosts against hosts",
    "r2": "sham against control",
    "r3": "matched lenses",
    "r4": "matched, arcs alone",
    "r5": "another source family",
}


class Told(Frozen):
    """What was measured, and the data of its picture."""

    measured: tuple[Measured, ...]
    figure: RealismFigure


def realism_told(run: Results) -> Told | None:
    """The comparisons of a run's mock anchors with its test injections, kept beside what they were made of.

    None without a synthetic sky or mock anchors: real lenses are too few here to be told from anything.
    """
    if SKY not in run.sources or run.lookalikes is None:
        return None
    anchors = _mock_anchors(run.lookalikes)
    if not anchors.num_rows:
        return None
    path = run.models / "results" / "realism.json"
    made_from = [run.lookalikes.fingerprint, run.swapped.fingerprint]
    mark = fingerprint([run.gates_mark(run.trained.checkpoint_sha256), *made_from])
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["made_from"] == mark:
            return Told.model_validate_json(json.dumps(held["told"]))
    told = _made(run, anchors)
    save_json(path, {"made_from": mark, "told": told.model_dump(mode="json")})
    return told


def _mock_anchors(dataset: Dataset) -> pa.Table:
    rows = dataset.read()
    mock = pc.fill_null(pc.equal(rows.column("arc_domain"), "nature"), fill_value=False)
    return rows.filter(pc.and_(mock, pc.is_null(rows.column("reject"))))


def _made(run: Results, anchors: pa.Table) -> Told:
    hosts = run.sources[SKY].read(_HOST_COLUMNS)
    some = _rows_of(run.pairs[SKY], "task_id", set(run.compared))
    without = _rows_of(run.shams[SKY], "target_id", set(some.column("target_id").to_pylist()))
    populations = Populations(
        nature=StampSet.of_stamps(anchors, NATURE),
        injected=StampSet.of_pairs(some, "injections", hosts=hosts),
        controls=StampSet.of_pairs(some, "controls", hosts=hosts, control=True),
        sham=StampSet.of_pairs(without, "sham", hosts=hosts),
        swapped=_swapped(run, hosts),
    )
    task = Penultimate(run.scorer)
    maps: list[Representation] = [Physical(), task, replace(task, without_logit=True)]
    carried = run.figures_of_test
    carried = replace(carried, manifests=(*carried.manifests, *_pixels(run)))
    found = realism(populations, maps, carried)
    return Told(measured=found.measured, figure=found.figure)


def _swapped(run: Results, hosts: pa.Table) -> StampSet | None:
    """The same hosts with other sources; None where not one of them could be made."""
    rows = run.swapped.read(_PAIR_COLUMNS)
    if not pc.is_null(rows.column("reject")).to_numpy().any():
        return None
    return StampSet.of_pairs(rows, f"{other_sources(run.recipe).shapes.kind} sources", hosts=hosts)


def _pixels(run: Results) -> tuple[str, ...]:
    """Manifests of the stamps that are compared."""
    found = (run.lookalikes, run.pairs[SKY], run.shams[SKY], run.swapped)
    return tuple(dataset.fingerprint for dataset in found if dataset is not None)


def _rows_of(dataset: Dataset, key: str, names: set[str]) -> pa.Table:
    """The rows of a dataset that are named, read shard by shard."""
    wanted = pa.array(sorted(names))
    pieces = []
    for shard in dataset.keys:
        rows = dataset.read_shard(shard, _PAIR_COLUMNS)
        pieces.append(rows.filter(pc.is_in(rows.column(key), value_set=wanted)))
    return pa.concat_tables(pieces)


def comparators(run: Results, told: Told) -> ComparatorAucs | None:
    """A bar for each comparison in each feature map that was evaluated."""
    rows = [
        ComparatorAuc(
            comparator=bar.comparison.upper(),
            what=WHAT.get(bar.comparison, ""),
            features=bar.representation,
            value=bar.auc,
            low=bar.low,
            high=bar.high,
            n=bar.n,
            origin=_origin(run, ArcDomain.SIM if bar.comparison == "r5" else ArcDomain.NATURE),
        )
        for bar in told.figure.comparisons
        if bar.auc is not None
    ]
    return ComparatorAucs(rows=tuple(rows), margin=told.figure.margin, method=METHOD) if rows else None


def distributions(run: Results, told: Told) -> Realism | None:
    """The light of arcs in each population, a panel for each quantity."""
    by_quantity = groupby(sorted(told.figure.distributions, key=lambda d: d.quantity), lambda d: d.quantity)
    panels = []
    for quantity, found in by_quantity:
        each = list(found)
        samples = tuple(
            Histogram(
                label=d.population,
                edges=np.array(d.edges),
                counts=d.counts,
                n=d.n,
                origin=_origin(run, ArcDomain.NATURE if d.population == NATURE else ArcDomain.SIM),
            )
            for d in each
            if sum(d.counts)
        )
        if samples:
            panels.append(
                Distribution(
                    quantity=QUANTITIES[quantity], unit=each[0].unit.replace("^2", "²"), samples=samples
                )
            )
    return Realism(panels=tuple(panels)) if panels else None


QUANTITIES = {
    "brightness": "surface brightness of the arc",
    "g_r": "g − r of the arc",
    "r_z": "r − z of the arc",
    "snr": "S/N of the arc, deflector taken out",
}


def _origin(run: Results, arc: ArcDomain) -> Origin:
    """Of a comparison that mock anchors take part in, or of simulated arcs alone."""
    if arc is ArcDomain.SIM:
        made = (run.pairs[SKY].fingerprint, run.swapped.fingerprint)
        return Origin(host_domain=HostDomain.SIM, arc_domain=arc, manifests=made)
    return run.origin(HostDomain.SIM, arc, "anchors", *run.tested)
