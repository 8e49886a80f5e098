"""Pairs whose arcs were rendered by code that shares nothing with ours: the reference of the leakage excess.

    python -W ignore -m benchmarks.independent_arcs --config gen5_prime_baseline.yaml --out trusted

A synthetic sky of its own (bricks that the experiment does not use), or the galaxies of `--stamps`; the same
priors, photon noise and table. What differs is the light: lenstronomy traces the rays and evaluates the
source on a fifth of a pixel, and finer where it is bright; SciPy convolves with the survey's kernel,
interpolated by its Fourier series. Name the result in an experiment (`trusted_pairs`), and its gates
`leakage_excess` and `low_overlap_excess` can be evaluated.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from numpy.typing import NDArray
from scipy import ndimage, signal

from benchmarks.reference import exact_radius
from darkhaloscope.contracts.store import Dataset, local_writer, open_dataset, write_rows
from darkhaloscope.contracts.tables import BRICKS, STAMPS
from darkhaloscope.injection.draw import Truth, settled
from darkhaloscope.injection.inject import Inject, ReadyPair
from darkhaloscope.injection.lens import ISOTHERMAL, ellipticity_from_axis
from darkhaloscope.injection.render import Arc
from darkhaloscope.injection.source import Sersic
from darkhaloscope.pipeline.experiment import Experiment, load_experiment
from darkhaloscope.runners.local import run_local
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.stamps.stamp import Stamp
from darkhaloscope.survey.sky import plan_bricks

Pixels = NDArray[np.float64]

FINE = 5
"""Samples per pixel and axis; odd, so that one of them is the pixel's centre."""

MARGIN_PIX = 4
FINER = 7
"""Samples per fine pixel and axis where the arc is bright."""

BRIGHT = 0.02
"""Share of the brightest fine pixel above which it and its neighbours are sampled finer."""


def render(control: Stamp, truth: Truth) -> Arc:
    """One arc as the stamp's PSF shows it, noiseless.

    Raises TypeError for a source that is not made of Sersic profiles.
    """
    height, width = control.image.shape[1:]
    x = _axis(width, control.x_center_pix) * control.pixel_scale_arcsec
    y = _axis(height, control.y_center_pix) * control.pixel_scale_arcsec
    light = np.zeros((len(control.psf), len(y), len(x)))
    lens, names = _lens(truth)
    model = LensModel(names)
    for part in truth.source.parts:
        if not isinstance(part.shape, Sersic):
            message = "independent arcs are made of Sersic sources only"
            raise TypeError(message)
        shone = _unit_light(model, lens, part.shape, (x, y))
        light += np.asarray(part.flux_nmgy)[:, None, None] * shone
    seen = [_observed(plane, kernel, height, width) for plane, kernel in zip(light, control.psf, strict=True)]
    return Arc(np.stack(seen), light.sum(axis=(1, 2)))


def _axis(n: int, center_pix: float) -> Pixels:
    """Positions of fine pixels relative to the target [pix]."""
    fine = np.arange(FINE * (n + 2 * MARGIN_PIX))
    return (fine - FINE // 2) / FINE - MARGIN_PIX - center_pix


def _lens(truth: Truth) -> tuple[list[dict[str, float]], list[str]]:
    lens = truth.lens
    e1, e2 = ellipticity_from_axis(lens.q, lens.phi)
    mass = {"theta_E": lens.theta_e, "e1": e1, "e2": e2, "center_x": lens.x, "center_y": lens.y}
    shear = {"gamma1": lens.gamma1, "gamma2": lens.gamma2, "ra_0": lens.x, "dec_0": lens.y}
    if lens.gamma == ISOTHERMAL:
        return [mass, shear], ["SIE", "SHEAR"]
    return [mass | {"gamma": lens.gamma}, shear], ["EPL", "SHEAR"]


def _unit_light(
    model: LensModel, lens: list[dict[str, float]], shape: Sersic, axes: tuple[Pixels, Pixels]
) -> Pixels:
    """Lensed light of a unit source in every fine pixel; axes: their x and y [arcsec]."""
    x, y = axes
    step = float(x[1] - x[0])
    e1, e2 = ellipticity_from_axis(shape.q, shape.phi)
    arguments = [
        {
            "amp": 1.0, "R_sersic": exact_radius(shape), "n_sersic": shape.n_sersic,
            "e1": e1, "e2": e2, "center_x": shape.x, "center_y": shape.y,
        }
    ]  # fmt: skip
    profile = LightModel(["SERSIC_ELLIPSE"])
    unit = step**2 / profile.total_flux(arguments)[0]

    def bright_at(px: Pixels, py: Pixels) -> Pixels:
        return np.asarray(profile.surface_brightness(*model.ray_shooting(px, py, lens), arguments)) * unit

    gx, gy = np.meshgrid(x, y)
    light = bright_at(gx.ravel(), gy.ravel()).reshape(gx.shape)
    near = np.flatnonzero(ndimage.binary_dilation(light > BRIGHT * light.max(), np.ones((5, 5))))
    offset = ((np.arange(FINER) + 0.5) / FINER - 0.5) * step
    ox, oy = (o.ravel() for o in np.meshgrid(offset, offset))
    finer = bright_at(
        (gx.ravel()[near, None] + ox).ravel(), (gy.ravel()[near, None] + oy).ravel()
    ).reshape(len(near), -1)  # fmt: skip
    light.flat[near] = finer.mean(axis=1)
    return light


def _observed(light: Pixels, kernel: NDArray[np.floating], height: int, width: int) -> Pixels:
    """What the pixel centres see: light times the kernel, whose samples include the pixel already."""
    rows, columns = kernel.shape
    fine = signal.resample(signal.resample(kernel.astype(float), FINE * rows, axis=0), FINE * columns, axis=1)
    middle = FINE * (rows // 2), FINE * (columns // 2)
    whole = signal.fftconvolve(light, fine, mode="full")
    first = [m + FINE * MARGIN_PIX + FINE // 2 for m in middle]
    seen = whole[first[0] :: FINE, first[1] :: FINE]
    return np.asarray(seen[:height, :width])


class InjectIndependent(Inject):
    """`Inject` with lenstronomy's light."""

    job: Literal["inject_independent"] = "inject_independent"  # type: ignore[assignment]

    def _arcs(self, lit: Sequence[ReadyPair]) -> Sequence[Arc]:
        return [render(pair.control, pair.truth) for pair in lit]


def make(
    experiment: Experiment, out: Path, *, hosts: int, stamps: Path | None = None, workers: int = 1
) -> Dataset:
    """Independent pairs of an experiment's recipe in `out`; the sky they are in lies beside them."""
    if experiment.recipe.imaging is not None:
        message = "a recipe with imaging nuisances needs arcs with the same: not made here"
        raise SystemExit(message)
    given = None if stamps is None else open_dataset(stamps).expect(STAMPS)
    source = given or _sky(experiment, out, hosts, workers)
    job = InjectIndependent(recipe=settled(experiment.recipe), seed=experiment.seed)
    return run_local(job, source, local_writer(out, job.writes), workers=workers)


def _sky(experiment: Experiment, out: Path, hosts: int, workers: int) -> Dataset:
    """Bricks that come after all those of the experiment."""
    survey = experiment.survey
    share = 1.0 - survey.priors.discs.share
    bricks = int(np.ceil(hosts / (share * survey.targets_per_brick)))
    used = survey.bricks + survey.lookalikes.bricks + survey.distractors.bricks
    rows = plan_bricks(
        experiment.seed, bricks, survey.targets_per_brick, priors=survey.priors, anchors=0, first=used
    )
    folder = out.parent / f"{out.name}-sky"
    plan = write_rows(
        local_writer(folder / "bricks", BRICKS), rows, shard_rows=survey.bricks_per_shard,
        job={"job": "plan_bricks", "seed": experiment.seed, "first": used},
    )  # fmt: skip
    harvest = HarvestSky(seed=experiment.seed, priors=survey.priors, size=survey.size)
    return run_local(harvest, plan, local_writer(folder / "stamps", harvest.writes), workers=workers)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the pairs that an experiment names as `trusted_pairs`."""
    parser = argparse.ArgumentParser(description="Pairs whose arcs lenstronomy rendered.")
    parser.add_argument("--config", default="gen5_prime_baseline.yaml", help="the experiment they belong to")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hosts", type=int, default=4000, help="the gates ask for 3,200 at least")
    parser.add_argument("--stamps", type=Path, help="galaxies to put them into, none of the experiment's own")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="as for dhs run")
    given = parser.parse_args(arguments)
    experiment = load_experiment(given.config, given.set)
    made = make(experiment, given.out, hosts=given.hosts, stamps=given.stamps, workers=given.workers)
    print(f"{made.num_rows} pairs in {given.out}: name them as trusted_pairs in the experiment")


if __name__ == "__main__":
    main()
