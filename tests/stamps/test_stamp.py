"""The codec: every allowed form, every refusal; the crop; the stamp's own consistency."""

import contextlib
import gzip
import hashlib
import io
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from isal import isal_zlib

from darkhaloscope.contracts.errors import StampError
from darkhaloscope.stamps import npz
from darkhaloscope.stamps.frames import frame_of_length
from darkhaloscope.stamps.npz import MAX_BLOB_BYTES, MAX_INFLATED_BYTES, MAX_MEMBERS, read_npz, write_npz
from darkhaloscope.stamps.stamp import (
    BANDS,
    Stamp,
    crop,
    decode_mask,
    decode_planes,
    decode_stamp,
    encode_mask,
    encode_planes,
)
from darkhaloscope.survey.release import SAME_PIX

WHERE = "part-00003.parquet row 17"
CUBE = np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)

cubes = hnp.arrays(
    np.float32,
    st.tuples(st.just(3), st.integers(1, 9), st.integers(1, 9)),
    elements=st.floats(-1e6, 1e6, width=32, allow_nan=False),
)


def _savez(compressed=False, **arrays):
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def _planes(cube=CUBE, prefix="image"):
    return {f"{prefix}_{band}": plane for band, plane in zip(BANDS, cube, strict=True)}


def _zip(members, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, payload in members:
            archive.writestr(name, payload)
    return buffer.getvalue()


def _npy(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), **options)
    return buffer.getvalue()


def _with_header(blob, **change):
    """A copy whose first local and central headers declare something else (offsets from APPNOTE 4.3)."""
    data, central = bytearray(blob), blob.index(b"PK\x01\x02")
    for name, value in change.items():
        local_at, central_at, code = {
            "version": (4, 6, "<H"),
            "flags": (6, 8, "<H"),
            "method": (8, 10, "<H"),
            "crc": (14, 16, "<I"),
            "size": (22, 24, "<I"),
        }[name]
        if name == "size" and data[22:26] == b"\xff" * 4:
            local_at = data.index(struct.pack("<2H", 1, 16)) + 4  # in numpy's extra field
        struct.pack_into(code, data, local_at, value)
        struct.pack_into(code, data, central + central_at, value)
    return bytes(data)


def _with_bytes(blob, at, value):
    broken = bytearray(blob)
    broken[at % len(blob) : at % len(blob) + len(value)] = value
    return bytes(broken)


def _savez_deflated(**arrays):
    return _savez(compressed=True, **arrays)


def _zip_deflated(**arrays):
    return _zip([(f"{name}.npy", _npy(array)) for name, array in arrays.items()], zipfile.ZIP_DEFLATED)


FORMS = {
    "ours": lambda cube: encode_planes("image", cube),
    "stored": lambda cube: _savez(**_planes(cube)),
    "deflated": lambda cube: _savez(compressed=True, **_planes(cube)),
    "deflated by zipfile": lambda cube: _zip_deflated(**_planes(cube)),
    "gzip of ours": lambda cube: gzip.compress(encode_planes("image", cube)),
    "gzip of deflated": lambda cube: gzip.compress(_savez(compressed=True, **_planes(cube))),
    "legacy": lambda cube: _savez(img=cube),
    "legacy deflated in gzip": lambda cube: gzip.compress(_savez(compressed=True, img=cube)),
    "big-endian": lambda cube: _savez(**_planes(cube.astype(">f4"))),
    "float64": lambda cube: _savez(**_planes(cube.astype(np.float64))),
    "columns first": lambda cube: _savez(**_planes(np.asfortranarray(cube))),
    "other keys too": lambda cube: _savez(**_planes(cube), maskbits=np.zeros((2, 2), np.int32)),
}

# the round trip


@pytest.mark.parametrize("form", FORMS)
@given(cube=cubes)
@settings(max_examples=25, deadline=None)
def test_every_allowed_form_decodes_to_the_same_pixels(form, cube):
    cube = cube.copy()
    cube[:, 0, 0] = cube.max() + 1  # no plane is constant, unless it is a single pixel
    blob = FORMS[form](cube)
    if cube.shape[1:] == (1, 1):
        with pytest.raises(StampError, match="no usable band g, r, z"):
            decode_planes(blob, where=WHERE)
        return
    constant = [(plane == plane[0, 0]).all() for plane in cube]
    if any(constant):
        with pytest.raises(StampError, match="no usable band"):
            decode_planes(blob, where=WHERE)
        return
    found = decode_planes(blob, where=WHERE)
    assert found.dtype == np.float32
    assert np.array_equal(found, cube)
    image, bandset = decode_stamp(memoryview(blob), where=WHERE)
    assert np.array_equal(image, cube)
    assert bandset == "grz"


@given(cubes)
@settings(max_examples=50, deadline=None)
def test_planes_that_are_no_image_may_be_constant(cube):
    assert np.array_equal(decode_planes(encode_planes("arc", cube), "arc", where=WHERE), cube)


@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_masks_come_back(mask):
    assert np.array_equal(decode_mask(encode_mask(mask), where=WHERE), mask)
    assert np.array_equal(
        decode_mask(_savez(compressed=True, maskbits=mask.astype(np.int64)), where=WHERE), mask
    )


def test_numpy_opens_what_we_write():
    with np.load(io.BytesIO(encode_planes("image", CUBE))) as archive:
        assert archive.files == ["image_g", "image_r", "image_z"]
        assert np.array_equal(archive["image_r"], CUBE[1])
        assert archive["image_r"].dtype == np.float32


def test_equal_arrays_give_equal_bytes_on_every_machine():
    cube = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    blob = encode_planes("image", cube)
    assert encode_planes("image", np.asfortranarray(cube.astype(np.float64))) == blob
    assert hashlib.sha256(blob).hexdigest()[:16] == "1d5cf363a95a1176"


def test_a_damaged_deflated_blob_is_refused_wherever_it_is_cut_or_changed():
    blob = _savez(compressed=True, **_planes())
    for at in range(0, len(blob), 97):
        with pytest.raises(StampError):
            decode_planes(blob[:at], where=WHERE)
    start = blob.index(b"image_g.npy") + 11 + 20
    refused = 0
    for at in range(start, start + 600, 7):
        broken = _with_bytes(blob, at, bytes([blob[at] ^ 0x10]))
        with pytest.raises(StampError):
            decode_planes(broken, where=WHERE)
        refused += 1
    assert refused > 80


@pytest.mark.parametrize("off", [-1, 1, 4096])
def test_a_member_that_inflates_to_another_size_than_it_declares_is_refused(off):
    blob = _savez(compressed=True, **_planes())
    plain = CUBE[0].nbytes + 128
    lie = struct.pack("<Q", plain + off)
    in_extra = blob.index(struct.pack("<Q", plain))
    central = blob.index(b"PK\x01\x02") + 24
    with pytest.raises(StampError):
        decode_planes(_with_bytes(_with_bytes(blob, in_extra, lie), central, lie[:4]), where=WHERE)


@given(st.integers(4, 90), st.integers(0, 2**32 - 1), st.sampled_from(["image", "invvar", "arc", "psf"]))
@settings(max_examples=60, deadline=None)
def test_the_frame_of_a_size_reads_what_the_general_reader_does(side, seed, prefix):
    cube = np.random.default_rng(seed).normal(size=(3, side, side)).astype("f4")
    blob = encode_planes(prefix, cube)
    frame = frame_of_length(prefix, len(blob))
    assert frame is not None
    assert frame.fits(memoryview(blob))
    assert np.array_equal(decode_planes(blob, prefix, where=WHERE), cube)
    read = npz.read_npz(blob, where=WHERE)
    assert all(
        np.array_equal(read[f"{prefix}_{band}"], plane) for band, plane in zip("grz", cube, strict=True)
    )


def test_a_frame_takes_no_blob_with_another_name_header_or_checksum():
    blob = encode_planes("image", CUBE)
    frame = frame_of_length("image", len(blob))
    assert not frame.fits(memoryview(encode_planes("invvar", CUBE)[: len(blob)]))
    other = frame.fixed[0].start + 3
    assert not frame.fits(memoryview(_with_bytes(blob, other, b"x")))
    local, listed = frame.checksums[1]
    assert not frame.fits(memoryview(_with_bytes(blob, local, b"xxxx")))
    both = _with_bytes(_with_bytes(blob, local, b"xxxx"), listed, b"xxxx")
    assert frame.fits(memoryview(both))
    assert not frame.copy(memoryview(both), frame.told(memoryview(both)), np.empty(CUBE.shape, "f4"))
    with pytest.raises(StampError):
        decode_planes(both, where=WHERE)


USUAL = ["ours", "stored", "deflated", "deflated by zipfile"]


def _without_zipfile(blob):
    """What the short path reads, None if it leaves the archive to zipfile."""
    try:
        return npz._read_usual_layout(memoryview(blob))
    except npz._UNREADABLE:
        return None


def _same(found, expected):
    return list(found) == list(expected) and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array, equal_nan=True)
        for name, array in expected.items()
    )


def test_usual_archives_are_read_without_zipfile_and_others_with_it(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError

    usual = [FORMS[form](CUBE) for form in USUAL]
    other = _savez(**_planes(), **{"two words": CUBE})
    monkeypatch.setattr(npz.zipfile, "ZipFile", refuse)
    for blob in usual:
        assert np.array_equal(decode_planes(blob, where=WHERE), CUBE)
    with pytest.raises(AssertionError):
        decode_planes(other, where=WHERE)


plain_arrays = hnp.arrays(
    st.sampled_from(["<f2", "<f4", ">f4", "<f8", "|b1", "|u1", "<i4", ">i8"]),
    hnp.array_shapes(max_dims=3, max_side=5),
)


@pytest.mark.parametrize(
    "write", [_savez, _savez_deflated, _zip_deflated, lambda **arrays: write_npz(arrays)]
)
@given(arrays=st.dictionaries(st.sampled_from(["img", "image_g", "arr_0", "m"]), plain_arrays, max_size=4))
@settings(max_examples=50, deadline=None)
def test_the_short_path_and_zipfile_read_the_same(write, arrays):
    blob = write(**arrays)
    found = _without_zipfile(blob)
    assert _same(found, arrays)
    assert _same(found, npz._read_any_layout(memoryview(blob), WHERE))


def _to_a_pipe(members):
    """What zipfile writes where it cannot go back: sizes and checksums follow the data (flag 8)."""

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def tell(self):
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, payload in members:
            archive.writestr(name, payload)
    return pipe.getvalue()


def _packed_as(finish, tail=b""):
    """An archive of one deflated array whose packed bytes end in their own way."""
    engine, payload = zlib.compressobj(wbits=-15), _npy(CUBE)
    packed = engine.compress(payload) + engine.flush(finish) + tail
    return _with_header(
        _zip([("img.npy", packed)]), method=zipfile.ZIP_DEFLATED, size=len(payload), crc=zlib.crc32(payload)
    )


UNUSUAL = {
    "sizes after the data": lambda: _to_a_pipe([("img.npy", _npy(CUBE))]),
    "a comment": lambda: write_npz({"img": CUBE})[:-2] + b"\5\0hello",
    "a comment cut off": lambda: write_npz({"img": CUBE})[:-2] + b"\5\0",
    "bytes before": lambda: b"#!/bin/sh\n" + write_npz({"img": CUBE}),
    "another disk": lambda: _with_bytes(write_npz({"img": CUBE}), -18, b"\1"),
    "a name that ends early": lambda: write_npz({"img_npy_x": CUBE}).replace(b"img_npy_x", b"img.npy\0x"),
    "a stream without an end": lambda: _packed_as(zlib.Z_SYNC_FLUSH),
    "bytes after the stream": lambda: _packed_as(zlib.Z_FINISH, b"tail"),
}


def test_a_stream_that_ends_where_it_should_is_not_unusual():
    assert _same(_without_zipfile(_packed_as(zlib.Z_FINISH)), {"img": CUBE})


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_archives_are_left_to_zipfile(kind):
    blob = UNUSUAL[kind]()
    assert _without_zipfile(blob) is None
    assert _same(read_npz(blob, where=WHERE), {"img": CUBE})


@given(st.sampled_from(USUAL), st.data())
@settings(max_examples=600, deadline=None)
def test_what_the_short_path_makes_of_a_changed_archive_so_does_zipfile(form, data):
    blob = bytearray(FORMS[form](CUBE[:, :4, :5]))
    heads = [at for at in range(len(blob)) if blob[at : at + 2] == b"PK"]
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.sampled_from(heads)) + data.draw(st.integers(0, 75))
        blob[min(at, len(blob) - 1)] = data.draw(st.integers(0, 255))
    found = _without_zipfile(blob)
    if found is not None:
        assert _same(found, npz._read_any_layout(memoryview(blob), WHERE))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_stored_arrays_are_read_only_views(kind):
    blob = kind(encode_planes("image", CUBE))
    for plane in read_npz(blob, where=WHERE).values():
        assert np.shares_memory(plane, np.frombuffer(blob, np.uint8))
        assert not plane.flags.writeable


def test_decoded_pixels_are_a_writable_copy():
    blob = encode_planes("image", CUBE)
    decode_planes(blob, where=WHERE)[:] = 0
    decode_mask(encode_mask(np.ones((4, 4), np.int32)), where=WHERE)[:] = 0
    assert np.array_equal(decode_planes(blob, where=WHERE), CUBE)


# bands that are not there


def test_a_stamp_of_one_band_says_so_and_is_refused_unless_asked_for():
    blob = _savez(img=CUBE[0])
    with pytest.raises(StampError, match="no usable band g, z"):
        decode_stamp(blob, where=WHERE)
    with pytest.raises(StampError, match="no usable band g, z"):
        decode_planes(blob, where=WHERE)
    image, bandset = decode_stamp(blob, where=WHERE, allow_missing=True)
    assert bandset == "r"
    assert np.array_equal(image[1], CUBE[0])
    assert np.isnan(image[[0, 2]]).all()


@pytest.mark.parametrize("value", [0.0, 3.5, np.nan])
@pytest.mark.parametrize("form", ["ours", "deflated", "legacy"])
def test_a_constant_band_counts_as_missing(value, form):
    cube = CUBE.copy()
    cube[2] = value
    blob = FORMS[form](cube)
    with pytest.raises(StampError, match="no usable band z"):
        decode_stamp(blob, where=WHERE)
    image, bandset = decode_stamp(blob, where=WHERE, allow_missing=True, require_finite=True)
    assert bandset == "gr"
    assert np.isnan(image[2]).all()


def test_a_band_constant_in_its_first_row_only_is_there():
    cube = CUBE.copy()
    cube[0, 0] = 0.0
    cube[1, 0] = np.nan
    assert decode_stamp(encode_planes("image", cube), where=WHERE)[1] == "grz"


def test_two_bands_are_not_a_stamp():
    arrays = _planes()
    del arrays["image_g"]
    with pytest.raises(StampError, match="no usable band g"):
        decode_stamp(_savez(**arrays), where=WHERE)
    with pytest.raises(StampError, match="no usable band g of 'invvar'"):
        decode_planes(_savez(invvar_r=CUBE[0], invvar_z=CUBE[0]), "invvar", where=WHERE)
    with pytest.raises(StampError, match="no usable band g, r, z"):
        decode_stamp(encode_planes("image", np.zeros((3, 8, 8), np.float32)), where=WHERE, allow_missing=True)


def test_nan_passes_unless_finite_pixels_are_asked_for():
    cube = CUBE.copy()
    cube[1, 5, 5], cube[2, 6, 6] = np.nan, np.inf
    blob = encode_planes("image", cube)
    assert np.isnan(decode_planes(blob, where=WHERE)[1, 5, 5])
    for decode in (decode_planes, decode_stamp):
        with pytest.raises(StampError, match="2 pixels that are NaN or infinite"):
            decode(blob, where=WHERE, require_finite=True)


# refusals


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def _lying_header(shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


REFUSED = {
    "nothing": (None, "no bytes"),
    "empty": (b"", "not an NPZ archive"),
    "text": (b"hello, this is not a stamp at all" * 3, "not an NPZ archive"),
    "bare npy": (_npy(CUBE), "not an NPZ archive"),
    "pickle": (pickle.dumps({"image_g": 1}), "not an NPZ archive"),
    "object array": (
        _zip([("image_g.npy", _npy(np.array([_Trap()], dtype=object), allow_pickle=True))]),
        "pickled objects",
    ),
    "object array in gzip": (
        gzip.compress(_zip([("img.npy", _npy(np.array([_Trap()], dtype=object), allow_pickle=True))])),
        "pickled objects",
    ),
    "structured": (_savez(img=np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])), "not one of plain numbers"),
    "complex": (_savez(img=CUBE.astype(complex)), "not one of plain numbers"),
    "text array": (_savez(img=np.array(["a", "b"])), "not one of plain numbers"),
    "date array": (_savez(img=np.array(["2020-01-01"], dtype="M8[D]")), "not one of plain numbers"),
    "integers": (_savez(**_planes((CUBE * 10).astype(np.int32))), "must hold 'image' as floats"),
    "scalar": (_savez(img=np.float32(1)), "not one of plain numbers"),
    "no pixels": (_savez(img=np.zeros((3, 0, 5), np.float32)), "not one of plain numbers"),
    "channels last": (_savez(img=np.moveaxis(CUBE, 0, -1)), "must be (3, y, x) or (y, x)"),
    "two bands in one": (_savez(img=CUBE[:2]), "must be (3, y, x) or (y, x)"),
    "one axis": (_savez(**_planes(CUBE[:, 0])), "must hold 'image' as floats"),
    "two sizes": (_savez(image_g=CUBE[0], image_r=CUBE[1, :5], image_z=CUBE[2]), "of one size"),
    "wrong keys": (_savez(flux_g=CUBE[0]), "holds none of image_g, image_r, image_z (it holds 'flux_g'"),
    "no members": (_zip([]), "holds none of"),
    "too many members": (
        _savez(**{f"a{i}": np.zeros(1) for i in range(MAX_MEMBERS + 1)}),
        f"{MAX_MEMBERS + 1} arrays",
    ),
    "not an array": (_zip([("image_g.npy", _npy(CUBE[0])), ("readme.txt", b"hi")]), "distinct .npy members"),
    "a name of many lines": (_zip([("a\n" * 999, b"")]), "distinct .npy members, not 'a\\na"),
    "a key of many lines": (_savez(**{"a\n" * 999: CUBE}), "it holds 'a\\na"),
    "bzip2": (_zip([("img.npy", _npy(CUBE))], zipfile.ZIP_BZIP2), "packed other than by deflate"),
    "said to be bzip2": (_with_header(write_npz({"img": CUBE}), method=12), "packed other than by deflate"),
    "of a later version": (_with_header(write_npz({"img": CUBE}), version=99), "zip file version 9.9"),
    "encrypted": (_with_header(encode_planes("image", CUBE), flags=1), "encrypted"),
    "too large for float32": (_savez(**_planes(CUBE.astype(np.float64) * 1e60)), "too large for float32"),
    "bytes after the array": (_zip([("img.npy", _npy(CUBE) + b"\0")]), "does not have"),
    "shape beyond the bytes": (
        _zip([("img.npy", _lying_header((3, 4096, 4096)) + b"\0" * 64)]),
        "does not have",
    ),
    "negative shape": (_zip([("img.npy", _lying_header((-3, -64, 64)) + b"\0" * 64)]), "plain numbers"),
    "long header": (_zip([("img.npy", b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535)]), "header is too long"),
    "deep header": (_zip([("img.npy", b"\x93NUMPY\x01\x00\xf0\x03" + b"-" * 1008)]), "not an NPZ archive"),
    "version 3": (_zip([("img.npy", b"\x93NUMPY\x03\x00\x10\x00\x00\x00" + b" " * 64)]), "NPY version"),
    "gzip cut off": (gzip.compress(encode_planes("image", CUBE))[:-9], "ends too early"),
    "gzip with a tail": (gzip.compress(encode_planes("image", CUBE)) + b"tail", "bytes after its end"),
    "gzip of rubbish": (b"\x1f\x8b" + b"rubbish" * 10, "not a gzip stream"),
    "gzip in gzip": (gzip.compress(gzip.compress(encode_planes("image", CUBE))), "not an NPZ archive"),
    "very long": (b"PK\x03\x04" + b"\0" * MAX_BLOB_BYTES, "bytes long, more than"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused_in_one_sentence_that_names_the_place(fault):
    blob, problem = REFUSED[fault]
    with pytest.raises(StampError) as caught:
        decode_stamp(blob, where=WHERE)
    message = str(caught.value)
    assert message.startswith(WHERE)
    assert problem in message
    assert "\n" not in message
    assert len(message) < 300


def _peak_mb(blob):
    tracemalloc.start()
    with pytest.raises(StampError) as caught:
        decode_stamp(blob, where=WHERE)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak, str(caught.value)


BOMB = _lying_header((3, 5000, 5000)) + bytes(3 * 5000 * 5000 * 4)  # 286 MiB, deflates to 0.3


def test_a_deflated_bomb_is_refused_by_what_it_declares():
    blob = _zip([("img.npy", BOMB)], zipfile.ZIP_DEFLATED)
    assert len(blob) < 2**20
    peak, message = _peak_mb(blob)
    assert "declares" in message
    assert peak < 2


def test_a_bomb_of_many_members_is_refused_by_their_sum():
    each = _lying_header((1200, 1200)) + bytes(1200 * 1200 * 4)
    peak, message = _peak_mb(_zip([(f"image_{i}.npy", each) for i in range(4)], zipfile.ZIP_DEFLATED))
    assert "declares" in message
    assert peak < 2


@pytest.mark.parametrize("write", [_savez_deflated, _zip_deflated])
def test_a_bomb_that_lies_about_its_size_is_inflated_no_further_than_it_claims(write):
    lying = _with_header(write(img=np.zeros((3, 5000, 5000), np.float32)), size=49_280)
    members = npz._usual_member(memoryview(lying), 0, lying.index(b"PK\x01\x02"))
    assert members.plain == 49_280  # it is the inflation that finds the lie, not a header that disagrees
    peak, message = _peak_mb(lying)
    assert peak < 2
    assert "Bad CRC-32" in message


def test_the_peak_would_show_a_bomb_that_goes_off():
    packed = zlib.compress(BOMB)
    tracemalloc.start()
    isal_zlib.decompress(packed)
    assert tracemalloc.get_traced_memory()[1] > len(BOMB)
    tracemalloc.stop()


MEMBER = _npy(CUBE)
LIES = {
    "the truth": (MEMBER, len(MEMBER), MEMBER, True),
    "another checksum": (MEMBER, len(MEMBER), MEMBER[1:], False),
    "more than declared": (MEMBER + b"more", len(MEMBER), MEMBER + b"more", False),
    "more, checksum of what is declared": (MEMBER + b"m", len(MEMBER), MEMBER, False),
    "less than declared": (MEMBER, len(MEMBER) + 4, MEMBER, False),
    "less, checksum of what is declared": (MEMBER, len(MEMBER) + 4, MEMBER + bytes(4), False),
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("lie", LIES)
def test_a_member_is_as_long_as_it_declares_and_of_its_checksum_or_refused_on_both_paths(lie, method):
    payload, size, summed, honest = LIES[lie]
    blob = _with_header(_zip([("img.npy", payload)], method), size=size, crc=zlib.crc32(summed))
    assert (_without_zipfile(blob) is not None) == honest
    if honest:
        assert np.array_equal(decode_planes(blob, where=WHERE), CUBE)
        return
    with pytest.raises(StampError, match="not an NPZ archive"):
        npz._read_any_layout(memoryview(blob), WHERE)
    with pytest.raises(StampError, match="not an NPZ archive"):
        decode_planes(blob, where=WHERE)


def test_zipfile_alone_would_have_taken_a_member_longer_than_declared():
    payload, size, summed, _ = LIES["more, checksum of what is declared"]
    blob = _with_header(_zip([("img.npy", payload)], zipfile.ZIP_DEFLATED), size=size, crc=zlib.crc32(summed))
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        assert archive.read("img.npy") == MEMBER


@pytest.mark.parametrize("form", ["stored", "deflated", "deflated by zipfile"])
def test_a_changed_checksum_of_a_foreign_archive_is_found(form):
    blob = FORMS[form](CUBE)
    declared = struct.unpack_from("<I", blob, 14)[0]
    assert _with_header(blob, crc=declared) == blob
    with pytest.raises(StampError, match="Bad CRC-32"):
        decode_planes(_with_header(blob, crc=declared ^ 1), where=WHERE)


@pytest.mark.parametrize("at", range(-8, 0))
def test_the_checksum_and_the_length_of_a_gzip_stream_count(at):
    blob = bytearray(gzip.compress(encode_planes("image", CUBE)))
    assert np.array_equal(decode_planes(blob, where=WHERE), CUBE)
    blob[at] ^= 4
    with pytest.raises(StampError, match="gzip stream"):
        decode_planes(blob, where=WHERE)


@pytest.mark.parametrize("payload", [BOMB, _zip([("img.npy", BOMB)])])
def test_a_gzip_bomb_is_inflated_to_the_bound_and_no_further(payload):
    peak, message = _peak_mb(gzip.compress(payload))
    assert "inflates to more than" in message
    assert peak < 3 * MAX_INFLATED_BYTES / 2**20


@pytest.mark.parametrize("form", [*USUAL, "gzip of ours"])
def test_a_truncated_blob_is_refused_wherever_it_ends(form):
    blob = FORMS[form](CUBE)
    for end in [*range(40), *range(40, len(blob) - 1, 97), *range(len(blob) - 40, len(blob) - 1)]:
        with pytest.raises(StampError):
            decode_stamp(blob[:end], where=WHERE)


@pytest.mark.parametrize("form", [*USUAL, "gzip of ours"])
def test_a_flipped_bit_among_the_pixels_is_found_by_the_checksum(form):
    blob = FORMS[form](CUBE)
    for at in range(200, len(blob) - 600, 3001):
        broken = bytearray(blob)
        broken[at] ^= 4
        with pytest.raises(StampError):
            decode_stamp(broken, where=WHERE)


@given(st.sampled_from(sorted(FORMS)), st.data())
@settings(max_examples=400, deadline=None)
def test_any_change_of_bytes_gives_pixels_or_a_stamp_error(form, data):
    blob = bytearray(FORMS[form](CUBE[:, :4, :5]))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    message = None
    try:
        image, _ = decode_stamp(blob, where=WHERE, allow_missing=True)
    except StampError as error:
        message = str(error)
    if message is None:
        assert image.shape[0] == 3
    else:
        assert message.startswith(WHERE)
        assert "\n" not in message


literals = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["<f4", "|O", "V3", "", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from(["names", "formats", "a"]), inner, max_size=2)
    ),
    max_leaves=6,
)
headers = st.fixed_dictionaries({"descr": literals, "fortran_order": literals, "shape": literals})


@given(st.binary(max_size=200) | headers.map(lambda header: repr(header).encode()))
@settings(max_examples=400, deadline=None)
def test_any_header_gives_an_array_or_a_stamp_error(header):
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4)
    with contextlib.suppress(StampError):
        assert read_npz(_zip([("img.npy", member)]), where=WHERE)["img"].nbytes == 4


@pytest.mark.parametrize("form", USUAL)
def test_the_short_path_takes_only_archives_whose_two_directories_agree(form):
    blob = FORMS[form](CUBE)
    central = blob.index(b"PK\x01\x02")
    for at in (0, 4, 6, 8, 14, 18, 22, 26, 28, central, len(blob) - 12):
        assert _without_zipfile(_with_bytes(blob, at, b"\x07")) is None
    for at in (6, 8, 10, 16, 20, 24, 28, 30, 32, 42):
        assert _without_zipfile(_with_bytes(blob, central + at, b"\x07")) is None
    renamed = _with_bytes(blob, central + 46, b"image_q")
    assert _without_zipfile(renamed) is None
    with pytest.raises(StampError):
        decode_planes(renamed, where=WHERE)
    assert _without_zipfile(blob) is not None


def test_an_extra_field_other_than_of_the_two_sizes_is_left_to_zipfile():
    blob = FORMS["deflated"](CUBE)
    extra = blob.index(struct.pack("<2H", 1, 16))
    for at in (0, 2, 4, 12):
        changed = _with_bytes(blob, extra + at, b"\x07")
        assert _without_zipfile(changed) is None
        assert np.array_equal(
            decode_planes(changed, where=WHERE), CUBE
        )  # zipfile goes by the directory alone


def test_one_name_twice_is_refused_on_both_paths():
    with pytest.warns(UserWarning, match="Duplicate"):
        blob = _zip([("img.npy", _npy(CUBE)), ("img.npy", _npy(CUBE + 1))])
    with pytest.raises(StampError, match="distinct"):
        decode_planes(blob, where=WHERE)


def test_checksums_are_those_of_the_zip_standard():
    blob = write_npz({"img": CUBE})
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        assert archive.testzip() is None
        assert zlib.crc32(archive.read("img.npy")) == archive.infolist()[0].CRC


def test_only_three_bands_of_floats_are_stored():
    for bad in (CUBE[0], CUBE[:2], CUBE.astype(np.int32)):
        with pytest.raises(StampError, match="to be stored"):
            encode_planes("image", bad)
    for bad in (CUBE, CUBE[0]):
        with pytest.raises(StampError, match="to be stored"):
            encode_mask(bad)


def test_masks_refuse_floats_and_numbers_beyond_32_bits():
    for bad in (
        _savez(maskbits=CUBE[0]),
        _savez(other=np.ones((2, 2), int)),
        _savez(maskbits=np.ones(3, int)),
    ):
        with pytest.raises(StampError, match="maskbits"):
            decode_mask(bad, where=WHERE)
    with pytest.raises(StampError, match="32 bits"):
        decode_mask(_savez(maskbits=np.full((2, 2), 2**40)), where=WHERE)


# the crop


@given(
    st.integers(64, 101),
    st.integers(64, 101),
    st.sampled_from([64, 63]),
    st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5),
)
@settings(deadline=None)
def test_a_crop_moves_no_pixel_against_the_centre(height, width, size, dx, dy):
    x, y = (width - 1) / 2 + dx, (height - 1) / 2 + dy
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)))  # each pixel holds its own x and y
    cut, x_new, y_new = crop(grid, size, x, y)
    assert cut.shape == (2, size, size)
    assert np.allclose(cut[0, 0], np.arange(size) + x - x_new)
    assert np.allclose(cut[1, :, 0], np.arange(size) + y - y_new)
    if height > size + 1 and width > size + 1:
        assert abs(x_new - (size - 1) / 2) <= 0.5 + SAME_PIX
        assert abs(y_new - (size - 1) / 2) <= 0.5 + SAME_PIX


def test_a_target_on_a_pixel_centre_ends_on_half_the_size():
    _, x, y = crop(np.zeros((3, 101, 101)), 64, 50.0, 50.0)
    assert (x, y) == (32.0, 32.0)
    _, x, y = crop(np.zeros((3, 100, 100)), 64, 49.5, 49.5)
    assert (x, y) == (31.5, 31.5)
    _, x, y = crop(np.zeros((3, 64, 64)), 64, 31.0, 32.0)  # nothing to move: the whole, its own centre
    assert (x, y) == (31.0, 32.0)


def test_a_crop_does_not_keep_the_cutout_alive():
    cutout = np.zeros((3, 101, 101))
    cut, _, _ = crop(cutout, 64, 50.0, 50.0)
    assert cut.base is None
    assert not np.shares_memory(cut, cutout)


@pytest.mark.parametrize(
    ("shape", "x", "problem"),
    [
        ((3, 63, 64), 31.5, "smaller than the 64"),
        ((3, 80, 80), 10.0, "leaves"),
        ((3, 80, 80), np.nan, "not a number"),
    ],
)
def test_a_crop_that_cannot_be_is_refused(shape, x, problem):
    with pytest.raises(StampError, match=problem) as caught:
        crop(np.zeros(shape), 64, x, x, where="cutout.fits")
    assert str(caught.value).startswith("cutout.fits")


# the stamp


def _stamp(**change):
    kernel = np.zeros((3, 5, 5), np.float32)
    kernel[:, 2, 2] = 1.0
    parts = {
        "image": CUBE,
        "invvar": np.ones_like(CUBE),
        "mask": np.zeros((64, 64), np.int32),
        "psf": kernel,
        "x_center_pix": 31.5,
        "y_center_pix": 32.0,
        "pixel_scale_arcsec": 0.262,
    }
    return Stamp(**(parts | change))


def test_a_stamp_goes_into_a_row_and_comes_back():
    stamp = _stamp()
    found = Stamp.from_row(stamp.to_row(), where=WHERE)
    for name in ("image", "invvar", "mask", "psf"):
        assert np.array_equal(getattr(found, name), getattr(stamp, name))
        assert getattr(found, name).dtype == getattr(stamp, name).dtype
    assert (found.x_center_pix, found.y_center_pix, found.pixel_scale_arcsec) == (31.5, 32.0, 0.262)
    assert found.where == WHERE


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image": CUBE[0]}, "must be (3, y, x)"),
        ({"invvar": CUBE[:, :5]}, "do not fit"),
        ({"mask": np.zeros((5, 5), np.int32)}, "do not fit"),
        ({"psf": np.full((3, 4, 4), 1 / 16, np.float32)}, "k odd"),
        ({"psf": np.full((3, 5, 5), 1.0, np.float32)}, "sum to 1"),
        ({"psf": np.full((3, 5, 5), np.nan, np.float32)}, "sum to 1"),
        ({"x_center_pix": 64.0}, "lie on the stamp"),
        ({"y_center_pix": float("nan")}, "lie on the stamp"),
        ({"pixel_scale_arcsec": 0.0}, "positive"),
    ],
)
def test_parts_that_do_not_fit_are_no_stamp(change, problem):
    with pytest.raises(StampError) as caught:
        _stamp(**change, where=WHERE)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(WHERE)
