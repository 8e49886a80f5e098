"""A gallery of what a recipe does, before a dataset is made of it: three arms side by side on the same hosts.

The arms share host, lens, source position, magnitude and photons' stream: what differs between columns is the
arm alone.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.store import Dataset, open_dataset, write_whole
from darkhaloscope.contracts.tables import STAMPS
from darkhaloscope.injection.draw import settled
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.nuisance import Nuisances
from darkhaloscope.injection.recipe import HybridShapes, Recipe
from darkhaloscope.pipeline.experiment import load_experiment
from darkhaloscope.report import figures
from darkhaloscope.report.values import ArmRow, ArmsGallery
from darkhaloscope.stamps.stamp import decode_planes

ARMS = ("gen5′", "gen7", "gen8")


def arms_of(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe as it is, with clumpy sources, and under varied imaging."""
    changes: list[dict[str, Any]] = [{}, {"shapes": HybridShapes()}, {"imaging": Nuisances()}]
    return {arm: recipe.model_copy(update=change) for arm, change in zip(ARMS, changes, strict=True)}


def preview_arms(
    stamps: Path, out: Path, config: str | Path, n: int, *, least_snr: float, overrides: Sequence[str] = ()
) -> Path:
    """Draw n hosts of a stamps dataset with the three arms of an experiment's recipe; returns the PNG.

    out         the PNG, or the folder for it
    least_snr   hosts whose first arm has a lower arc_snr_mf are passed over, and the picture says so
    """
    experiment = load_experiment(config, list(overrides))
    source = open_dataset(stamps).expect(STAMPS)
    arms = arms_of(settled(experiment.recipe))
    jobs = {arm: Inject(recipe=recipe, seed=experiment.seed) for arm, recipe in arms.items()}
    rows: list[ArmRow] = []
    for host in _hosts(source):
        pairs = [job.run(host).to_pylist()[0] for job in jobs.values()]
        if any(pair["reject"] for pair in pairs) or pairs[0]["arc_snr_mf"] < least_snr:
            continue
        rows.append(_row(pairs))
        if len(rows) == n:
            break
    if not rows:
        raise DataError(
            str(stamps), f"holds no host that carries an arc of S/N {least_snr:g}", "lower --least-snr"
        )
    png = out if out.suffix == ".png" else out / "preview.png"
    gallery = ArmsGallery(rows=tuple(rows), arms=ARMS, least_snr=least_snr)
    write_whole(png, figures.rendered(figures.arms(gallery), "png"))
    return png


def _hosts(source: Dataset) -> Iterator[pa.Table]:
    """Possible hosts, one row each, in the dataset's order."""
    for key in source.keys:
        table = source.read_shard(key, columns=Inject.columns)
        for k, (kind, arc) in enumerate(
            zip(*(table.column(c).to_pylist() for c in ("kind", "arc_domain")), strict=True)
        ):
            if kind == "lrg" and arc is None:
                yield table.slice(k, 1)


def _row(pairs: Sequence[dict[str, Any]]) -> ArmRow:
    first = pairs[0]
    where = f"task {first['task_id']}"
    return ArmRow(
        control=decode_planes(first["ctrl_stamp_npz"], where=where),
        stamps=tuple(decode_planes(pair["stamp_npz"], where=where) for pair in pairs),
        arcs=tuple(decode_planes(pair["arc_npz"], "arc", where=where) for pair in pairs),
        facts=(
            f"{first['target_id']}\nθE {first['theta_e_arcsec']:.2f}″  r {first['source_mag_r']:.1f}"
            f" → {first['lensed_mag_r']:.1f}\nS/N {first['arc_snr_mf']:.0f}  {first['source_model']}"
        ),
    )
