"""Do the data gates find planted shortcuts, and leave clean data alone?

python -m benchmarks.shortcuts [--json] [--seeds 20] [--pairs 3600] [--curve-seeds 8] [--resume FILE]

Each seed has a sky of its own: twice as many deflectors as rows per class, painted and (the first of them)
injected with and without flux. Into one class a shortcut is planted at a given strength, and every gate of
the data says what it finds. Three designs:

    sham      stamps without an arc against controls, in random halves of the hosts: the sham gates
    classes   two sets of hosts as a loader gives them to a network, without arcs: gates.classes
    arcs      stamps with arcs against their controls: core_lr_auc_grouped and core_lr_auc_unpaired

A run appends to FILE seed by seed and goes on where it stopped. About three minutes a seed on one core.
"""

import argparse
import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.ndimage import gaussian_filter

from darkhaloscope.contracts.checks import Finding, Status
from darkhaloscope.contracts.protocol import Protocol, load_protocol
from darkhaloscope.contracts.random import stream
from darkhaloscope.gates.arrays import PairArrays
from darkhaloscope.gates.classes import CLASSES, host_matching
from darkhaloscope.gates.leakage import Look, look_at
from darkhaloscope.gates.probes import Design, Kind, probe_classes, probe_core
from darkhaloscope.gates.whole_stamp import TEXTURE, PixelSums, equivalent, pixel_check, pixel_shift
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.stamps.measure import annulus_mask, median_and_spread, radius_map
from darkhaloscope.stamps.preprocess import ANNULUS, Preprocess
from darkhaloscope.stamps.stamp import decode_planes
from darkhaloscope.stats import binomial
from darkhaloscope.survey.priors import Discs, SkyPriors
from darkhaloscope.survey.sky import plan_bricks

REPEATS = 2
"""Of each cross-validation of planted data, against the protocol's ten for clean data."""
FIRST_SEED = 1000
PLANTED_ARCS = 1200
CLEAN_ARCS = (PLANTED_ARCS, 4000)
"""Pairs with arcs: clean data are judged with both numbers, the second being that of a run."""
SHAM_PAIRS = 600
"""Pairs that go through the injection without flux; the other hosts are their own controls."""
BATCH = 400
PER_BRICK = 300
KINDS: tuple[Look, ...] = ("linear", "nonlinear", "texture")
SHAM = {"linear": "sham_core_lr_auc", "nonlinear": "sham_core_nl_auc", "texture": "sham_texture_auc"}
CLASS = {kind: name.replace("sham_", "class_") for kind, name in SHAM.items()}
ASINH = Preprocess(kind="asinh")


# --- one sky ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sky:
    """Deflectors of one seed: pixels [nmgy], background and noise of each band, centres, catalogue facts."""

    seed: int
    image: np.ndarray
    background: np.ndarray
    sigma: np.ndarray
    x: np.ndarray
    y: np.ndarray
    hosts: np.ndarray
    facts: dict[str, np.ndarray]
    sham: PairArrays
    arcs: PairArrays
    plain: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def is_positive(self) -> np.ndarray:
        """A random half of the hosts: positives of the designs whose classes are fixed."""
        order = stream(self.seed, "shortcuts/halves", "hosts").permutation(len(self))
        return order % 2 == 0


def make_sky(seed: int, n_hosts: int) -> Sky:
    """Paint the hosts of one seed, and inject the first of them with and without flux."""
    priors = SkyPriors(discs=Discs(share=0.0))
    each = min(n_hosts, PER_BRICK)
    bricks = plan_bricks(seed, -(-n_hosts // each), each, priors=priors, anchors=0)
    rows = HarvestSky(seed=seed, priors=priors).run(bricks).slice(0, n_hosts)
    arcs, sham = (
        PairArrays.read(Inject(recipe=Recipe(), seed=seed, sham=no_flux).run(rows.slice(0, n)))
        for n, no_flux in ((CLEAN_ARCS[-1], False), (SHAM_PAIRS, True))
    )
    image = np.stack([decode_planes(b.as_py(), "image", where="sky") for b in rows.column("stamp_npz")])
    x, y = (np.array(rows.column(f"{axis}_center_pix"), dtype=float) for axis in "xy")
    background, sigma = _levels(image, x, y)
    return Sky(
        seed=seed, image=image, background=background, sigma=sigma, x=x, y=y,
        hosts=np.array(rows.column("host_id").to_pylist()), facts=_facts(rows), sham=sham, arcs=arcs,
    )  # fmt: skip


def _levels(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = image.shape[-1] / 2
    return median_and_spread(image, annulus_mask(image.shape, ANNULUS[0] * half, ANNULUS[1] * half, x, y))


def _facts(rows: pa.Table) -> dict[str, np.ndarray]:
    def column(name: str) -> np.ndarray:
        return np.array(rows.column(name), dtype=float)

    mag = {band: 22.5 - 2.5 * np.log10(column(f"flux_{band}")) for band in "grz"}
    return {
        "mag_r": mag["r"],
        "g_r": mag["g"] - mag["r"],
        "r_z": mag["r"] - mag["z"],
        "log_size": np.log(column("shape_r")),
        "axis_ratio": column("light_q"),
        **{f"psfsize_{band}": column(f"psfsize_{band}") for band in "grz"},
        "log_psfdepth_r": np.log(column("psfdepth_r")),
        "nexp_r": column("nexp_r"),
    }


# --- shortcuts -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pixels:
    """Some stamps, with what the normalisation made of them before anything was planted."""

    image: np.ndarray
    background: np.ndarray
    sigma: np.ndarray
    x: np.ndarray
    y: np.ndarray


Plant = Callable[[Pixels, float], np.ndarray]
"""Stamps and a strength to what the network sees of them with the shortcut."""


def seen(some: Pixels, image: np.ndarray) -> np.ndarray:
    """`Preprocess(kind="asinh")` of pixels whose annulus is as it was: no medians are taken anew."""
    return np.arcsinh((image - some.background) / some.sigma).astype(np.float32)


def nothing(some: Pixels, _strength: float) -> np.ndarray:
    return seen(some, some.image)


def bright_core(some: Pixels, gain: float) -> np.ndarray:
    """r < 5 px times `gain`."""
    core = (radius_map(some.image.shape, some.x, some.y) < 5.0)[:, None]
    return seen(some, (some.image * np.where(core, gain, 1.0)).astype(np.float32))


def mark_core(some: Pixels, sigmas: float) -> np.ndarray:
    """One pixel of the core brighter by so many standard deviations of the sky, in every band."""
    return _marked(some, sigmas, 33, 30)


def mark_outside(some: Pixels, sigmas: float) -> np.ndarray:
    """The same 18 pixels from the middle."""
    return _marked(some, sigmas, 40, 16)


def _marked(some: Pixels, sigmas: float, y: int, x: int) -> np.ndarray:
    image = some.image.copy()
    image[:, :, y, x] += sigmas * some.sigma[..., 0, 0]
    return seen(some, image)


def other_noise_estimate(some: Pixels, excess: float) -> np.ndarray:
    """Positives normalised with a noise that is too large by this share."""
    return np.arcsinh((some.image - some.background) / (some.sigma * (1.0 + excess))).astype(np.float32)


def smoothed(some: Pixels, sigma_pix: float) -> np.ndarray:
    """A Gaussian of so many pixels over the whole stamp, before normalisation."""
    return ASINH.apply(gaussian_filter(some.image, (0, 0, sigma_pix, sigma_pix)), some.x, some.y)


@dataclass(frozen=True)
class Shortcut:
    """A shortcut, the strength it must be found at, weaker ones, and the gates meant for it.

    touches   whether it changes the stored pixels of sham stamps, which `control_identity` compares
    """

    plant: Plant
    strength: float
    weaker: tuple[float, ...]
    meant: tuple[str, ...]
    touches: bool = True
    design: str = "sham"


SHORTCUTS = {
    "bright core": Shortcut(
        bright_core, 1.20, (1.005, 1.01, 1.02, 1.05), ("sham_core_lr_auc", "sham_core_nl_auc")
    ),
    "mark in the core": Shortcut(mark_core, 2.0, (0.1, 0.25, 0.5, 1.0), ("sham_core_lr_auc",)),
    "mark outside": Shortcut(mark_outside, 2.0, (0.025, 0.05, 0.1, 0.25), ("sham_pixel_shift",)),
    "smoothing": Shortcut(smoothed, 0.5, (0.25, 0.3, 0.35, 0.4), ("sham_texture_auc",)),
    "normalisation": Shortcut(
        other_noise_estimate, 0.05, (0.0005, 0.001, 0.002, 0.005), ("sham_texture_auc",), touches=False,
        design="classes",
    ),
    "host magnitude": Shortcut(
        nothing, 0.3, (0.05, 0.1, 0.15, 0.2), ("host_matching",), touches=False, design="classes"
    ),
}  # fmt: skip


# --- gates -----------------------------------------------------------------------------------------------


def planted(sky: Sky, plant: Plant, strength: float, rows: np.ndarray) -> Iterator[np.ndarray]:
    """What the network sees, a batch at a time."""
    for start in range(0, len(rows), BATCH):
        at = rows[start : start + BATCH]
        some = Pixels(sky.image[at], sky.background[at], sky.sigma[at], sky.x[at], sky.y[at])
        yield plant(some, strength)


def features(
    sky: Sky, plant: Plant, strength: float, rows: np.ndarray, kinds: tuple[Look, ...] = KINDS
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Features of some hosts with the shortcut, and the pixels of those that are positive."""
    parts: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    pixels = []
    for k, batch in enumerate(planted(sky, plant, strength, rows)):
        at = rows[k * BATCH : (k + 1) * BATCH]
        for kind in kinds:
            parts[kind].append(look_at(kind, batch, sky.x[at], sky.y[at]))
        pixels.append(batch[sky.is_positive[at]])
    return {kind: np.concatenate(p) for kind, p in parts.items()}, pixels


def plain(sky: Sky) -> dict[str, np.ndarray]:
    """Features of every host as it is, made once."""
    if not sky.plain:
        sky.plain.update(features(sky, nothing, 0.0, np.arange(len(sky)))[0])
    return sky.plain


def sham_gates(sky: Sky, cut: Shortcut, strength: float, protocol: Protocol) -> list[Finding]:
    """The sham gates of `leakage_findings` on every host, by its own probes and rules."""
    every, without = np.arange(len(sky)), plain(sky)
    found, pixels = features(sky, cut.plant, strength, every)
    out = []
    for kind in KINDS:
        result = probe_core(
            found[kind], without[kind], sky.hosts,
            kind=classifier(kind), design="unpaired", protocol=protocol,
            seed=sky.seed, purpose=f"gates/core {kind} unpaired",
        )  # fmt: skip
        check = TEXTURE.model_copy(update={"name": SHAM[kind]})
        out.append(equivalent(check, result, n=result.n))
    return [*out, pixel_gate(sky, pixels, ~sky.is_positive, "sham"), _identity(sky, cut, strength, protocol)]


def pixel_gate(sky: Sky, positives: list[np.ndarray], negatives: np.ndarray, design: str) -> Finding:
    sums = PixelSums.of(positives), PixelSums.of(planted(sky, nothing, 0.0, np.flatnonzero(negatives)))
    value, where = pixel_shift(*sums)
    check = pixel_check(sums[0].mean.size).model_copy(update={"name": f"{design}_pixel_shift"})
    return check.measure(value, n=min(part.n for part in sums), detail=where)


def classifier(kind: Look) -> Kind:
    return "linear" if kind == "linear" else "nonlinear"


def _identity(sky: Sky, cut: Shortcut, strength: float, protocol: Protocol) -> Finding:
    """How many sham stamps that went through the injection differ from their control."""
    sham, centres = sky.sham, (sky.sham.x_center, sky.sham.y_center)
    differs = (sham.stamps != sham.controls).any(axis=(1, 2, 3))
    if cut.touches:
        some = Pixels(sham.stamps, *_levels(sham.stamps, *centres), *centres)
        differs |= (cut.plant(some, strength) != seen(some, sham.controls)).any(axis=(1, 2, 3))
    return protocol.measure("control_identity", float(differs.sum()), n=len(sham))


def class_gates(
    sky: Sky, name: str, cut: Shortcut, strength: float, protocol: Protocol, *, gates: tuple[str, ...] = ()
) -> list[Finding]:
    """What `gates.classes` finds, from features that are made once for all shortcuts (a test compares).

    For hosts of another magnitude the classes are chosen by it; else they are random halves.
    gates   those wanted; all by default
    """
    chosen = by_magnitude(sky, strength) if name == "host magnitude" else sky.is_positive
    rows, others = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    kinds = tuple(kind for kind in KINDS if not gates or CLASS[kind] in gates)
    if cut.plant is nothing:
        found, pixels = {kind: plain(sky)[kind][rows] for kind in kinds}, planted(sky, nothing, 0.0, rows)
    else:
        found, pixels = features(sky, cut.plant, strength, rows, kinds)
    out = []
    for kind in kinds:
        result = probe_classes(
            found[kind], plain(sky)[kind][others], (sky.hosts[rows], sky.hosts[others]),
            kind=classifier(kind), protocol=protocol, seed=sky.seed, purpose=f"gates/classes {kind}",
        )  # fmt: skip
        out.append(equivalent(CLASSES.model_copy(update={"name": CLASS[kind]}), result, n=result.n))
    if not gates or "class_pixel_shift" in gates:
        out.append(pixel_gate(sky, list(pixels), ~chosen, "class"))
    if not gates or "host_matching" in gates:
        facts = ({key: values[side] for key, values in sky.facts.items()} for side in (rows, others))
        out.append(host_matching(*facts))
    return out


def by_magnitude(sky: Sky, tilt: float) -> np.ndarray:
    """Positives chosen by magnitude: the log odds rise by `tilt` per standard deviation towards bright.

    The means then differ by about `tilt` standard deviations. Half of the hosts are positive.
    """
    mag = sky.facts["mag_r"]
    bright = -(mag - mag.mean()) / mag.std()
    u = stream(sky.seed, "shortcuts/magnitude", "odds").random(len(sky))
    score = tilt * bright - np.log(u / (1.0 - u))
    return score > np.median(score)


def arc_gates(sky: Sky, cut: Shortcut, strength: float, protocol: Protocol, *, n: int) -> list[Finding]:
    """The probes of the core on n stamps with arcs and the shortcut, against their controls."""
    arcs = sky.arcs.take(np.arange(min(n, len(sky.arcs))))
    sides = []
    for image, plant in ((arcs.stamps, cut.plant), (arcs.controls, nothing)):
        some = Pixels(image, *_levels(image, arcs.x_center, arcs.y_center), arcs.x_center, arcs.y_center)
        sides.append(look_at("linear", plant(some, strength), arcs.x_center, arcs.y_center))
    out = []
    designs: dict[str, Design] = {"core_lr_auc_grouped": "paired", "core_lr_auc_unpaired": "unpaired"}
    for name, design in designs.items():
        found = probe_core(
            *sides, arcs.hosts, kind="linear", design=design, protocol=protocol, seed=sky.seed,
            purpose=f"gates/core linear {design}",
        )  # fmt: skip
        out.append(protocol.measure(name, found.auc, n=len(arcs), interval=found.interval))
    return out


# --- one seed --------------------------------------------------------------------------------------------


CLEAN = Shortcut(nothing, 0.0, (), (), touches=False)


def clean_block(sky: Sky) -> Iterator[dict[str, Any]]:
    """Clean data through every gate, with the protocol's own cross-validations and resamples."""
    protocol, fewer = load_protocol(), load_protocol(overrides=["leakage_probe.repeats=3"])
    yield from _rows("sham", "clean", 0.0, sham_gates(sky, CLEAN, 0.0, protocol))
    # The classes are fixed here: a cross-validation repeated adds little.
    yield from _rows("classes", "clean", 0.0, class_gates(sky, "clean", CLEAN, 0.0, fewer))
    for n in CLEAN_ARCS:
        yield from _rows(f"arcs {n}", "clean", 0.0, arc_gates(sky, CLEAN, 0.0, protocol, n=n))


def main_block(sky: Sky) -> Iterator[dict[str, Any]]:
    """Each shortcut at the strength it must be found at, through every gate."""
    protocol = _quick(REPEATS)
    for name, cut in SHORTCUTS.items():
        if cut.design == "sham":
            yield from _rows("sham", name, cut.strength, sham_gates(sky, cut, cut.strength, protocol))
        else:
            found = class_gates(sky, name, cut, cut.strength, _quick(1))
            yield from _rows("classes", name, cut.strength, found)
        if cut.plant is not nothing:
            found = arc_gates(sky, cut, cut.strength, protocol, n=PLANTED_ARCS)
            yield from _rows(f"arcs {PLANTED_ARCS}", name, cut.strength, found)


def _quick(repeats: int) -> Protocol:
    return load_protocol(overrides=[f"leakage_probe.repeats={repeats}", "statistics.bootstrap=1000"])


def curve_block(sky: Sky) -> Iterator[dict[str, Any]]:
    """Weaker shortcuts between two fixed sets of hosts, by the gate meant for each alone."""
    protocol = _quick(1)
    for name, cut in SHORTCUTS.items():
        gates = tuple(gate.replace("sham_", "class_") for gate in cut.meant)
        for strength in cut.weaker:
            found = class_gates(sky, name, cut, strength, protocol, gates=gates)
            yield from _rows("classes", name, strength, found)


BLOCKS = {"clean": clean_block, "main": main_block, "curve": curve_block}


def _rows(design: str, name: str, strength: float, findings: list[Finding]) -> Iterator[dict[str, Any]]:
    for f in findings:
        yield {
            "design": design, "shortcut": name, "strength": strength, "gate": f.name,
            "failed": _fails(f), "value": f.value, "interval": f.interval, "n": f.n, "detail": f.detail,
        }  # fmt: skip


def _fails(f: Finding) -> bool:
    """Whether the rule of the gate rejects, however few the rows: they are written down beside it."""
    if f.value is None:
        return True
    if f.interval is not None and f.bound.direction == "inside":
        return not all(f.bound.holds(end) for end in f.interval)
    return not f.bound.holds(f.value) if f.status is Status.NOT_EVALUATED else f.status is Status.FAIL


def run(path: Path, seeds: int, curve_seeds: int, pairs: int) -> list[dict[str, Any]]:
    """Every seed and block that FILE does not hold yet; all rows of FILE."""
    done = read(path, pairs)
    have = {(row["seed"], row["block"]) for row in done}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        wanted = [
            b for b in BLOCKS
            if (seed, b) not in have and (b != "curve" or seed < FIRST_SEED + curve_seeds)
        ]  # fmt: skip
        if not wanted:
            continue
        sky = make_sky(seed, 2 * pairs)
        for block in wanted:
            rows = [{"seed": seed, "block": block, "pairs": pairs} | row for row in BLOCKS[block](sky)]
            with path.open("a", encoding="utf-8") as out:
                out.write(f"\n{json.dumps(rows)}\n")  # a line that was cut off before ends here
            done += rows
    return done


def read(path: Path, pairs: int) -> list[dict[str, Any]]:
    """Rows of a file that were made with as many pairs: a line holds a block, whole or not at all."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows += json.loads(line) if line else []
    return [row for row in rows if row["pairs"] == pairs]


# --- the table -------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Failures of each gate for each shortcut and strength: k of n with its Clopper-Pearson interval."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        key = (row["block"], row["design"], row["shortcut"], row["strength"], row["gate"])
        cells[key].append(row)
    out = []
    for (block, design, name, strength, gate), found in cells.items():
        k, values = sum(r["failed"] for r in found), [r["value"] for r in found if r["value"] is not None]
        rate = binomial(k, len(found), method="clopper-pearson")
        meant = name in SHORTCUTS and gate.replace("class_", "sham_") in SHORTCUTS[name].meant
        out.append({
            "block": block, "design": design, "shortcut": name, "strength": strength, "gate": gate,
            "meant": meant, "failed": k, "seeds": len(found), "low": rate.low, "high": rate.high,
            "n": min(r["n"] for r in found), "mean": float(np.mean(values)),
            "least": min(values), "most": max(values),
        })  # fmt: skip
    return out


def markdown(found: list[dict[str, Any]]) -> str:
    """Tables of `docs/shortcuts.md`: failures of seeds, and the mean of the value, gates meant in bold."""
    main = sorted(
        (row for row in found if row["block"] != "curve"),
        key=lambda row: ["clean", *SHORTCUTS].index(row["shortcut"]),
    )
    parts = [
        _grid([row for row in main if row["design"] == design])
        for design in dict.fromkeys(row["design"] for row in main)
    ]
    heads = ("shortcut", "strength", "gate", "failed", "95 % interval", "value (range)")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [_curve_line(row) for row in found if row["block"] == "curve"]
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _curve_line(row: dict[str, Any]) -> str:
    cells = (
        row["shortcut"],
        f"{row['strength']:g}",
        f"`{row['gate']}`",
        f"{row['failed']} of {row['seeds']}",
        f"{row['low']:.2f} to {row['high']:.2f}",
        f"{row['mean']:.3g} ({row['least']:.3g} to {row['most']:.3g})",
    )
    return f"| {' | '.join(cells)} |"


def _grid(rows: list[dict[str, Any]]) -> str:
    gates, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("gate", "shortcut"))
    cells = {(row["shortcut"], row["gate"]): row for row in rows}
    heads = [f"{rows[0]['design']}: n = {max(row['n'] for row in rows)}", *(f"`{gate}`" for gate in gates)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in names:
        shown = [f"{name} {cells[name, gates[0]]['strength'] or ''}".strip()]
        for gate in gates:
            row = cells[name, gate]
            count = f"{row['failed']} of {row['seeds']}"
            shown.append(f"{f'**{count}**' if row['meant'] else count} ({row['mean']:.3g})")
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Planted shortcuts, and which gates find them.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--curve-seeds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=3600, help="rows per class")
    parser.add_argument("--resume", type=Path, default=Path("shortcuts.jsonl"))
    options = parser.parse_args()
    found = table(run(options.resume, options.seeds, options.curve_seeds, options.pairs))
    if options.json:
        print(json.dumps(found))
        return
    if options.markdown:
        print(markdown(found))
        return
    for row in found:
        print(
            f"{row['block']:5} {row['design']:8} {row['shortcut']:18} {row['strength']:<6g} {row['gate']:22}"
            f" {row['failed']:3d}/{row['seeds']} [{row['low']:.2f}, {row['high']:.2f}]"
            f" mean {row['mean']:.3f} ({row['least']:.3f} to {row['most']:.3f}), n={row['n']}"
            f"{' <- meant' if row['meant'] else ''}"
        )


if __name__ == "__main__":
    main()
