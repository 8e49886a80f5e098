"""Each planted fault is found by the finding meant for it, and clean data raise none."""

import re

import numpy as np
import pyarrow as pa
import pytest

from darkhaloscope.contracts.checks import Status
from darkhaloscope.contracts.config import find_config
from darkhaloscope.contracts.errors import SchemaMismatch
from darkhaloscope.contracts.protocol import check_protocol, load_protocol
from darkhaloscope.contracts.store import local_writer, write_rows
from darkhaloscope.contracts.tables import PAIRED_STAMPS, SPLITS, SPLITS_NAMES
from darkhaloscope.dataset.pair_checks import (
    OF_ARCS,
    OVER_ALL,
    PAIR_CHECKS,
    VerifyPairs,
    check_pairs,
    pair_findings,
)
from darkhaloscope.dataset.signatures import SAME_BITS, near_duplicates, signatures
from darkhaloscope.dataset.split_checks import SPLIT_CHECKS, check_splits
from darkhaloscope.dataset.splits import (
    AssignSplits,
    Fractions,
    SplitConfig,
    group_counts,
    guard_band,
    plan_splits,
)
from darkhaloscope.injection.inject import Inject
from darkhaloscope.injection.nuisance import Nuisances
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.stamps.stamp import decode_planes, encode_planes
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.release import PIXEL_SCALE_ARCSEC, neighbouring_cells
from darkhaloscope.survey.sky import plan_bricks

SEED = 7
BRICKS = 8
PIXELS = ("stamp_npz", "ctrl_stamp_npz", "arc_npz", "invvar_npz")
PREFIX = {"stamp_npz": "image", "ctrl_stamp_npz": "image", "arc_npz": "arc", "invvar_npz": "invvar"}


@pytest.fixture(scope="module")
def stamps():
    """Some forty deflectors and a few discs in eight sky cells."""
    bricks = plan_bricks(SEED, BRICKS, 8, priors=SkyPriors(), anchors=0)
    return HarvestSky(seed=SEED).run(bricks)


@pytest.fixture(scope="module")
def pairs(stamps):
    return Inject(recipe=Recipe(), seed=SEED).run(stamps)


@pytest.fixture(scope="module")
def sham(stamps):
    return Inject(recipe=Recipe(), seed=SEED, sham=True).run(stamps)


@pytest.fixture(scope="module")
def splits(pairs):
    counts = group_counts(pairs)
    assert len(counts) >= BRICKS
    plan = plan_splits([counts], SplitConfig(fractions=SHARES, block_nside=64))
    return AssignSplits(plan=plan, guard=guard_band(plan), snr_floor_mf=0.0).run(pairs)


@pytest.fixture
def committed(tmp_path):
    """Write rows as a dataset; each call a folder of its own."""
    made = []

    def write(rows, table=PAIRED_STAMPS):
        made.append(rows)
        writer = local_writer(tmp_path / str(len(made)), table)
        return write_rows(writer, table.conform(rows), shard_rows=6, job={"job": "test"})

    return write


SHARES = Fractions(train=0.5, select=0.125, calib=0.125, test=0.25)


def brightest(pairs):
    """Index of the usable pair with the brightest arc."""
    return int(np.nanargmax([row["arc_snr"] or np.nan for row in pairs.to_pylist()]))


def planes(row, column):
    return decode_planes(row[column], PREFIX[column], where=row["task_id"]).copy()


def planted(pairs, change):
    """Rows with `change(row) -> columns` made to the pair with the brightest arc, and that pair's name."""
    rows = pairs.to_pylist()
    row = rows[brightest(pairs)]
    row.update(change(row))
    return rows, row["task_id"]


def with_planes(column, change):
    """A fault that changes the decoded planes of one blob."""
    return lambda row: {column: encode_planes(PREFIX[column], change(planes(row, column)))}


def nan_pixel(cube):
    cube[2, 10, 11] = np.nan
    return cube


def flat_band(cube, value=0.0):
    cube[0] = value
    return cube


def nearly_flat_band(cube):
    cube[0] = 1e-7 * np.random.default_rng(1).normal(size=cube.shape[1:])
    return cube


def moved(cube):
    return np.roll(cube, 3, axis=2)


def faint_watermark(cube):
    cube[1, 1, 2] += 1e-4  # a hundredth of the noise, in a corner: no residual shows it
    return cube


def dimmed(cube):
    cube[:, 20:44, 20:44] += 1e-12 * (cube[:, 20:44, 20:44] == 0)
    cube[:, 0, 0] = 1e-9
    return cube


def part_of_zeros(cube):
    cube[2, :9] = 0.0
    return cube


FOLLOWS = {
    "pair_residual",
    "pair_arc_snr",
    "pair_arc_snr_mf",
    "pair_arc_flux",
    "pair_control_identity",
    "pair_footprint",
    "pair_strata",
}
FAULTS = {
    "an artefact in one member": (with_planes("stamp_npz", faint_watermark), "pair_control_identity"),
    "an arc that runs on below the noise": (with_planes("arc_npz", dimmed), "pair_footprint"),
    "a core clipped at 5 sigma": (
        with_planes("ctrl_stamp_npz", lambda a: np.minimum(a, 0.05)),
        "pair_clipped",
    ),
    "rows of zeros": (with_planes("ctrl_stamp_npz", part_of_zeros), "pair_blank"),
    "an achromatic arc": (
        lambda row: {f"lensed_mag_{band}": row["lensed_mag_r"] for band in "grz"},
        "pair_arc_flux",
    ),
    "no seeing, so no stratum": (lambda _row: {"psf_fwhm_arcsec": 0.0}, "pair_strata"),
    "arc_snr_mf of another noise": (lambda row: {"arc_snr_mf": 1.12 * row["arc_snr_mf"]}, "pair_arc_snr_mf"),
    "a NaN in the stamp": (with_planes("stamp_npz", nan_pixel), "pair_finite"),
    "a NaN in the control": (with_planes("ctrl_stamp_npz", nan_pixel), "pair_finite"),
    "an infinite arc": (with_planes("arc_npz", lambda a: a + np.float32(np.inf)), "pair_finite"),
    "the control is the stamp": (lambda row: {"ctrl_stamp_npz": row["stamp_npz"]}, "pair_identical"),
    "the stamp is the control": (lambda row: {"stamp_npz": row["ctrl_stamp_npz"]}, "pair_identical"),
    "bands of the stamp swapped": (with_planes("stamp_npz", lambda a: a[::-1]), "pair_residual"),
    "bands of the arc swapped": (with_planes("arc_npz", lambda a: a[[1, 0, 2]]), "pair_residual"),
    "the arc elsewhere": (with_planes("arc_npz", moved), "pair_residual"),
    "the stamp in other units": (with_planes("stamp_npz", lambda a: 10 * a), "pair_residual"),
    "the arc in other units": (with_planes("arc_npz", lambda a: 10 * a), "pair_residual"),
    "counts for nanomaggies": (with_planes("stamp_npz", lambda a: 1e9 * a), "pair_range"),
    "another galaxy's control": (
        with_planes("ctrl_stamp_npz", lambda a: a[:, ::-1, ::-1]),
        "pair_control_identity",
    ),
    "a torn blob": (lambda row: {"stamp_npz": row["stamp_npz"][:-400]}, "pair_decodes"),
    "an empty blob": (lambda _row: {"invvar_npz": b""}, "pair_decodes"),
    "no blob and no reject code": (lambda _row: {"ctrl_stamp_npz": None}, "pair_decodes"),
    "arcs for a stamp": (lambda row: {"stamp_npz": row["arc_npz"]}, "pair_decodes"),
    "a stamp of another size": (with_planes("stamp_npz", lambda a: a[:, 2:-2, 2:-2]), "pair_shape"),
    "an arc of another size": (with_planes("arc_npz", lambda a: a[:, 1:]), "pair_shape"),
    "a band of zeros in the stamp": (with_planes("stamp_npz", flat_band), "pair_variance"),
    "a constant band in the control": (
        with_planes("ctrl_stamp_npz", lambda a: flat_band(a, 0.02)),
        "pair_variance",
    ),
    "an all but constant band": (with_planes("ctrl_stamp_npz", nearly_flat_band), "pair_variance"),
    "arc_snr of another definition": (lambda row: {"arc_snr": row["arc_snr_mf"]}, "pair_arc_snr"),
    "arc_snr two per cent off": (lambda row: {"arc_snr": 1.02 * row["arc_snr"]}, "pair_arc_snr"),
    "arc_snr left out": (lambda _row: {"arc_snr": None}, "pair_arc_snr"),
}


def test_clean_pairs_raise_nothing(pairs, committed):
    usable = sum(row["reject"] is None for row in pairs.to_pylist())
    assert usable >= 40
    findings = check_pairs(committed(pairs))
    assert findings.all_passed, [str(f) for f in findings if not f.passed]
    names = {"schema_paired_stamps", *PAIR_CHECKS, *OVER_ALL} - {"sham_identical"}
    assert {f.name for f in findings} == names
    assert findings.named("pair_finite").n == usable


def test_clean_shams_raise_nothing_and_are_identical(sham, committed):
    findings = check_pairs(committed(sham), sham=True)
    assert findings.all_passed
    assert not {f.name for f in findings} & set(OF_ARCS)
    identical = check_pairs(committed(sham)).named("pair_identical")
    assert identical.status is Status.FAIL
    assert identical.value == identical.n


def test_a_sham_that_is_not_identical_is_found(sham, committed):
    def watermark(cube):
        cube[1, 33, 30] += 2e-3  # less than the noise: no residual check can see it
        return cube

    rows = sham.to_pylist()
    row = next(r for r in rows if r["reject"] is None)
    row.update(with_planes("stamp_npz", watermark)(row))
    failed = check_pairs(committed(rows), sham=True).failed
    assert [f.name for f in failed] == ["sham_identical"]
    assert failed[0].examples == (row["task_id"],)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found_by_its_finding(pairs, committed, fault):
    change, name = FAULTS[fault]
    rows, task = planted(pairs, change)
    findings = check_pairs(committed(rows))
    found = findings.named(name)
    assert found.status is Status.FAIL, fault
    assert found.value == 1
    assert found.examples == (task,)
    assert task in str(found)
    # Nothing else fails but what the same change must break too.
    assert {f.name for f in findings.failed} <= {name, *FOLLOWS}


def shifted(band, pixels):
    """Shift one band of every image by some pixels, to a fraction of one."""

    def change(cube):
        grid = np.fft.fftfreq(cube.shape[-1])
        wave = np.exp(-2j * np.pi * grid * pixels)
        cube[band] = np.fft.ifft(np.fft.fft(cube[band], axis=1) * wave, axis=1).real
        return cube

    return change


def everywhere(pairs, *changes):
    """Rows with every change made to all of them that are used."""
    rows = pairs.to_pylist()
    for row in rows:
        if row["reject"] is None:
            for change in changes:
                row.update(change(row))
    return rows


ALL_IMAGES = ("stamp_npz", "ctrl_stamp_npz", "arc_npz")
OVERALL_FAULTS = {
    "every band swapped alike": (
        [with_planes(c, lambda a: a[::-1]) for c in (*ALL_IMAGES, "invvar_npz")],
        "pair_band_order",
    ),
    "g and r swapped alike": (
        [with_planes(c, lambda a: a[[1, 0, 2]]) for c in (*ALL_IMAGES, "invvar_npz")],
        "pair_band_order",
    ),
    "another zero-point (25)": ([with_planes(c, lambda a: 10 * a) for c in ALL_IMAGES], "pair_units"),
    "z shifted by a third of a pixel": (
        [with_planes(c, shifted(2, 0.33)) for c in ALL_IMAGES],
        "pair_registration",
    ),
    "centres half a pixel off": (
        [lambda row: {"x_center_pix": row["x_center_pix"] + 0.5, "y_center_pix": row["y_center_pix"] + 0.5}],
        "pair_centering",
    ),
}


@pytest.mark.parametrize("fault", OVERALL_FAULTS)
def test_what_every_row_suffers_alike_is_found_over_all_rows(pairs, committed, fault):
    changes, name = OVERALL_FAULTS[fault]
    findings = check_pairs(committed(everywhere(pairs, *changes)))
    assert findings.named(name).status is Status.FAIL, str(findings.named(name))


@pytest.mark.parametrize(
    ("scatter_pix", "shift_pix", "declared_pix", "passes"),
    [
        (0.08, 0.0, 0.08, True),  # a recipe that says by how much its bands wander
        (0.08, 0.0, 0.0, False),  # the same where nothing was said
        (0.08, 0.33, 0.08, False),  # what every row suffers alike is no wandering
        (0.25, 0.0, 0.08, False),  # three times what was said
    ],
)
def test_bands_may_wander_as_far_as_the_recipe_says(pairs, scatter_pix, shift_pix, declared_pix, passes):
    audit = VerifyPairs().run(pairs)
    audit = pa.concat_tables([audit] * 20)  # the scatter of the median itself is then small
    rng = np.random.default_rng(3)
    for name in (f"{axis}_offset_{band}" for axis in "xy" for band in "grz"):
        moved = rng.normal(0, np.hypot(scatter_pix, 0.02), audit.num_rows)
        moved += shift_pix * name.endswith("z")
        at = audit.column_names.index(name)
        audit = audit.set_column(at, audit.schema.field(name), pa.array(moved, audit.schema.field(name).type))
    found = pair_findings([audit], registration_pix=declared_pix).named("pair_registration")
    assert found.passed is passes, str(found)


def test_pairs_whose_imaging_is_varied_pass_every_check_of_the_pixels(stamps):
    recipe = Recipe(lineage="gen8", imaging=Nuisances())
    pairs = Inject(recipe=recipe, seed=SEED).run(stamps)
    shifted = recipe.imaging.registration_arcsec / PIXEL_SCALE_ARCSEC
    findings = pair_findings([VerifyPairs().run(pairs)], registration_pix=shifted)
    assert not findings.failed, [str(f) for f in findings.failed]


def test_bands_and_units_are_judged_by_colour_and_noise_where_there_is_no_catalogue(pairs, committed):
    nothing = dict.fromkeys((f"flux_{band}" for band in "grz"), None)
    clean = check_pairs(committed(everywhere(pairs, lambda _row: nothing)))
    assert clean.named("pair_band_order").passed
    assert clean.named("pair_units").passed
    assert "no catalogue" in clean.named("pair_units").detail
    swap = [with_planes(c, lambda a: a[::-1]) for c in ALL_IMAGES]
    swapped = check_pairs(committed(everywhere(pairs, lambda _row: nothing, *swap)))
    assert swapped.named("pair_band_order").status is Status.FAIL
    counts = with_planes("invvar_npz", lambda a: a / 1e4)
    other = check_pairs(committed(everywhere(pairs, lambda _row: nothing, counts)))
    assert other.named("pair_units").status is Status.FAIL


def test_the_audit_does_not_depend_on_where_a_batch_begins(pairs):
    job = VerifyPairs()
    whole = job.run(pairs)
    pieces = [job.run(pairs.slice(start, 5)) for start in range(0, pairs.num_rows, 5)]
    assert pa.concat_tables(pieces).equals(whole)


def test_few_pairs_judge_nothing_over_all(pairs, committed):
    findings = check_pairs(committed(pairs.slice(0, 9)))
    assert {f.name for f in findings.not_evaluated} >= {"pair_centering", "pair_registration"}
    assert not findings.failed


def images_of(pairs, column="ctrl_stamp_npz"):
    used = [row for row in pairs.to_pylist() if row["reject"] is None]
    cubes = [(planes(row, column)[1], planes(row, "invvar_npz")[1]) for row in used]
    return (np.array(part) for part in zip(*cubes, strict=True))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda image, _rng: image, True),
        (lambda image, _rng: image + 1e-4, True),
        (lambda image, _rng: 1.02 * image, True),
        (lambda image, rng: image + rng.normal(0, 0.001, image.shape), True),
        (lambda image, _rng: image[:, ::-1], False),
        (lambda image, _rng: np.roll(image, 8, axis=1), False),
    ],
)
def test_an_image_is_known_again_through_noise_and_scale_and_no_other_is(pairs, change, same):
    image, invvar = images_of(pairs)
    first = signatures(image, invvar)
    again = signatures(change(image, np.random.default_rng(3)).astype("f4"), invvar)
    n = len(image)
    a, b = (np.concatenate([one, other]) for one, other in zip(first, again, strict=True))
    found = {tuple(pair) for pair in near_duplicates(a, b, np.repeat([0, 1], n)).tolist()}
    wanted = {(k, n + k) for k in range(n)}
    assert found <= (wanted if same else set())
    assert not same or len(found) >= 0.95 * len(wanted)


def test_galaxies_with_a_star_at_the_same_place_are_not_one_image():
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:64, :64]
    star = (
        3.0 * (1 + ((x - 12) ** 2 + (y - 40) ** 2) / 16) ** -3
        + (1 + ((x - 32) ** 2 + (y - 32) ** 2) / 9) ** -2
    )
    image = (star + rng.normal(0, 0.01, (300, 64, 64))).astype("f4")
    first, second = signatures(image, np.full_like(image, 1e4))
    assert len(near_duplicates(first, second)) == 0


def test_near_duplicates_are_those_that_a_comparison_of_all_pairs_finds():
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2, (400, 128))
    for k in range(0, 100, 2):
        bits[k + 1] = bits[k]
        bits[k + 1, rng.choice(128, k // 4, replace=False)] ^= 1  # up to 24 bits apart
    words = np.packbits(bits.astype(np.uint8), axis=1).view(">i8").astype(np.int64)
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    true = {(int(a), int(b)) for a, b in np.argwhere(apart <= SAME_BITS) if a < b}
    found = {tuple(pair) for pair in near_duplicates(words[:, 0], words[:, 1]).tolist()}
    assert found <= true
    close = {(a, b) for a, b in true if apart[a, b] <= 7}
    assert len(close) >= 14
    assert close <= found
    assert len(found) >= 0.9 * len(true)


def test_every_row_is_looked_at_and_the_first_keys_are_named(pairs, committed):
    rows = pairs.to_pylist()
    usable = [row for row in rows if row["reject"] is None]
    for row in usable:
        row["ctrl_stamp_npz"] = row["stamp_npz"]
    found = check_pairs(committed(rows)).named("pair_identical")
    assert found.value == len(usable)
    assert found.examples == tuple(row["task_id"] for row in usable[:3])


def test_a_rejected_row_needs_no_pixels(pairs, committed):
    rows, _ = planted(pairs, lambda _row: dict.fromkeys(PIXELS, None) | {"reject": "host_masked"})
    assert check_pairs(committed(rows)).all_passed


def test_a_broken_promise_of_the_table_is_its_own_finding(pairs, committed):
    rows, task = planted(pairs, lambda _row: {"q": 1.5})
    (failed,) = check_pairs(committed(rows)).failed
    assert failed.name == "schema_paired_stamps"
    assert failed.examples == (task,)
    assert "'q'" in str(failed) or "q " in failed.detail


def test_no_pairs_at_all_is_never_a_pass(committed):
    findings = check_pairs(committed(PAIRED_STAMPS.schema.empty_table()))
    assert all(f.status is Status.NOT_EVALUATED and f.needs_n == 1 for f in findings if f.name in PAIR_CHECKS)
    assert not findings.all_passed


def test_another_table_is_refused(splits, committed):
    with pytest.raises(SchemaMismatch, match="holds splits, but paired_stamps is needed"):
        check_pairs(committed(splits, SPLITS))


def moved_row(splits, **wanted):
    """Splits with the first row of `wanted` put elsewhere, and that row."""
    rows = splits.to_pylist()
    row = next(r for r in rows if all(r[name] == value for name, value in wanted.items()))
    row["split"] = "test" if row["split"] != "test" else "train"
    return rows, row


def split_findings(committed, rows, pairs, fractions=None):
    audit = VerifyPairs().run(PAIRED_STAMPS.conform(pairs))
    return check_splits(
        [committed(rows, SPLITS)], data=[committed(pairs)], audits=[audit], fractions=fractions or SHARES
    )


def test_clean_splits_raise_nothing(splits, pairs, committed):
    findings = split_findings(committed, splits, pairs)
    assert findings.all_passed
    assert {f.name for f in findings} == set(SPLIT_CHECKS)


def test_a_host_in_two_splits_is_found(splits, pairs, committed):
    rows, row = moved_row(splits, split="train")
    twin = next(r for r in rows if r["split"] == "calib")
    row["host_id"] = twin["host_id"]  # one galaxy under two targets
    found = split_findings(committed, rows, pairs).named("split_host_overlap")
    assert found.status is Status.FAIL
    assert found.value == 1
    assert found.examples == (twin["host_id"],)


def test_a_group_in_two_splits_is_found_though_its_hosts_differ(splits, pairs, committed):
    rows, row = moved_row(splits, split="train")
    findings = split_findings(committed, rows, pairs)
    assert [f.name for f in findings.failed] == ["split_group_overlap"]
    assert findings.named("split_group_overlap").examples == (row["group"],)


def test_a_crossing_between_two_datasets_is_found(splits, pairs, committed):
    rows = [dict(row, row_id=row["target_id"]) for row in splits.to_pylist()]
    rows[0]["split"] = next(name for name in SPLITS_NAMES if name != rows[0]["split"])
    sources = [committed(splits, SPLITS), committed(rows, SPLITS)]
    failed = {f.name for f in check_splits(sources, data=[committed(pairs)]).failed}
    assert failed == {"split_host_overlap", "split_group_overlap", "split_target_overlap"}


def test_a_row_without_a_split_and_a_row_with_two_are_found(splits, pairs, committed):
    rows = splits.to_pylist()
    lost = rows.pop(0)
    found = split_findings(committed, rows, pairs).named("split_complete")
    assert (found.status, found.value, found.examples) == (Status.FAIL, 1, (lost["row_id"],))
    twice = [*splits.to_pylist(), splits.to_pylist()[4]]
    found = split_findings(committed, twice, pairs).named("split_complete")
    assert (found.status, found.value, found.examples) == (Status.FAIL, 1, (twice[4]["row_id"],))


def test_swapped_fractions_are_found(splits, pairs, committed):
    assert split_findings(committed, splits, pairs).named("split_fractions").passed
    swapped = Fractions(train=0.25, select=0.125, calib=0.125, test=0.5)
    found = split_findings(committed, splits, pairs, swapped).named("split_fractions")
    assert found.status is Status.FAIL
    assert "of 0.25, select" in found.detail


def rows_of(splits, name):
    return [r["row_id"] for r in splits.to_pylist() if r["split"] == name and r["reject"] is None]


def test_a_brick_a_source_and_an_image_in_two_splits_are_found(splits, pairs, committed):
    one, other = rows_of(splits, "train")[0], rows_of(splits, "test")[0]
    rows = {row["task_id"]: row for row in pairs.to_pylist()}
    rows[other] |= {"brickname": rows[one]["brickname"]} | {name: rows[one][name] for name in PIXELS}
    rows[one]["source_id"] = rows[other]["source_id"] = "hst:7"
    findings = split_findings(committed, splits, list(rows.values()))
    names = {"split_brick_overlap", "split_source_overlap", "split_near_duplicates"}
    assert {f.name for f in findings.failed} == names
    assert findings.named("split_source_overlap").examples == ("hst:7",)
    assert set(findings.named("split_near_duplicates").examples[0].split(" = ")) == {one, other}


def test_neighbouring_cells_in_two_splits_are_found(splits, pairs, committed):
    rows = splits.to_pylist()
    cells = {row["group"]: row["split"] for row in rows if row["reject"] is None}
    first = next(iter(cells))
    around = [int(cell) for cell in neighbouring_cells(int(first.removeprefix("cell:")))[0] if cell >= 0]
    moved = next(group for group, split in cells.items() if split != cells[first])
    assert split_findings(committed, rows, pairs).named("split_guard_band").passed
    for row in rows:
        if row["group"] == moved:
            row["group"] = f"cell:{around[0]}"
    found = split_findings(committed, rows, pairs).named("split_guard_band")
    assert (found.status, found.value) == (Status.FAIL, 2)
    aside = [dict(row, reject="guard_band") if row["group"] == first else row for row in rows]
    assert split_findings(committed, aside, pairs).named("split_guard_band").passed


@pytest.mark.parametrize("split", SPLITS_NAMES)
def test_an_empty_split_is_found(splits, pairs, committed, split):
    other = "train" if split != "train" else "test"
    rows = [dict(row, split=other) if row["split"] == split else row for row in splits.to_pylist()]
    failed = {f.name for f in split_findings(committed, rows, pairs).failed}
    assert f"split_{split}_filled" in failed
    assert failed <= {f"split_{split}_filled", "split_fractions", "split_guard_band"}


@pytest.mark.parametrize("split", SPLITS_NAMES)
def test_a_split_whose_rows_are_all_set_aside_counts_as_empty(splits, pairs, committed, split):
    rows = [
        dict(row, reject="below_snr_floor") if row["split"] == split else row for row in splits.to_pylist()
    ]
    assert [f.name for f in split_findings(committed, rows, pairs).failed] == [f"split_{split}_filled"]


def test_a_flipped_gate_direction_in_the_file_is_found(tmp_path):
    text = find_config("evaluation_protocol.yaml").read_text(encoding="utf-8")
    flipped, count = re.subn(r"(core_lr_auc:\n\s+direction: )below", r"\1above", text, count=1)
    assert count == 1
    path = tmp_path / "flipped.yaml"
    path.write_text(flipped, encoding="utf-8")
    findings = check_protocol(load_protocol(path))
    assert [f.name for f in findings.failed] == ["protocol_directions"]
    assert "core_lr_auc is 'above', must be 'below'" in str(findings.named("protocol_directions"))
    assert not check_protocol(load_protocol()).failed


def test_mock_rows_of_the_table_are_no_pairs(committed):
    """Rows that satisfy the schema alone do not satisfy the checks."""
    rows = PAIRED_STAMPS.mock(3)
    rows = rows.set_column(rows.schema.get_field_index("reject"), "reject", pa.array([None] * 3, pa.string()))
    assert check_pairs(committed(rows)).named("pair_decodes").value == 3
