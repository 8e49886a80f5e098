"""More than two thousand broken files: each is read as it was, or refused in a sentence; none is guessed at.

Mutations are drawn by hypothesis from a fixed seed. A result counts as silent if pixels come back that are
not those of the sound file although the bytes of the pixels were not touched, or if anything comes back from
a file that was cut short.
"""

import datetime as dt
import io
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from benchmarks.mirror import write_brick
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.survey.cutout_server import Sky
from tests.survey.test_tractor import columns, write_fits

from darkhaloscope.contracts.errors import DataError
from darkhaloscope.contracts.store import local_writer, open_dataset, write_rows
from darkhaloscope.contracts.tables import TARGETS
from darkhaloscope.survey.bricks import Mirror, read_brick
from darkhaloscope.survey.cutouts import read_psf, read_real_pixels
from darkhaloscope.survey.release import RELEASES
from darkhaloscope.survey.service import CutoutService, judge
from darkhaloscope.survey.tractor import catalogue_chunks

CARDS = (
    "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "BITPIX", "PCOUNT", "GCOUNT", "TFIELDS", "BANDS", "BAND",
    "CRVAL1", "CRPIX1", "CD1_1", "CTYPE1", "ZNAXIS1", "ZTILE1", "ZCMPTYPE", "ZBITPIX", "TFORM1", "THEAP",
    "IMAGETYP", "END",
    "SIMPLE", "XTENSION", "BUNIT", "MAGZERO", "VERSION", "BRICK_X0", "BRICK",
)  # fmt: skip
VALUES = (
    "0", "-1", "1", "7", "999999999", "-2147483648", "1e308", "NaN", "T", "'grz'", "'xyz'", "'RICE_1'",
    "'", "", "3600", "64", "-64", "8", "'1PB(9999999)'", "'RA---ZZZ'", "\x00\x01\x02", "1.0E+400",
)  # fmt: skip

PLACE = st.floats(0.0, 1.0)
MUTATION = st.one_of(
    st.tuples(st.just("cut"), PLACE),
    st.tuples(
        st.just("flip"),
        st.lists(st.tuples(PLACE, st.binary(min_size=1, max_size=4)), max_size=6),
    ),
    st.tuples(st.just("head"), st.tuples(PLACE, st.binary(min_size=1, max_size=8))),
    st.tuples(st.just("card"), st.tuples(st.sampled_from(CARDS), st.sampled_from(VALUES), st.integers(0, 3))),
    st.tuples(st.just("drop"), st.tuples(PLACE, st.integers(1, 3))),
    st.tuples(st.just("twice"), st.tuples(PLACE, st.integers(1, 3))),
    st.tuples(st.just("bytes"), st.binary(max_size=300)),
)


def mutated(data: bytes, mutation) -> bytes:
    kind, how = mutation
    out = bytearray(data)
    last = len(data) - 1
    if kind == "cut":
        return data[: int(how * last)]
    if kind == "flip":
        for place, new in how:
            k = int(place * last)
            out[k : k + len(new)] = new
    elif kind == "head":
        k = int(how[0] * min(2880 - len(how[1]), last))
        out[k : k + len(how[1])] = how[1]
    elif kind == "card":
        name, value, nth = how
        for _ in range(nth + 1):
            k = data.find(f"{name:<8}".encode(), 0 if not _ else k + 1)
            if k < 0:
                return data
        out[k + 8 : k + 80] = f"= {value:>20}".encode("latin-1").ljust(72)[:72]
    elif kind in ("drop", "twice"):
        k = int(how[0] * len(data)) // 2880 * 2880
        span = 2880 * how[1]
        out[k : k + span] = b"" if kind == "drop" else data[k : k + span] * 2
    else:
        return how
    return bytes(out)


def touches_pixels(data: bytes, mutation) -> bool:
    return mutation[0] in ("flip", "drop", "twice")


class Broken:
    """Runs one reader over many mutations of one sound file, and counts what came of them."""

    def __init__(self, name, sound, read, *, same, headerless=False):
        self.name, self.sound, self.read, self.same, self.headerless = name, sound, read, same, headerless
        self.seen = Counter()

    def run(self, folder: Path, cases: int) -> None:
        path = folder / self.name

        @settings(
            max_examples=cases,
            derandomize=True,
            database=None,
            deadline=dt.timedelta(seconds=20),
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # shrinking a failure takes minutes; the mutation is shown as drawn
        )
        @given(MUTATION)
        def one(mutation):
            bad = mutated(self.sound, mutation)
            path.write_bytes(bad)
            try:
                found = self.read(path)
            except DataError as error:
                assert str(error)  # noqa: PT017 - most are refused, each with a sentence
                self.seen["refused"] += 1
                return
            if isinstance(found, str):
                self.seen["refused"] += 1
            elif self.same(found):
                self.seen["as it was"] += 1
            else:
                assert touches_pixels(self.sound, mutation) or self.headerless, mutation
                assert mutation[0] != "cut"
                self.seen["other pixels"] += 1

        one()


def first(path):
    (real,) = read_real_pixels(path)
    return real


@pytest.fixture(scope="module")
def sound():
    """Small sound files of every kind, and what they hold."""
    rng = np.random.default_rng(1)
    image = rng.normal(0, 0.01, (3, 40, 40)).astype("f4")
    sky = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 40.0, "CRVAL2": -30.0, "CRPIX1": 20.5}
    sky |= {"CRPIX2": 20.5, "CD1_1": -0.262 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.262 / 3600}
    head = {"BANDS": "grz", "VERSION": "DR10-south"} | sky
    units = [
        fits.PrimaryHDU(image, fits.Header(head | {"IMAGETYP": "image"})),
        fits.ImageHDU(np.full_like(image, 1e4), fits.Header(head | {"IMAGETYP": "invvar"})),
        fits.ImageHDU(np.zeros((40, 40), "i4"), fits.Header({"IMAGETYP": "maskbits"})),
    ]
    packed = [fits.PrimaryHDU()]
    packed += [
        fits.CompImageHDU(
            image[k], fits.Header(sky | {"BAND": b}), compression_type="RICE_1", tile_shape=(20, 20)
        )
        for k, b in enumerate("grz")
    ]
    kernel = np.full((3, 5, 5), 0.04, "f4")
    psf = [fits.PrimaryHDU(kernel, fits.Header({"BANDS": "grz"}))]
    return {
        "image": image,
        "cube": _saved(units),
        "packed": _saved(packed),
        "psf": _saved(psf),
        "npz": _npz(images=image[None], invvar=np.full((1, 3, 40, 40), 1e4, "f4")),
        "hdf5": _hdf5(image),
    }


def _saved(units):
    out = io.BytesIO()
    fits.HDUList(units).writeto(out)
    return out.getvalue()


def _npz(**arrays):
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def _hdf5(image):
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["images"] = image[None]
        file["ra"] = [40.0]
    return out.getvalue()


def same_kernel(psf):
    return np.allclose(psf, 0.04)


def catalogue(path):
    tables = list(catalogue_chunks(path))
    return pa.concat_tables(tables) if tables else "no rows"


def same_image(image):
    return lambda real: np.array_equal(real.image, image)


def test_two_thousand_broken_files(sound, tmp_path):
    """FITS plain and packed, PSFs, NPZ, HDF5, catalogues, answers of a service, coadds of a brick."""
    image = sound["image"]
    with fits.open(io.BytesIO(sound["packed"])) as units:
        unpacked = np.stack([unit.data for unit in units[1:]]).astype("f4")
    table = write_fits(tmp_path / "sound.fits", columns(6)).read_bytes()
    rows = catalogue(tmp_path / "sound.fits")
    kinds = [
        (Broken("a.fits", sound["cube"], first, same=same_image(image)), 450),
        (
            Broken(
                "a.fits.fz", sound["packed"], first, same=same_image(unpacked.astype("f4")), headerless=True
            ),
            350,
        ),
        # A PSF fills a single block whatever its type: a changed BITPIX cannot be told from its bytes.
        (Broken("psf.fits", sound["psf"], read_psf, same=same_kernel, headerless=True), 250),
        (Broken("a.npz", sound["npz"], first, same=same_image(image)), 250),
        (Broken("a.h5", sound["hdf5"], first, same=same_image(image), headerless=True), 250),
        (
            Broken(
                "t.fits",
                table,
                lambda p: pa.concat_tables(catalogue_chunks(p)),
                same=rows.equals,
                headerless=True,
            ),
            300,
        ),
        (_answer_of_a_service(tmp_path), 250),
        (_coadd_of_a_brick(tmp_path), 120),
    ]
    seen = Counter()
    for broken, cases in kinds:
        broken.run(tmp_path, cases)
        counts = broken.seen
        assert counts["refused"] > 0.3 * counts.total(), (broken.name, counts)
        seen += counts
    print(dict(seen))
    assert seen.total() >= 2000


def _answer_of_a_service(tmp_path):
    name, ra, dec = write_brick(tmp_path / "m", 40.0, -30.0, side=200, targets=1)
    sky = Sky(tmp_path / "m")
    service = CutoutService(release="dr10-south", size=32)
    target = {"ra_deg": float(ra[0]), "dec_deg": float(dec[0]), "brickname": name}
    body = sky.native(float(ra[0]), float(dec[0]), service.side)

    def read(path):
        verdict = judge(service, target, "native", path.read_bytes())
        return verdict if verdict != "ok" else {}

    assert judge(service, target, "native", body) == "ok"
    # A changed pixel cannot be told; a changed header that still fits is taken at its word.
    return Broken("answer", body, read, same=lambda _: False, headerless=True)


def _coadd_of_a_brick(tmp_path):
    name, ra, dec = write_brick(tmp_path / "b", 40.0, -30.0, side=200, targets=2)
    path = tmp_path / "b" / "south" / "coadd" / name[:3] / name / f"legacysurvey-{name}-invvar-r.fits.fz"
    mirror = Mirror(str(tmp_path / "b"), RELEASES["dr10-south"])
    wanted = (mirror, name, ra.tolist(), dec.tolist())
    before = read_brick(*wanted, size=32, bands="grz")

    def read(bad):
        path.write_bytes(bad.read_bytes())
        found = read_brick(*wanted, size=32, bands="grz")
        return "code" if all(isinstance(answer, str) for answer in found) else found

    def same(found):
        return all(np.array_equal(a.invvar, b.invvar) for a, b in zip(before, found, strict=True))

    return Broken("coadd", path.read_bytes(), read, same=same, headerless=True)


def test_broken_shards_are_refused_or_found_by_their_checksum(tmp_path):
    """A shard of the store: structural damage stops the reading; any other byte is found by `verify`."""
    made = write_rows(
        local_writer(tmp_path / "d", TARGETS), TARGETS.mock(40), shard_rows=40, job={"job": "t"}
    )
    (shard,) = (tmp_path / "d" / "shards").iterdir()
    data, rows = shard.read_bytes(), made.read()
    seen = Counter()

    @settings(max_examples=250, derandomize=True, database=None, deadline=None)
    @given(MUTATION)
    def one(mutation):
        bad = mutated(data, mutation)
        shard.write_bytes(bad)
        try:
            found = open_dataset(tmp_path / "d").read()
        except DataError as error:
            assert "shards/" in str(error)  # noqa: PT017 - most are refused
            seen["refused"] += 1
            return
        if bad == data:
            assert found.equals(rows)
            return
        with pytest.raises(DataError, match="has changed since it was committed"):
            open_dataset(tmp_path / "d").verify()
        seen["found by its checksum"] += 1

    one()
    assert seen["refused"] > 50
    assert seen["found by its checksum"] > 5


def test_a_reader_that_believes_the_header_would_be_caught(sound, tmp_path):
    """The control: astropy alone, told to ignore what is missing, gives pixels from a file cut short."""
    path = tmp_path / "cut.fits"
    path.write_bytes(sound["cube"][: 2880 * 6])

    def careless(path):
        with fits.open(path, ignore_missing_end=True, memmap=False) as units:
            size = units[0].header["NAXIS1"] * units[0].header["NAXIS2"] * 3
            raw = path.read_bytes()[units[0].fileinfo()["datLoc"] :]
        pixels = np.zeros(size, ">f4")
        pixels.view("u1")[: len(raw)] = np.frombuffer(raw, "u1")[: pixels.nbytes]
        return pixels.reshape(3, 40, 40)

    assert not np.array_equal(careless(path), sound["image"])
    with pytest.raises(DataError, match="truncated"):
        first(path)


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (("NAXIS", "999999999", 0), "declares NAXIS = 999999999"),
        (("NAXIS", "999999999", 1), "declares NAXIS = 999999999"),
        (("NAXIS", "99999999   3", 0), "declares NAXIS = 99999999   3"),
        (("NAXIS", "9E9", 0), "declares NAXIS = 9E9"),
        (("BITPIX", "-64", 0), "does not begin where the last ends"),
        (("NAXIS2", "4000", 0), "truncated"),
    ],
)
def test_a_header_that_lies_about_the_data_is_refused_at_once(sound, tmp_path, card, says):
    """Found by the mutations: an endless number of axes, and units that astropy skips over."""
    (tmp_path / "a.fits").write_bytes(mutated(sound["cube"], ("card", card)))
    with pytest.raises(DataError, match=says):
        first(tmp_path / "a.fits")


@pytest.mark.parametrize("place", [("head", (0.0674, b"/")), ("flip", [(0.9963, b"X")]), ("cut", 0.5)])
def test_whatever_numpy_raises_on_a_damaged_npz_is_an_error_of_ours(sound, tmp_path, place):
    stored = io.BytesIO()
    np.savez(stored, images=sound["image"][None])
    for data in (stored.getvalue(), sound["npz"]):
        (tmp_path / "a.npz").write_bytes(mutated(data, place))
        try:
            real = first(tmp_path / "a.npz")
        except DataError as error:
            assert "a.npz" in str(error)  # noqa: PT017 - some places are padding
        else:
            assert real.image.shape == (3, 40, 40)
