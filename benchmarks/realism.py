"""The comparisons of the realism gap on the synthetic sky, and what the measure of arc light is worth.

python -m benchmarks.realism [--hosts 300]

Mock anchors and injections are made by one recipe in disjoint hosts of one sky, so that r0 to r4 must be
compatible with one half; r5 swaps Sérsic for hybrid sources.
"""

import argparse
from dataclasses import replace

import numpy as np
import pyarrow as pa

from darkhaloscope.contracts.measured import ArcDomain
from darkhaloscope.contracts.protocol import load_protocol
from darkhaloscope.contracts.random import stream
from darkhaloscope.evaluation.arc_light import arc_region, deflector_model, measure_arcs
from darkhaloscope.evaluation.arc_turns import bright_region, snr_among_turns
from darkhaloscope.evaluation.comparisons import Populations, light_of
from darkhaloscope.evaluation.realism import STANDS_OUT, realism
from darkhaloscope.evaluation.representations import Physical
from darkhaloscope.evaluation.samples import Run
from darkhaloscope.evaluation.separation import separate
from darkhaloscope.evaluation.stamp_sets import StampSet
from darkhaloscope.injection.inject import Inject, MakeAnchors
from darkhaloscope.injection.recipe import HybridShapes, Recipe
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.survey.noise import correlated_noise
from darkhaloscope.survey.photometry import MAD_TO_STD
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks

SEED = 11


def populations(hosts: int) -> Populations:
    """Two disjoint halves of the deflectors of one sky, and what the rooms make of them."""
    priors = SkyPriors()
    plan = plan_bricks(SEED, hosts // 4 + 1, 11, priors=priors, anchors=0)
    sky = HarvestSky(seed=SEED, priors=priors).run(plan).to_pylist()
    rows = [row for row in sky if row["kind"] == "lrg" and not row["reject"]][: 2 * hosts]
    schema = HarvestSky.writes
    own = schema.conform(rows[:hosts])
    lenses = schema.conform([row | {"kind": "lens"} for row in rows[hosts:]])
    anchors = MakeAnchors(seed=SEED + 1, snr_floor=0.0).run(lenses)
    made = pa.array([value is None for value in anchors.column("reject").to_pylist()])
    pairs = Inject(seed=SEED).run(own)
    other = Inject(seed=SEED, recipe=Recipe(shapes=HybridShapes())).run(own)
    return Populations(
        nature=StampSet.of_stamps(anchors, "mock anchors"),
        injected=StampSet.of_pairs(pairs, "injections", hosts=own),
        controls=StampSet.of_pairs(pairs, "controls", hosts=own, control=True),
        nature_hosts=StampSet.of_stamps(lenses.filter(made), "hosts of anchors"),
        sham=StampSet.of_pairs(Inject(seed=SEED + 2, sham=True).run(own), "sham", hosts=own),
        swapped=StampSet.of_pairs(other, "hybrid", hosts=own),
    )


def light_table(p: Populations) -> None:
    """The S/N of noise and of galaxies, and the share of bright arcs that outlives the subtraction."""
    s, controls = p.injected, p.controls
    known = {"theta_e_arcsec": s.theta_e_arcsec}
    rng = stream(SEED, "benchmarks/realism", "noise")
    usable = s.invvar > 0
    sigma = np.sqrt(np.divide(1.0, s.invvar, out=np.zeros(s.invvar.shape), where=usable))
    noise = np.array([[correlated_noise(plane, rng) for plane in row] for row in sigma], np.float32)
    for name, pixels in (("noise alone", noise), ("galaxies without an arc", controls.stamps)):
        snr = light_of(replace(controls.showing(pixels, ArcDomain.SIM), **known)).snr
        print(f"| {name} | {_told(snr)} |")
    region = arc_region(s.stamps.shape, s.x_center, s.y_center, s.theta_e_arcsec, s.psf_fwhm_arcsec)
    used = region[:, None] & usable
    errors = np.sqrt((used * sigma**2).sum(axis=(2, 3)))
    left = noise - deflector_model(noise, s.invvar, s.x_center, s.y_center)
    positive = (np.maximum(left, 0) * used).sum(axis=(2, 3)) / errors
    print(f"| noise alone, sum of max(residual, 0), r | {_told(positive[:, 1])} |")
    turned_table(p, {"noise alone": noise, "galaxies without an arc": controls.stamps, "arcs": s.stamps})
    truth = ((s.stamps - controls.stamps) * used).sum(axis=(2, 3))
    kept = ((s.stamps - deflector_model(s.stamps, s.invvar, s.x_center, s.y_center)) * used).sum(axis=(2, 3))
    direct = (truth / errors).sum(axis=1)
    bright = direct > np.quantile(direct, 0.75)
    print(
        f"share of the brightest quarter's light left: {np.median((kept / truth)[bright], axis=0).round(2)}"
    )


def turned_table(p: Populations, pixels: dict[str, np.ndarray]) -> None:
    """The S/N of the arcs' own regions by both nulls, for those that are no rings."""
    s, region = p.injected, bright_region(p.injected.arcs)
    centre = (s.x_center, s.y_center)
    for name, stamps in pixels.items():
        turned = snr_among_turns(stamps, s.invvar, *centre, region, seed=SEED, keys=s.keys).snr
        known = np.isfinite(turned)
        far = measure_arcs(stamps, s.invvar, *centre, region).snr
        left = np.maximum(stamps - deflector_model(stamps, s.invvar, *centre), 0)
        used = region[:, None] & (s.invvar > 0)
        variance = np.divide(1.0, s.invvar, out=np.zeros(s.invvar.shape), where=s.invvar > 0)
        clipped = (left * used).sum(axis=(2, 3)) / np.sqrt((variance * used).sum(axis=(2, 3)))
        for null, snr in (
            ("turned", turned),
            ("blank annuli", far),
            ("max(residual, 0)", clipped.sum(1) / 3**0.5),
        ):
            seen = f"{(snr[known] > STANDS_OUT).mean():.2f} > {STANDS_OUT:g}"
            print(f"| {name}, {null}, n = {known.sum()} of {len(known)} | {_told(snr[known])} | {seen} |")


def _told(snr: np.ndarray) -> str:
    middle = np.median(snr)
    spread = MAD_TO_STD * np.median(np.abs(snr - middle))
    return f"{snr.mean():+.2f} | {snr.std():.2f} | {middle:+.2f} | {spread:.2f}"


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=300)
    p = populations(parser.parse_args().hosts)
    light_table(p)
    run = Run(load_protocol(), seed=SEED, seeds=(SEED,), manifests=("benchmark",))
    for m in realism(p, [Physical()], run).measured:
        value = "-" if m.value is None else f"{m.value:.3f}"
        ends = "" if m.low is None else f" [{m.low:.3f}, {m.high:.3f}]"
        print(f"| `{m.name}` | {m.status} | {value}{ends} | {m.n} | {m.detail} |")
    phi = Physical()
    sides = [phi(s.stamps, s.x_center, s.y_center) for s in (p.injected, p.swapped)]
    marginal = separate(*sides, (p.injected.groups, p.swapped.groups), seed=SEED, purpose="marginal")
    print(f"r5 by marginal scores: {marginal.auc:.3f} {marginal.interval()} {marginal.verdict()}")


if __name__ == "__main__":
    main()
