"""Coadds by brick: native pixels in the right place, and a reason where there are none."""

import numpy as np
import pytest
from astropy.io import fits
from benchmarks.mirror import Fault, brick_wcs, write_brick
from tests.survey.bucket_server import bucket

from darkhaloscope.contracts.errors import ConfigError, CredentialsExpired, DataError
from darkhaloscope.survey.brick_grid import brick_of
from darkhaloscope.survey.bricks import WHOLE_PLANE_TARGETS, Mirror, read_brick
from darkhaloscope.survey.cutouts import Cutout
from darkhaloscope.survey.release import RELEASES

SOUTH = RELEASES["dr10-south"]
SIDE = 400
AT = (40.0, -30.0)


def read(root, name, ra, dec, *, size=64, bands="grz", release=SOUTH):
    return read_brick(Mirror(str(root), release), name, list(ra), list(dec), size=size, bands=bands)


def path_of(root, name, key, suffix=".fits.fz"):
    return root / "south" / "coadd" / name[:3] / name / f"legacysurvey-{name}-{key}{suffix}"


def plane(path):
    with fits.open(path) as units:
        return np.array(units[-1].data), units[-1].header


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    root = tmp_path_factory.mktemp("mirror")
    return root, *write_brick(root, *AT, side=SIDE, targets=12)


@pytest.mark.parametrize("suffix", [".fits.fz", ".fits"])
def test_windows_are_the_coadds_own_pixels(tmp_path, suffix):
    name, ra, dec = write_brick(tmp_path, *AT, side=SIDE, targets=5, suffix=suffix)
    answers = read(tmp_path, name, ra, dec)
    image, header = plane(path_of(tmp_path, name, "image-r", suffix))
    x, y = brick_wcs(header["CRVAL1"], header["CRVAL2"], SIDE).world_to_pixel_values(ra, dec)
    for answer, px, py in zip(answers, x, y, strict=True):
        x0, y0 = round(px - answer.x_center_pix), round(py - answer.y_center_pix)
        height, width = answer.image.shape[1:]
        assert np.array_equal(answer.image[1], image[y0 : y0 + height, x0 : x0 + width])
        assert px - answer.x_center_pix == pytest.approx(x0, abs=1e-9)
        assert answer.row["nexp_r"] == 3
        assert answer.row["psfsize_r"] == pytest.approx(1.18)


def test_reading_whole_planes_and_tile_by_tile_is_the_same(mirror):
    root, name, ra, dec = mirror
    few = read(root, name, ra, dec)
    times = -(-WHOLE_PLANE_TARGETS // len(ra))
    many = read(root, name, np.tile(ra, times), np.tile(dec, times))
    for one, other in zip(few, many, strict=False):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.invvar, other.invvar)
        assert np.array_equal(one.mask, other.mask)


def test_point_sources_are_where_the_wcs_says(tmp_path):
    """A hundredth of a pixel, on noiseless sources at any fraction of a pixel."""
    name, ra, dec = write_brick(tmp_path, *AT, side=1200, targets=40, noise=False, flux_nmgy=1000.0)
    apart = far_from_others(ra, dec)
    off = []
    for answer in np.array(read(tmp_path, name, ra, dec), dtype=object)[apart]:
        x, y = centroid(answer.image[1], answer.x_center_pix, answer.y_center_pix)
        off.append((x - answer.x_center_pix, y - answer.y_center_pix))
    assert len(off) > 15
    assert np.abs(off).max() < 0.01
    assert np.abs(np.asarray(off) + 0.02).max() > 0.01  # a shift of .02 pixel would be seen


def far_from_others(ra, dec):
    dx = (ra[:, None] - ra[None]) * np.cos(np.radians(dec))[None] * 3600
    dy = (dec[:, None] - dec[None]) * 3600
    distance = np.hypot(dx, dy) + 1e6 * np.eye(len(ra))
    return distance.min(axis=1) > 20.0


def centroid(image, x, y, radius=12):
    rows, columns = np.indices(image.shape)
    near = np.hypot(columns - x, rows - y) < radius
    return tuple((image * near * axis).sum() / (image * near).sum() for axis in (columns, rows))


def test_the_real_grid(mirror):
    names = brick_of(
        [59.1067, 95.95, 135.86, 359.999, 0.001, 0.0, 12.0], [-30.4848, 80.5, 29.75, 0, 0, 90, -90]
    )
    assert names.name[:3].tolist() == ["0591m305", "0959p805", "1358p297"]
    assert names.brickid[1:3].tolist() == [657438, 494902]
    assert names.brickid[-1] == 1
    assert names.brickid[-2] == 662174
    assert names.name[3] != names.name[4]


def test_a_position_off_the_sphere_is_named():
    with pytest.raises(DataError, match="position 1: is not on the sphere"):
        brick_of([1.0, 2.0], [3.0, 91.0])


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(without=["image-r"]), "missing_band"),
        (Fault(without=["invvar-z"]), "missing_band"),
        (Fault(without=["maskbits"]), "missing_map"),
        (Fault(without=["psfsize-g"]), "missing_map"),
        (Fault(without=["nexp-z"]), "missing_map"),
        (Fault(drversio=9011), "wrong_release"),
        (Fault(drversio=9010), "wrong_release"),
        (Fault(drversio=7), "wrong_release"),
    ],
)
def test_what_a_brick_lacks_is_a_code(tmp_path, fault, code):
    name, ra, dec = write_brick(tmp_path, *AT, side=SIDE, targets=3, fault=fault)
    assert read(tmp_path, name, ra, dec) == [code] * 3


def test_a_brick_that_is_not_there(mirror):
    root = mirror[0]
    assert read(root, "0001p000", [0.1], [0.0]) == ["no_brick"]


def test_targets_of_the_edge(mirror):
    """A stamp may be moved inside by two pixels, not by three; outside is outside."""
    root, name, *_ = mirror
    header = plane(path_of(root, name, "image-r"))[1]
    wcs = brick_wcs(header["CRVAL1"], header["CRVAL2"], SIDE)
    x = np.array([31.0, 30.0, 29.0, SIDE - 33.0, SIDE - 30.0, SIDE - 29.0, -5.0])
    ra, dec = wcs.pixel_to_world_values(x, np.full(x.size, 200.0))
    kinds = ["pixels" if isinstance(a, Cutout) else a for a in read(root, name, ra, dec)]
    assert kinds == ["pixels", "pixels", "brick_edge", "pixels", "pixels", "brick_edge", "brick_edge"]


@pytest.mark.parametrize("key", ["image-g", "invvar-r", "maskbits", "psfsize-z"])
@pytest.mark.parametrize("keep", [0, 2000, 0.5, 0.98])
def test_a_truncated_file_gives_no_pixels(tmp_path, key, keep):
    name, ra, dec = write_brick(tmp_path, *AT, side=SIDE, targets=2)
    path = path_of(tmp_path, name, key)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    assert read(tmp_path, name, ra, dec) == ["damaged_file"] * 2


def test_another_bricks_file_under_this_name_is_refused(tmp_path):
    name, ra, dec = write_brick(tmp_path, *AT, side=SIDE, targets=2)
    other, *_ = write_brick(tmp_path, 50.0, -30.0, side=SIDE)
    path_of(tmp_path, name, "image-z").write_bytes(path_of(tmp_path, other, "image-z").read_bytes())
    assert read(tmp_path, name, ra, dec) == ["damaged_file"] * 2


def test_planes_of_another_size_are_refused(tmp_path):
    name, ra, dec = write_brick(tmp_path, *AT, side=SIDE, targets=2)
    saved = path_of(tmp_path, name, "invvar-g").read_bytes()
    write_brick(tmp_path, *AT, side=SIDE + 50, targets=2)
    path_of(tmp_path, name, "invvar-g").write_bytes(saved)
    assert read(tmp_path, name, ra, dec) == ["damaged_file"] * 2


def test_i_is_read_where_asked(tmp_path):
    name, ra, dec = write_brick(tmp_path, *AT, side=SIDE, targets=2, bands="griz")
    (answer, _) = read(tmp_path, name, ra, dec, bands="griz")
    assert answer.image.shape[0] == 3
    assert answer.extra["i"].image.shape == answer.image.shape[1:]
    assert read(tmp_path, name, ra, dec)[0].extra == {}


def test_north_is_never_read_for_south(tmp_path):
    name, ra, dec = write_brick(tmp_path, *AT, side=SIDE, targets=1, region="north", drversio=9011)
    with pytest.raises(DataError, match="holds neither south/coadd nor coadd"):
        read(tmp_path, name, ra, dec)
    north = RELEASES["dr9-north"]
    assert isinstance(read(tmp_path, name, ra, dec, release=north)[0], Cutout)
    assert isinstance(read(tmp_path / "north", name, ra, dec, release=north)[0], Cutout)
    assert read(tmp_path / "north", name, ra, dec) == ["wrong_release"]


def test_a_root_that_is_no_place_says_so():
    with pytest.raises(ConfigError, match="is no place to read from"):
        read("gopher://somewhere/else", "0001p000", [0.1], [0.0])


@pytest.mark.parametrize("who", ["key:secret", "anonymous"])
def test_a_bucket_gives_what_a_folder_gives(mirror, who):
    root, name, ra, dec = mirror
    with bucket(root, who=who) as address:
        from_bucket = read(address, name, ra, dec)
        assert read(address, "0001p000", [0.1], [0.0]) == ["no_brick"]
    for one, other in zip(from_bucket, read(root, name, ra, dec), strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.mask, other.mask)


@pytest.mark.parametrize(
    ("refusal", "error", "code"), [("ExpiredToken", CredentialsExpired, 3), ("AccessDenied", DataError, 1)]
)
def test_a_bucket_that_refuses_stops_the_run(mirror, refusal, error, code):
    root, name, ra, dec = mirror
    with bucket(root, refusal=refusal) as address, pytest.raises(error) as caught:
        read(address, name, ra, dec)
    assert caught.value.exit_code == code
    assert "secret" not in str(caught.value)
