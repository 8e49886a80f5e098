"""The gallery of planted faults: what is wrong, where it is planted, and the finding that must raise it.

The docs page is made of this table, and `test_gallery.py` plants every entry.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml
from scipy.ndimage import gaussian_filter
from tests.dataset.test_catalog_checks import ANCHOR_FAULTS, CONTAMINANT_FAULTS
from tests.dataset.test_pair_checks import FAULTS, OVERALL_FAULTS
from tests.review.code_cases import CASES

from darkhaloscope.contracts.config import find_config
from darkhaloscope.contracts.store import open_dataset
from darkhaloscope.injection.inject import Inject
from darkhaloscope.pipeline.experiment import load_experiment
from darkhaloscope.review.advice import advice_for
from darkhaloscope.review.code import check_code
from darkhaloscope.stamps.stamp import decode_planes, encode_planes

PLACES = {
    "pairs": "one pair among many",
    "all pairs": "every pair alike",
    "splits": "the splits",
    "run": "a run's folder",
    "protocol": "the protocol file",
    "anchors": "the anchor catalogue",
    "anchor stamps": "the stamps of anchors",
    "contaminants": "the look-alike catalogue",
    "code": "a job script",
}


@dataclass(frozen=True)
class Fault:
    """One planted fault. `plant` is what the harness of its place needs."""

    what: str
    place: str
    finding: str
    plant: Any = field(repr=False)

    @property
    def id(self):
        return f"{self.place}: {self.what}"


# --- splits: (split rows, pair rows) changed in place


def used(rows, split):
    return [row for row in rows if row["split"] == split and row["reject"] is None]


def host_twice(splits, pairs):
    used(splits, "train")[0]["host_id"] = used(splits, "test")[0]["host_id"]


def cell_twice(splits, pairs):
    used(splits, "train")[0]["group"] = used(splits, "test")[0]["group"]


def target_twice(splits, pairs):
    used(splits, "train")[0]["target_id"] = used(splits, "test")[0]["target_id"]


def pair_rows(splits, pairs):
    by_name = {row["task_id"]: row for row in pairs}
    return by_name[used(splits, "train")[0]["row_id"]], by_name[used(splits, "test")[0]["row_id"]]


def brick_twice(splits, pairs):
    one, other = pair_rows(splits, pairs)
    one["brickname"] = other["brickname"]


def source_twice(splits, pairs):
    one, other = pair_rows(splits, pairs)
    one["source_id"] = other["source_id"] = "hst:7"


def image_twice(splits, pairs):
    one, other = pair_rows(splits, pairs)
    one.update({name: other[name] for name in ("stamp_npz", "ctrl_stamp_npz", "arc_npz", "invvar_npz")})


def image_again_with_noise(splits, pairs):
    one, other = pair_rows(splits, pairs)
    image = decode_planes(other["ctrl_stamp_npz"], where="plant")
    noisy = 1.01 * image + np.random.default_rng(4).normal(0, 5e-4, image.shape)
    one.update({name: other[name] for name in ("stamp_npz", "arc_npz", "invvar_npz")})
    one["ctrl_stamp_npz"] = encode_planes("image", noisy.astype("f4"))


def guard_ignored(splits, pairs):
    for row in splits:
        if row["reject"] == "guard_band":
            row["reject"] = None


def row_lost(splits, pairs):
    splits.pop(0)


def row_doubled(splits, pairs):
    splits.append(dict(splits[0]))


def inverted(splits, pairs):
    turn = {"train": "test", "test": "train"}
    for row in splits:
        row["split"] = turn.get(row["split"], row["split"])


def test_lost(splits, pairs):
    for row in splits:
        row["split"] = "train" if row["split"] == "test" else row["split"]


SPLITS = (
    Fault("one galaxy under two targets, in train and test", "splits", "split_host_overlap", host_twice),
    Fault("a sky cell in train and test", "splits", "split_group_overlap", cell_twice),
    Fault("a target in train and test", "splits", "split_target_overlap", target_twice),
    Fault("a brick in train and test", "splits", "split_brick_overlap", brick_twice),
    Fault("a source galaxy lensed in train and test", "splits", "split_source_overlap", source_twice),
    Fault("one image under two names", "splits", "split_near_duplicates", image_twice),
    Fault(
        "the same image with fresh noise and another scale",
        "splits",
        "split_near_duplicates",
        image_again_with_noise,
    ),
    Fault("a guard band that is not kept", "splits", "split_guard_band", guard_ignored),
    Fault("a row without a split", "splits", "split_complete", row_lost),
    Fault("a row with two splits", "splits", "split_complete", row_doubled),
    Fault("train and test fractions swapped", "splits", "split_fractions", inverted),
    Fault("no test split", "splits", "split_test_filled", test_lost),
)

# --- runs: called with the folder and `rewrite(name, change)`, which writes a dataset anew as its job would


def convolved(cube):
    """An arc through its PSF a second time (a Gaussian of 1.2 arcsec stands for it)."""
    return np.stack([gaussian_filter(plane, 1.95) for plane in cube]).astype("f4")


def double_psf(run, rewrite):
    def change(rows):
        for row in rows:
            if row["reject"] is None:
                arc = decode_planes(row["arc_npz"], "arc", where="plant")
                soft = convolved(arc)
                row["arc_npz"] = encode_planes("arc", soft)
                stamp = decode_planes(row["stamp_npz"], where="plant")
                row["stamp_npz"] = encode_planes("image", stamp - arc + soft)

    rewrite("pairs-sky", change)


def salted_seed(run, rewrite):
    """Arcs of another run's stream, as a seed from hash() gives with every start of the interpreter."""

    def change(rows):
        experiment = load_experiment(run / "config.yaml")
        sky = open_dataset(run / "sky").read()
        draws = experiment.draws_per_host
        again = Inject(recipe=experiment.recipe, seed=987654, draws_per_host=draws).run(sky).to_pylist()
        by_name = {row["task_id"]: row for row in again}
        for row in rows:
            row.update(by_name[row["task_id"]])

    rewrite("pairs-sky", change)


def another_prior(run, rewrite):
    rewrite("pairs-sky", lambda rows: rows[0].update(recipe_hash="0" * 16))


def edited_by_hand(run, rewrite):
    rewrite("pairs-sky", lambda rows: [row.update(theta_e_arcsec=1.0) for row in rows])


def flipped_byte(run, rewrite):
    shard = next((run / "sky" / "shards").glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def half_written(run, rewrite):
    (run / "pairs-sky" / "manifest.json").rename(run / "pairs-sky" / "gone")
    copy = run / "another"
    copy.mkdir()
    (copy / "job.json").write_text("{}")
    (run / "pairs-sky" / "gone").rename(run / "pairs-sky" / "manifest.json")


def other_input(run, rewrite):
    rewrite("sky", lambda rows: rows[0].update(name="renamed"))


def protocol_moved(run, rewrite):
    path = run / "protocol.json"
    path.write_text(path.read_text().replace('"bins": 15', '"bins": 20'))


RUNS = (
    Fault("arcs convolved with the PSF twice", "run", "pair_reproduces", double_psf),
    Fault("a seed from hash(), salted anew in every process", "run", "pair_reproduces", salted_seed),
    Fault("a truth column edited by hand", "run", "pair_reproduces", edited_by_hand),
    Fault("pairs made with another prior than the run declares", "run", "provenance_recipe", another_prior),
    Fault("a byte flipped after the commit", "run", "provenance_shards", flipped_byte),
    Fault("a dataset without its manifest", "run", "provenance_finished", half_written),
    Fault("an input made anew under what was made from it", "run", "provenance_inputs", other_input),
    Fault(
        "a protocol that changed while the run was under way", "run", "provenance_protocol", protocol_moved
    ),
)

# --- protocols: the YAML's content changed in place


def setting(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data):
        *parents, last = key.split(".")
        for parent in parents:
            data = data[parent]
        if value is None:
            del data[last]
        else:
            data[last] = value

    return change


PROTOCOLS = tuple(
    Fault(what, "protocol", finding, setting(key, value))
    for what, finding, key, value in (
        ("core_lr_auc must be large", "protocol_directions", "gates.v1.core_lr_auc.direction", "above"),
        ("hardneg_auroc must be small", "protocol_directions", "gates.v1.hardneg_auroc.direction", "below"),
        ("a gate left out", "protocol_complete", "gates.v2.control_identity", None),
        ("no bins of seeing", "protocol_complete", "strata.psf_fwhm_arcsec", None),
        ("a loosened bound", "protocol_bounds", "gates.v1.core_lr_auc.bound", 0.75),
        ("a brief's gate made to decide", "protocol_bounds", "gates.v1.auroc_synth.decides", True),
        ("a gate decided on too few rows", "protocol_bounds", "gates.v2.sham_core_lr_auc.needs_n", 100),
        ("100 bootstraps", "protocol_bounds", "statistics.bootstrap_min", 100),
        ("changed after its lock", "protocol_locked", "core_swap.fpr_fallback", 0.02),
    )
)

STAMPS = (
    Fault("anchors on blank sky", "anchor stamps", "anchors_blank_sky", lambda galaxy: 0.0 * galaxy),
    Fault(
        "anchors four arcsec beside their lens",
        "anchor stamps",
        "anchors_blank_sky",
        lambda galaxy: np.roll(galaxy, 15, axis=(0, 1)),
    ),
)

CODE = tuple(
    Fault(f"{case.rule} ({number})" if number > 1 else case.rule, "code", case.rule, case)
    for number, case in (
        (sum(c.rule == case.rule for c in CASES[: k + 1]), case) for k, case in enumerate(CASES)
    )
)

GALLERY: tuple[Fault, ...] = (
    *(Fault(what, "pairs", finding, change) for what, (change, finding) in FAULTS.items()),
    *(Fault(what, "all pairs", finding, changes) for what, (changes, finding) in OVERALL_FAULTS.items()),
    *SPLITS,
    *RUNS,
    *PROTOCOLS,
    *(Fault(what, "anchors", finding, change) for what, (change, finding) in ANCHOR_FAULTS.items()),
    *(Fault(what, "contaminants", finding, change) for what, (change, finding) in CONTAMINANT_FAULTS.items()),
    *STAMPS,
    *CODE,
)


def severity_of(fault, folder):
    """The severity that the fault is reported with; a code rule says it itself."""
    if fault.place != "code":
        return advice_for(fault.finding).severity
    script = folder / "script.py"
    script.write_text(fault.plant.faulty)
    return next(issue.severity for issue in check_code(script) if issue.rule == fault.finding)


def gallery_page(folder):
    """The docs page."""
    lines = [
        "# Fault gallery",
        "",
        "Faults that a test plants one by one into data, catalogues, protocols, runs and scripts that are",
        "sound without them. Each must be found by the finding named here, with this severity; the sound",
        "set raises none.",
        "Generated from `tests/review/gallery.py`; a test fails when it is stale.",
        "",
        f"{len(GALLERY)} faults.",
    ]
    for place, where in PLACES.items():
        lines += ["", f"## In {where}", "", "| fault | found by | severity |", "|---|---|---|"]
        for fault in GALLERY:
            if fault.place == place:
                what = fault.what if place != "code" else f"{title_of(fault, folder)}"
                lines.append(f"| {what} | `{fault.finding}` | {severity_of(fault, folder)} |")
    return "\n".join(lines) + "\n"


def title_of(fault, folder):
    script = folder / "script.py"
    script.write_text(fault.plant.faulty)
    return next(issue.title for issue in check_code(script) if issue.rule == fault.finding)


def changed_protocol(folder, change):
    """A protocol file with one fault, and a lock as it was before."""
    shipped = find_config("evaluation_protocol.yaml")
    data = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    change(data)
    path = folder / "evaluation_protocol.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    lock = shipped.with_suffix(".lock.json")
    (folder / lock.name).write_bytes(lock.read_bytes())
    return path


__all__ = ["GALLERY", "PLACES", "Fault", "changed_protocol", "gallery_page"]
