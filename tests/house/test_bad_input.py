"""Bad input, through the command: one sentence naming the file and the row, an exit code, nothing lost."""

import io
import shutil
import struct
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from darkhaloscope.contracts.store import local_writer, open_dataset, write_rows
from darkhaloscope.contracts.tables import BRICKS, STAMPS
from darkhaloscope.stamps.harvest import HarvestSky
from darkhaloscope.stamps.stamp import decode_planes, encode_planes
from darkhaloscope.survey.priors import SkyPriors
from darkhaloscope.survey.sky import plan_bricks

SEED = 11
EXPERIMENT = "demo.yaml"
USAGE, DATA = 2, 1


@pytest.fixture(scope="module")
def sky():
    """(bricks, stamps): three bricks of four targets each."""
    bricks = plan_bricks(SEED, 3, 4, priors=SkyPriors(), anchors=0)
    return bricks, HarvestSky(seed=SEED).run(bricks)


@pytest.fixture(scope="module")
def clean_hosts(sky, tmp_path_factory):
    """A dataset of stamps in three shards."""
    folder = tmp_path_factory.mktemp("hosts") / "hosts"
    write_rows(local_writer(folder, STAMPS), sky[1], shard_rows=4, job={"job": "test"})
    return folder


@pytest.fixture
def hosts(clean_hosts, tmp_path):
    """A copy of it, to spoil."""
    return shutil.copytree(clean_hosts, tmp_path / "hosts")


def refused(answer, code, *says):
    """One line on stderr, from us, which says all of `says`; nothing on stdout."""
    assert "Traceback" not in answer.err, answer.err
    assert answer.code == code, answer
    assert len(answer.err.strip().splitlines()) == 1, answer.err
    assert answer.err.startswith("dhs: ")
    for text in says:
        assert str(text) in answer.err
    assert answer.out == ""


def stopped(answer, code, *says):
    """As `refused`, after work that drew its progress."""
    refused(answer._replace(err=answer.last + "\n"), code, *says)
    assert "Traceback" not in answer.err, answer.err
    assert answer.err.count("dhs: ") == 1


def only_hosts(hosts, out, *more):
    """The words of a run on a hosts dataset and nothing else."""
    settings = (f"survey.hosts={hosts}", "survey.targets_per_brick=0", *more)
    return ("run", EXPERIMENT, "--out", out, "-n", "1", *[w for s in settings for w in ("--set", s)])


# --- configuration


def experiment(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("survey.brick=3", ("key 'survey.brick'", "is not a known key")),
        ("training.lr=1e-3", ("key 'training.lr'", "'1e-3'", "1.0e-3")),
        ("training.lr=-1.0", ("key 'training.lr'", "-1.0", "greater than 0")),
        ("training.lr=.nan", ("key 'training.lr'", "finite")),
        ("survey.bricks=many", ("key 'survey.bricks'", "'many'")),
        ("survey.bricks=2.5", ("key 'survey.bricks'", "2.5")),
        ("seed.is=3", ("key 'seed.is'", "'seed' is a value, not a section")),
        ("survey.bricks", ("--set", "must read key=value")),
        ("survey.bricks=[1", ("key 'survey.bricks'", "is not YAML")),
        ("splits.fractions.train=0.9", ("key 'splits.fractions'", "add up to 1")),
        ("protocol=absent.yaml", ("absent.yaml", "no such configuration file")),
    ],
)
@pytest.mark.parametrize("verb", ["run", "train"])
def test_a_bad_setting_is_named(dhs, tmp_path, verb, override, says):
    out = tmp_path / "out"
    refused(dhs(verb, EXPERIMENT, "--out", out, "--set", override), USAGE, *says)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: mine\nsurvey: {brick: 3}\n", ("key 'survey.brick'", "is not a known key")),
        ("name: mine\ntraining: {lr: 1e-3}\n", ("key 'training.lr'", "'1e-3'", "1.0e-3")),
        ("seed: 3\n", ("key 'name'", "is missing")),
        ("name: mine\nrecipe: {kind: other}\n", ("key 'recipe.kind'",)),
        ("name: [mine\n", ("is not YAML",)),
        ("name: 2026-01-02\n", ("not plain data",)),
        ("- name\n", ("must hold a mapping",)),
        ("", ("must hold a mapping",)),
        (b"name: caf\xe9\n", ("is not UTF-8",)),
    ],
)
def test_a_bad_experiment_file_is_named(dhs, tmp_path, text, says):
    path = experiment(tmp_path, text)
    refused(dhs("run", path, "--out", tmp_path / "out"), USAGE, path, *says)


def test_a_missing_configuration_names_those_there_are(dhs, tmp_path):
    answer = dhs("run", "absent.yaml", "--out", tmp_path / "out")
    refused(answer, USAGE, "absent.yaml", "no such configuration file", "gen5_prime_baseline.yaml")
    refused(dhs("run", tmp_path, "--out", tmp_path / "out"), USAGE, tmp_path, "cannot be read")


def test_a_protocol_with_an_unknown_key_is_named(dhs, tmp_path):
    protocol = tmp_path / "protocol.yaml"
    protocol.write_text("version: '1'\ngate: {}\n")
    answer = dhs("run", EXPERIMENT, "--out", tmp_path / "out", "--set", f"protocol={protocol}")
    refused(answer, USAGE, protocol, "key '")


def test_a_folder_of_another_experiment_is_refused_with_the_differing_key(dhs, clean_hosts, tmp_path):
    out = tmp_path / "out"
    painted = ("survey", "sky", "--out", out, "-n", "1", "--set", "survey.bricks=1")
    assert dhs(*painted, "--set", "survey.targets_per_brick=1").code == 0
    held = (out / "config.yaml").read_bytes()
    answer = dhs(*painted, "--set", "survey.targets_per_brick=2")
    refused(answer, USAGE, out, "key 'survey.targets_per_brick'", "differs from the run", "another --out")
    answer = dhs(*only_hosts(clean_hosts, out))
    refused(answer, USAGE, out, "key 'survey.")
    assert (out / "config.yaml").read_bytes() == held


def test_another_shard_size_in_the_same_folder_loses_no_brick(dhs, tmp_path):
    out = tmp_path / "out"
    painted = ("survey", "sky", "--out", out, "-n", "1", "--set", "survey.bricks=4")
    one_each = ("--set", "survey.targets_per_brick=1", "--set", "survey.bricks_per_shard=1")
    assert dhs(*painted, *one_each).code == 0
    answer = dhs(*painted, *one_each[:2], "--set", "survey.bricks_per_shard=4")
    assert answer.code == USAGE
    assert "key 'survey.bricks_per_shard'" in answer.last
    assert open_dataset(out / "bricks").num_rows == 4
    assert open_dataset(out / "sky").num_rows == 4


def test_a_file_where_the_folder_should_be(dhs, clean_hosts, tmp_path):
    path = tmp_path / "out"
    path.write_text("mine")
    refused(dhs("run", EXPERIMENT, "--out", path), USAGE, path, "is a file")
    refused(dhs("inject", clean_hosts, "--out", path), DATA, path, "is a file")
    refused(dhs("run", EXPERIMENT, "--out", path / "below"), DATA, path, "Not a directory")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("verb", ["verify", "report"])
def test_what_is_no_run_cannot_be_verified(dhs, clean_hosts, tmp_path, verb):
    refused(dhs(verb, tmp_path / "absent"), DATA, tmp_path / "absent", "holds no run")
    refused(dhs(verb, clean_hosts), DATA, clean_hosts, "holds no run")


# --- datasets


def test_a_missing_dataset_is_named_before_any_work_and_the_folder_stays_free(dhs, clean_hosts, tmp_path):
    absent, out = tmp_path / "absent", tmp_path / "out"
    refused(dhs("inject", absent, "--out", out), DATA, absent, "does not exist")
    # Beside a sky: the sky is not painted first.
    answer = dhs("run", EXPERIMENT, "--out", out, "-n", "1", "--set", f"survey.hosts={absent}")
    refused(answer, DATA, absent, "does not exist")
    assert not (out / "config.yaml").exists()


def test_missing_lens_cutouts_are_named_before_any_work(dhs, tmp_path):
    absent, out = tmp_path / "lens.fits", tmp_path / "out"
    answer = dhs("run", EXPERIMENT, "--out", out, "-n", "1", "--set", f"survey.known_lenses=[{absent}]")
    refused(answer, DATA, absent, "there is no such file")
    assert not (out / "config.yaml").exists()


def test_a_dataset_without_a_manifest_is_unfinished(dhs, hosts, tmp_path):
    (hosts / "manifest.json").unlink()
    refused(dhs("inject", hosts, "--out", tmp_path / "out"), DATA, hosts, "is unfinished")
    refused(dhs(*only_hosts(hosts, tmp_path / "run")), DATA, hosts, "is unfinished")
    refused(dhs("inject", tmp_path, "--out", tmp_path / "out"), DATA, tmp_path, "holds no dataset")


def test_a_manifest_that_is_none_is_named(dhs, hosts, tmp_path):
    (hosts / "manifest.json").write_text("{}")
    refused(
        dhs("inject", hosts, "--out", tmp_path / "out"), DATA, hosts / "manifest.json", "is not a manifest"
    )


def test_a_dataset_of_another_table_is_refused(dhs, sky, tmp_path):
    bricks = tmp_path / "bricks"
    write_rows(local_writer(bricks, BRICKS), sky[0], shard_rows=4, job={"job": "test"})
    says = (bricks, "holds bricks, but stamps is needed")
    refused(dhs("inject", bricks, "--out", tmp_path / "out"), DATA, *says)
    refused(dhs(*only_hosts(bricks, tmp_path / "run")), DATA, *says)


def test_an_empty_dataset_is_refused(dhs, tmp_path):
    empty = tmp_path / "empty"
    rows = STAMPS.schema.empty_table()
    write_rows(local_writer(empty, STAMPS), rows, shard_rows=4, job={"job": "test"})
    refused(dhs("inject", empty, "--out", tmp_path / "out"), DATA, empty, "holds no row")
    refused(dhs(*only_hosts(empty, tmp_path / "run")), DATA, empty, "holds no row")
    beside_a_sky = dhs("run", EXPERIMENT, "--out", tmp_path / "run", "--set", f"survey.hosts={empty}")
    refused(beside_a_sky, DATA, empty, "holds no row")


def test_a_run_without_any_galaxy_is_refused(dhs, tmp_path):
    answer = dhs("run", EXPERIMENT, "--out", tmp_path / "run", "--set", "survey.targets_per_brick=0")
    refused(answer, DATA, "not one galaxy", "survey.targets_per_brick")


def shard_of(dataset, index):
    return sorted((dataset / "shards").glob("*.parquet"))[index]


def test_a_missing_column_is_named_with_its_file(dhs, hosts, tmp_path):
    shard = shard_of(hosts, 0)
    pq.write_table(pq.read_table(shard).drop_columns(["light_q"]), shard)
    answer = dhs("inject", hosts, "--out", tmp_path / "out", "-n", "1")
    stopped(answer, DATA, shard.name, "lacks the column 'light_q'")


def test_a_column_of_another_type_is_named_with_its_file(dhs, hosts, tmp_path):
    shard = shard_of(hosts, 0)
    rows = pq.read_table(shard)
    index = rows.schema.get_field_index("light_q")
    pq.write_table(rows.set_column(index, "light_q", [["wide"] * rows.num_rows]), shard)
    answer = dhs("inject", hosts, "--out", tmp_path / "out", "-n", "1")
    stopped(answer, DATA, shard.name, "'light_q'")


def test_a_torn_and_a_lost_shard_are_named(dhs, hosts, tmp_path):
    shard = shard_of(hosts, 0)
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    stopped(dhs("inject", hosts, "--out", tmp_path / "out", "-n", "1"), DATA, shard.name, "cannot be read")
    shard.unlink()
    stopped(dhs("inject", hosts, "--out", tmp_path / "out", "-n", "1"), DATA, shard.name, "is not there")


def bomb(size):
    """A small NPZ that says it inflates to `size` bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("image_g.npy", "image_r.npy", "image_z.npy"):
            archive.writestr(name, np.lib.format.magic(1, 0) + bytes(1000))
    data = bytearray(buffer.getvalue())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", size)
    return bytes(data)


def pickled():
    buffer = io.BytesIO()
    np.savez(buffer, image_g=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


def infinite_weight(blob):
    cube = decode_planes(blob, "invvar", where="test").copy()
    cube[0, 3, 4] = np.inf
    return encode_planes("invvar", cube)


BLOBS = {
    "torn": ("stamp_npz", lambda b: b[:-300], "not an NPZ archive"),
    "no archive": ("stamp_npz", lambda _b: b"hello", "not an NPZ archive"),
    "empty": ("stamp_npz", lambda _b: b"", "not an NPZ archive"),
    "absent": ("stamp_npz", lambda _b: None, "has no bytes"),
    "a bomb": ("stamp_npz", lambda _b: bomb(2**31), "more than the"),
    "oversized": ("stamp_npz", lambda b: b + bytes(20 * 2**20), "more than the"),
    "pickled": ("stamp_npz", lambda _b: pickled(), "pickle"),
    "no weight": ("invvar_npz", infinite_weight, "NaN or infinite"),
    "a PSF for a mask": ("mask_npz", lambda _b: encode_planes("psf", np.ones((3, 5, 5)) / 25), "maskbits"),
}


@pytest.mark.parametrize("fault", BLOBS)
def test_a_bad_blob_is_named_by_its_target_and_nothing_committed_is_lost(dhs, hosts, tmp_path, fault):
    column, change, says = BLOBS[fault]
    shard, out = shard_of(hosts, 1), tmp_path / "out"
    whole = shard.read_bytes()
    rows = pq.read_table(shard).to_pylist()
    row = next(r for r in rows if r["kind"] == "lrg")
    row[column] = change(row[column])
    pq.write_table(STAMPS.conform(rows), shard)
    command = ("inject", hosts, "--out", out, "-n", "1")
    answer = dhs(*command)
    stopped(answer, DATA, "job 'inject' stopped in shard 00001", row["target_id"], says)
    kept = (out / "commits" / "00000.json").read_bytes()
    assert not (out / "manifest.json").exists()
    # The shard as it should be: the same command goes on from what is there.
    shard.write_bytes(whole)
    assert dhs(*command).code == 0
    assert (out / "commits" / "00000.json").read_bytes() == kept
    assert len(open_dataset(out).keys) == 3


def test_a_row_that_fails_in_a_worker_is_named_just_so(dhs, hosts, tmp_path):
    """From another process: the error must survive the way back."""
    shard, out = shard_of(hosts, 2), tmp_path / "out"
    rows = pq.read_table(shard).to_pylist()
    rows[0]["psf_npz"] = b"torn"
    pq.write_table(STAMPS.conform(rows), shard)
    answer = dhs("inject", hosts, "--out", out, "-n", "2")
    stopped(answer, DATA, "job 'inject' stopped in shard 00002", rows[0]["target_id"])
    names = {p.name for p in (out / "commits").glob("*.json")}
    assert names == {"00000.json", "00001.json"}


def test_a_nan_in_a_stamp_is_a_reject_code_and_not_a_pair(dhs, sky, tmp_path):
    rows = sky[1].to_pylist()
    row = next(r for r in rows if r["kind"] == "lrg")
    cube = decode_planes(row["stamp_npz"], where="test").copy()
    cube[0, 3, 4] = np.nan
    row["stamp_npz"] = encode_planes("image", cube)
    write_rows(
        local_writer(tmp_path / "hosts", STAMPS), STAMPS.conform(rows), shard_rows=20, job={"job": "t"}
    )
    answer = dhs("inject", tmp_path / "hosts", "--out", tmp_path / "out", "-n", "1")
    assert answer.code == 0
    assert "not_finite 1" in answer.last
    pairs = open_dataset(tmp_path / "out").read(["target_id", "reject", "stamp_npz"]).to_pylist()
    assert [p["stamp_npz"] for p in pairs if p["target_id"] == row["target_id"]] == [None]


# --- cutouts


@pytest.fixture
def cutout(sky, tmp_path):
    """Write galaxies of the sky as a cutout file; `change` spoils the arrays."""
    images = np.stack(
        [decode_planes(r["stamp_npz"], where="test") for r in sky[1].to_pylist()[:2] if r["reject"] is None]
    )

    def write(name="cut.npz", **change):
        path = tmp_path / name
        np.savez(path, **({"images": images} | change))
        return path

    return write


def harvested(path, out, *more):
    return ("survey", "cutouts", path, "--out", out, *more)


def test_good_cutouts_are_taken(dhs, cutout, tmp_path):
    answer = dhs(*harvested(cutout(), tmp_path / "hosts"))
    assert answer.code == 0, answer.err
    assert open_dataset(tmp_path / "hosts").num_rows == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--kind", "galaxy"), ("--kind", "galaxy", "lrg, disc, contaminant, lens")),
        (("--kind", "contaminant", "--category", "blob"), ("--category", "blob", "ring, spiral")),
        (("--kind", "contaminant"), ("--category", "ring, spiral")),
        (("--kind", "lrg", "--category", "ring"), ("--category",)),
        (("--psf", "1.2,1.1"), ("--psf", "1.2,1.1")),
        (("--psf", "0.0,1.1,1.1"), ("--psf", "0.0,1.1,1.1")),
        (("--psf", "nan,1.1,1.1"), ("--psf", "nan,1.1,1.1")),
        (("--pixel-scale", "-0.262"), ("--pixel-scale", "-0.262")),
    ],
)
def test_a_bad_option_is_usage(dhs, cutout, tmp_path, words, says):
    refused(dhs(*harvested(cutout(), tmp_path / "hosts", *words)), USAGE, *says)
    assert not (tmp_path / "hosts").exists()


def test_another_category_is_not_the_same_dataset(dhs, cutout, tmp_path):
    words = harvested(cutout(), tmp_path / "hosts", "--kind", "contaminant", "--category")
    assert dhs(*words, "ring").code == 0
    refused(dhs(*words, "spiral"), DATA, tmp_path / "hosts", "belongs to another job")


def lying_header():
    """An NPZ whose array says it has more pixels than any memory."""
    buffer = io.BytesIO()
    head = {"descr": "<f4", "fortran_order": False, "shape": (10**7, 3, 256, 256)}
    np.lib.format.write_array_header_1_0(buffer, head)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("images.npy", buffer.getvalue() + bytes(64))
    return archive.getvalue()


def swelling():
    """An NPZ of eight gigabytes of nothing in a few kilobytes, by its own directory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(3):
            archive.writestr(f"part{k}.npy", bytes(1000))
    data = bytearray(buffer.getvalue())
    entry = -1
    while (entry := data.find(b"PK\x01\x02", entry + 1)) >= 0:
        data[entry + 24 : entry + 28] = struct.pack("<I", 0xF0000000)
    return bytes(data)


FILES = {
    "torn": (lambda data: data[: len(data) // 2], ("is truncated or no NPZ",)),
    "no archive": (lambda _data: b"hello", ("cut.npz",)),
    "empty": (lambda _data: b"", ("is truncated or no NPZ",)),
    "a lying header": (lambda _data: lying_header(), ("cut.npz",)),
    "a bomb": (lambda _data: swelling(), ("bytes", "more than")),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_corrupt_npz_is_named(dhs, cutout, tmp_path, fault):
    change, says = FILES[fault]
    path = cutout()
    path.write_bytes(change(path.read_bytes()))
    refused(dhs(*harvested(path, tmp_path / "hosts")), DATA, path, *says)


def test_a_flipped_byte_in_an_npz_is_named(dhs, cutout, tmp_path):
    path = cutout()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
    refused(dhs(*harvested(path, tmp_path / "hosts")), DATA, path)


def test_npz_contents_that_cannot_be_used_are_named(dhs, cutout, tmp_path):
    out = tmp_path / "hosts"
    noise = np.random.default_rng(1).normal(0, 0.003, (2, 3, 64, 64))
    cases = [
        (cutout("p.npz", images=np.array([{"a": 1}], dtype=object)), "holds pickled objects"),
        (cutout("two.npz", images=noise[:, :2]), "needed: (n, 3, y, x)"),
        (cutout("small.npz", images=noise[:, :, :40, :40]), "row 0"),
        (cutout("units.npz", images=noise, units="counts"), "convert to nanomaggies"),
        (cutout("nan.npz", images=noise * np.nan), "none of its 2 images can be used: not_finite"),
        (cutout("zero.npz", images=noise * [[[0]], [[1]], [[1]]]), "missing_band"),
        (cutout("none.npz", images=noise[:0]), "none of its 0 images"),
        (cutout("psf.npz", images=noise, psf=np.ones((3, 4, 4))), "k odd"),
        (cutout("dec.npz", images=noise, ra=[1.0, 2.0], dec=[3.0, 95.0]), "row 1"),
    ]
    for path, says in cases:
        refused(dhs(*harvested(path, out)), DATA, path, says)
    assert not out.exists()


def test_files_that_are_not_there_or_no_cutouts(dhs, cutout, tmp_path):
    out = tmp_path / "hosts"
    refused(dhs(*harvested(tmp_path / "absent.npz", out)), DATA, "absent.npz", "there is no such file")
    (tmp_path / "empty").mkdir()
    refused(dhs(*harvested(tmp_path / "empty", out)), DATA, tmp_path / "empty", "holds no cutout")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    refused(dhs(*harvested(text, out)), DATA, text, "is no .npz, .fits, .h5 or index.csv")
    text = tmp_path / "notes.fits"
    text.write_text("hello")
    refused(dhs(*harvested(text, out)), DATA, text, "no FITS file")
    refused(dhs(*harvested(cutout(), out, "--psf", text)), DATA, text, "no FITS file")
    assert not out.exists()


def test_one_bad_file_among_good_ones_is_the_one_named(dhs, cutout, tmp_path):
    folder = tmp_path / "cutouts"
    folder.mkdir()
    cutout("cutouts/a.npz")
    cutout("cutouts/b.npz", images=np.zeros((1, 3, 64, 64)))
    refused(dhs(*harvested(folder, tmp_path / "hosts")), DATA, folder / "b.npz", "missing_band")


def fits_cube(path, bands="grz", size=64):
    cube = np.random.default_rng(2).normal(0, 0.003, (len(bands), size, size)).astype(np.float32)
    header = fits.Header({"BANDS": bands})
    fits.PrimaryHDU(cube, header).writeto(path)
    return path


def test_fits_cutouts_truncated_or_without_a_band_are_named(dhs, tmp_path):
    out = tmp_path / "hosts"
    no_r = fits_cube(tmp_path / "gz.fits", "gz")
    refused(dhs(*harvested(no_r, out)), DATA, no_r, "has no band r", "bands there: g, z")
    torn = fits_cube(tmp_path / "torn.fits")
    torn.write_bytes(torn.read_bytes()[:20_000])
    refused(dhs(*harvested(torn, out)), DATA, torn, "is truncated")
    assert not out.exists()


@pytest.mark.realdata
def test_real_files_that_are_damaged_are_named(dhs, real_data, tmp_path):
    out = tmp_path / "hosts"
    torn = real_data / "cutouts" / "ls_truncated.fits"
    refused(dhs(*harvested(torn, out)), DATA, torn, "is truncated")
    two_bands = min((real_data / "bricks").glob("legacysurvey-*-image-g.fits.fz"))
    refused(dhs(*harvested(two_bands, out)), DATA, two_bands)
    assert not out.exists()


@pytest.mark.realdata
def test_a_stripe_without_a_band_never_becomes_a_silent_stamp(dhs, real_data, tmp_path):
    path, out = real_data / "cutouts" / "ls_bad_pixels_missing_band.fits", tmp_path / "hosts"
    answer = dhs(*harvested(path, out))
    if answer.code == 0:
        (row,) = open_dataset(out).read(["reject", "stamp_npz"]).to_pylist()
        assert row["reject"] in ("missing_band", "not_finite")
        assert row["stamp_npz"] is None
    else:
        refused(answer, DATA, path)


def test_a_process_of_its_own_says_the_same(typed, tmp_path):
    """Once by the installed command: the sentence, the code, and no traceback on the way out."""
    answer = typed(*harvested(tmp_path / "absent.npz", tmp_path / "hosts"))
    refused(answer, DATA, "absent.npz", "there is no such file")
