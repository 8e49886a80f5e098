"""What the report says of a run: key numbers, pictures, curves, provenance, limits."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from darkhaloscope import __version__
from darkhaloscope.contracts.measured import ArcDomain, HostDomain
from darkhaloscope.contracts.random import stream
from darkhaloscope.contracts.store import Dataset
from darkhaloscope.dataset.pixels import usable
from darkhaloscope.evaluation.samples import Sample, host_domain, negatives, positives, sample_of, scored
from darkhaloscope.injection.recipe import other_sources
from darkhaloscope.pipeline.data import HOSTS, SKY, of_split, save_json
from darkhaloscope.pipeline.realism import comparators, distributions, realism_told
from darkhaloscope.pipeline.results import Results, decide
from darkhaloscope.pipeline.shown import examples, reliability, selection_curves, selection_maps
from darkhaloscope.report.parts import Origin
from darkhaloscope.report.run import ManifestEntry, RunResults
from darkhaloscope.report.values import Epoch, History, LensPicture, PairPicture, RocCurve
from darkhaloscope.stamps.stamp import decode_planes
from darkhaloscope.stats import roc_curve

GALLERY = 6
GALLERY_LEAST_SNR = 25.0
_GALLERY_COLUMNS = (
    "task_id", "host_domain", "stamp_npz", "ctrl_stamp_npz", "arc_npz", "theta_e_arcsec", "arc_snr_mf",
    "reject",
)  # fmt: skip
_SLICE_MARKS = (" [", " <", " >", " unknown")


def assemble(run: Results) -> RunResults:
    """Everything the report says."""
    e = run.experiment
    verdict, reasons = decide(run.foundation + run.findings)
    told = realism_told(run)
    slices = tuple(m for m in run.synth if any(mark in m.name for mark in _SLICE_MARKS))
    measured = tuple(m for m in run.synth if m not in slices) + run.operating + run.rings + run.anchors
    save_json(
        run.models / "results" / "metrics.json",
        [
            m.model_dump(mode="json")
            for m in (
                *measured,
                *slices,
                *run.contaminants,
                *run.hard_negatives_told,
                *run.selection_measured,
                *run.calibration,
                *(told.measured if told else ()),
            )
        ],
    )
    host = host_domain(positives(run.test))
    pairs = tuple(d.fingerprint for d in run.pairs.values())
    return RunResults(
        title=f"Dark Halo Scope: {e.name}",
        config=f"{e.name}: {e.about}" if e.about else e.name,
        seeds=(e.seed,),
        verdict=verdict,
        reasons=reasons,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        code_version=__version__,
        what_was_done=_what_was_done(run),
        measured=measured,
        gallery=_gallery(run),
        history=_history(run),
        roc=_roc(run),
        gates=tuple(run.findings),
        gates_origin=Origin(host_domain=host, arc_domain=ArcDomain.SIM, manifests=pairs),
        foundation=tuple(run.foundation),
        foundation_origin=Origin(host_domain=host, arc_domain=ArcDomain.SIM, manifests=pairs),
        completeness=run.completeness,
        selection_maps=selection_maps(run),
        selection_curves=selection_curves(run),
        reliability=reliability(run),
        examples=examples(run),
        realism=distributions(run, told) if told else None,
        comparators=comparators(run, told) if told else None,
        slices=slices,
        contaminants=run.contaminants,
        confidence=run.protocol.statistics.confidence,
        hard_negatives=run.hard_negatives_told,
        real_lenses=_lens_pictures(run),
        manifests=_manifests(run, swapped=told is not None),
        limits=_limits(run),
    )


def _what_was_done(run: Results) -> tuple[str, ...]:
    hosts = {
        name: sum(k == "lrg" for k in d.read(["kind"]).column("kind").to_pylist())
        for name, d in run.sources.items()
    }
    words = {SKY: "simulated", HOSTS: "real"}
    told = " and ".join(f"{n} {words[name]} galaxies" for name, n in hosts.items())
    n_pairs = sum(d.num_rows for d in run.pairs.values())
    floored = sum(sum(d.manifest.rejects.values()) for d in run.pair_splits.values())
    network = run.experiment.training.network
    return (
        f"Arcs were injected into {told}: {n_pairs} pairs of a stamp and its untouched control.",
        (
            f"Rows were split by sky cell into train, select, calib and test; {floored} train and select "
            f"pairs fainter than matched-filter S/N {run.experiment.splits.snr_floor_mf:g} are set aside."
        ),
        (
            f"A {network.backbone} ({network.stem} stem, max-pool kept) was trained for "
            f"{len(run.trained.history)} epochs; epoch {run.trained.best_epoch} was kept by the select split."
        ),
    )


def _history(run: Results) -> History:
    floor = run.experiment.splits.snr_floor_mf
    counts = [
        usable(run.rows(split, ("task_id", "arc_snr_mf", "reject")), snr_floor_mf=floor).num_rows
        for split in ("train", "select")
    ]
    names = ("epoch", "train_loss", "select_loss", "select_auroc", "select_core_masked_auroc", "lr")
    epochs = [Epoch(**{n: getattr(epoch, n) for n in names}) for epoch in run.trained.history]
    return History(
        epochs=tuple(epochs),
        best_epoch=run.trained.best_epoch,
        seed=run.experiment.training.seed,
        n_train=counts[0],
        n_select=counts[1],
        origin=Origin(
            host_domain=host_domain(positives(run.test)),
            arc_domain=ArcDomain.SIM,
            manifests=tuple(d.fingerprint for d in run.pairs.values()),
        ),
    )


def _roc(run: Results) -> tuple[RocCurve, ...]:
    pos, neg = positives(run.test), negatives(run.test)
    curves = [_curve(run, "all test rows", pos, neg)]
    for domain in sorted({*pos.host_domain}) if len({*pos.host_domain}) > 1 else []:
        of = [sample.take(sample.host_domain == domain) for sample in (pos, neg)]
        if all(len(sample) for sample in of):
            curves.append(_curve(run, f"{'real' if domain == 'real' else 'simulated'} hosts", *of))
    return (*curves, *_anchor_curve(run, neg))


def _anchor_curve(run: Results, neg: Sample) -> list[RocCurve]:
    """Mock anchors against the same negatives: arcs that no training draw made."""
    if "anchors" not in run.scores:
        return []
    rows = scored(run.scores["anchors"].read())
    mock = pc.fill_null(pc.equal(rows.column("arc_domain"), "nature"), fill_value=False)
    anchors = sample_of(rows.filter(mock))
    if len(anchors) < run.protocol.anchor_recall.anchors_min:
        return []
    origin = run.origin(host_domain(anchors), ArcDomain.NATURE, "anchors", *run.tested)
    return [_curve(run, "mock anchors", anchors, neg).model_copy(update={"origin": origin})]


def _curve(run: Results, label: str, pos: Sample, neg: Sample) -> RocCurve:
    curve = roc_curve(pos.score, neg.score)
    return RocCurve(
        label=label,
        fpr=curve.fpr,
        tpr=curve.tpr,
        n_pos=len(pos),
        n_neg=len(neg),
        origin=run.origin(host_domain(pos, neg), ArcDomain.SIM, *run.tested),
    )


def _gallery(run: Results) -> tuple[PairPicture, ...]:
    """Test pairs bright enough to see, the same ones every time, alike many from each source."""
    pictures: list[PairPicture] = []
    for name in run.pairs:
        rows = _test_pairs(run, name)
        bright = rows.filter(pc.greater_equal(rows.column("arc_snr_mf"), GALLERY_LEAST_SNR)).to_pylist()
        bright.sort(key=lambda row: stream(run.experiment.seed, "report/gallery", row["task_id"]).random())
        pictures += [_picture(row, run.pairs[name]) for row in bright[: GALLERY // len(run.pairs)]]
    return tuple(pictures)


def _test_pairs(run: Results, name: str) -> pa.Table:
    return of_split(
        run.pairs[name],
        run.pair_splits[name],
        split="test",
        columns=_GALLERY_COLUMNS,
        key="task_id",
    )


def _picture(row: dict[str, Any], pairs: Dataset) -> PairPicture:
    where = row["task_id"]
    return PairPicture(
        stamp=decode_planes(row["stamp_npz"], where=where),
        control=decode_planes(row["ctrl_stamp_npz"], where=where),
        arc=decode_planes(row["arc_npz"], "arc", where=where),
        caption=where,
        theta_e_arcsec=row["theta_e_arcsec"],
        arc_snr_mf=row["arc_snr_mf"],
        origin=Origin(
            host_domain=HostDomain(row["host_domain"]),
            arc_domain=ArcDomain.SIM,
            manifests=(pairs.fingerprint,),
        ),
    )


def _lens_pictures(run: Results) -> tuple[LensPicture, ...]:
    """Real lens fields with score and place among negatives, real ones where there are any."""
    if run.known_lenses is None:
        return ()
    neg = negatives(run.test)
    real = neg.take(neg.host_domain == "real")
    pool, which = (real, "real galaxies") if len(real) else (neg, "simulated galaxies")
    scores = {row["row_id"]: row["score"] for row in scored(run.scores["lenses"].read()).to_pylist()}
    pictures = []
    for row in run.known_lenses.read(
        ["target_id", "name", "stamp_npz", "psf_source", "noise_source", "reject"]
    ).to_pylist():
        score = scores.get(row["target_id"])
        if row["reject"] is not None or score is None:
            continue
        origins = f"PSF {row['psf_source']}, noise from {row['noise_source']}"
        pictures.append(
            LensPicture(
                stamp=decode_planes(row["stamp_npz"], where=row["target_id"]),
                name=row["name"] or row["target_id"],
                score=score,
                percentile=float(100 * np.mean(pool.score < score)) if len(pool) else None,
                n_negatives=len(pool),
                detail=f"ranked among {which} of the test split; {origins}",
                origin=run.origin(HostDomain.REAL, ArcDomain.REAL, "lenses"),
            )
        )
    return tuple(pictures)


def _manifests(run: Results, *, swapped: bool) -> tuple[ManifestEntry, ...]:
    what = {SKY: "synthetic sky", HOSTS: "real cutouts"}
    named: list[tuple[str, Dataset]] = [(what[name], d) for name, d in run.sources.items()]
    named += [(f"injections into the {what[name]}", d) for name, d in run.pairs.items()]
    named += [(f"zero-flux injections into the {what[name]}", d) for name, d in run.shams.items()]
    named += [(f"splits of the pairs of the {what[name]}", d) for name, d in run.pair_splits.items()]
    named += [(f"splits of the {what[name]}", d) for name, d in run.target_splits.items()]
    named += [(f"hard negatives of the {what[name]}", d) for name, d in run.hard_negatives.items()]
    if swapped:
        what_kind = other_sources(run.recipe).shapes.kind
        named.append((f"injections of {what_kind} sources into hosts of the test split", run.swapped))
    if run.distractors is not None:
        named.append(("contaminants that training saw", run.distractors))
    if run.lookalikes is not None:
        named.append(("mock contaminants and mock anchors", run.lookalikes))
    if run.known_lenses is not None:
        named.append(("cutouts of known lenses", run.known_lenses))
    named += [(f"scores of {name}", d) for name, d in run.scores.items()]
    return tuple(
        ManifestEntry(fingerprint=d.fingerprint, table=d.manifest.table, rows=d.num_rows, what=text)
        for text, d in named
    )


def _limits(run: Results) -> tuple[str, ...]:
    limits = [
        f"The pairs shown are drawn from those with matched-filter S/N of at least {GALLERY_LEAST_SNR:g}.",
        "Sources are Sérsic galaxies, a tenth of them disc and bulge, from priors: not real galaxies.",
    ]
    if run.experiment.trusted_pairs is None:
        limits.append(
            "Two gates compare with arcs by an independent renderer; none were named (trusted_pairs), so "
            "this run cannot be a GO."
        )
    limits += [f"The known lens {name} was not there and was not scored." for name in run.absent_lenses]
    if HOSTS in run.sources:
        assumed = run.sources[HOSTS].read(["psf_source"]).column("psf_source").to_pylist().count("assumed")
        if assumed:
            limits.append(
                f"{assumed} real hosts came without a PSF: arcs on them were blurred with an assumed one."
            )
    if run.known_lenses is not None:
        limits.append(
            "A field whose arc is larger than the stamp is cropped: its score says little about arc finding."
        )
    return tuple(limits)
