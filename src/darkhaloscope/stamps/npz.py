"""NPZ archives from anywhere, read without trust and without haste.

Nothing is unpickled, nothing is inflated beyond a bound, and a checksum that does not match is an error. Our
own archives (`write_npz`) are *stored*, since noise does not compress, with fixed dates, so that equal arrays
give equal bytes; ``numpy.load`` opens them too. They, and what ``numpy.savez`` and ``numpy.savez_compressed``
write, are read on a short path without the zipfile module; zipfile reads every other archive.
"""

import functools
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple, cast

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import StampError

Blob = bytes | bytearray | memoryview

MAX_MEMBERS = 16
MAX_INFLATED_BYTES = 16 * 2**20  # three float32 bands of 1180 x 1180 pixels; a stamp is 48 KiB
MAX_BLOB_BYTES = MAX_INFLATED_BYTES + 2**16  # plus the headers
MAX_HEADER_BYTES = 1024

_GZIP = b"\x1f\x8b"
_ITEM_BYTES = {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "b": (1,)}

# The three records of a ZIP archive (PKWARE APPNOTE 6.3.9, sections 4.3.7, 4.3.12, 4.3.16); what a local
# header and its entry in the central directory share; and the extra field (4.5.3) in which numpy, to be ready
# for any size, puts the two sizes of a local header.
_LOCAL = struct.Struct("<4s14s2I2H")  # signature, shared, packed size, plain size, lengths of name and extra
_CENTRAL = struct.Struct("<4s2x14s2I3H8xI")  # the same, length of comment, where the local header is
_SHARED = struct.Struct("<3H4xI")  # version needed, flags, method, (time and date), checksum
_ZIP64 = struct.Struct("<2H2Q")  # tag, length, plain size, packed size
_END = struct.Struct("<4s4H2IH")
_LOCAL_SIGNATURE, _CENTRAL_SIGNATURE, _END_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_SIZES_IN_EXTRA = (0xFFFFFFFF, 0xFFFFFFFF)
_VERSIONS = (20, 45)  # needed to extract: ZIP64 or not
_STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_InflateError = cast("type[Exception]", isal_zlib.error)  # its stub takes the class for an instance

_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, _InflateError, struct.error, EOFError, OSError,
    ValueError, TypeError, RuntimeError, SyntaxError, MemoryError, OverflowError,
)  # fmt: skip
"""What zipfile, isal and numpy.lib.format raise on bytes that are not what they claim to be."""


def read_npz(blob: Blob | None, *, where: str) -> dict[str, NDArray[Any]]:
    """Every array of an NPZ blob, by name; read-only views where the bytes are stored as they are.

    Plain integers and floats only. Archives with more than MAX_MEMBERS arrays or MAX_INFLATED_BYTES are
    refused before they are inflated. Raises StampError naming `where`.
    """
    if blob is None:
        raise StampError(where, "has no bytes where a stamp should be")
    view = memoryview(blob).cast("B").toreadonly()
    if view[:2] == _GZIP:
        view = _gunzip(view, where)
    if len(view) > MAX_BLOB_BYTES:
        raise StampError(where, f"is {len(view)} bytes long, more than the {MAX_BLOB_BYTES} a stamp may have")
    try:
        arrays = _read_usual_layout(view)
    except _UNREADABLE:
        arrays = None  # not that layout after all: the general reader says what is wrong with it
    return _read_any_layout(view, where) if arrays is None else arrays


def _gunzip(view: memoryview, where: str) -> memoryview:
    engine = isal_zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        inflated = engine.decompress(view, MAX_BLOB_BYTES + 1)
    except _InflateError as error:
        raise StampError(where, f"is not a gzip stream: {error}") from error
    if len(inflated) > MAX_BLOB_BYTES:
        raise StampError(where, f"inflates to more than the {MAX_BLOB_BYTES} bytes a stamp may have")
    if not engine.eof or engine.unused_data.strip(b"\0"):
        raise StampError(where, "is a gzip stream that ends too early or has bytes after its end")
    return memoryview(inflated)


def _read_usual_layout(view: memoryview) -> dict[str, NDArray[Any]]:
    """Arrays of an archive laid out as `write_npz` and numpy do; raises one of _UNREADABLE on any other.

    Walks local headers and central directory side by side and wants them to agree and to fill the archive, so
    it never reads an archive differently than zipfile would.
    """
    signature, *disks, count, size, central, comment = _END.unpack_from(view, max(len(view) - _END.size, 0))
    _insist(signature == _END_SIGNATURE and disks == [0, 0, count] and count <= MAX_MEMBERS and not comment)
    at, entry = 0, central
    members = []
    for _ in range(count):
        members.append(member := _usual_member(view, at, entry))
        at, entry = member.end, member.next_entry
    _insist((at, entry, entry + _END.size) == (central, central + size, len(view)))
    _insist(sum(member.plain for member in members) <= MAX_INFLATED_BYTES)
    arrays = {member.key: _read_npy(_plain_bytes(view, member)) for member in members}
    _insist(len(arrays) == count)
    return arrays


def _insist(holds: bool) -> None:  # noqa: FBT001 - reads as a sentence where it is called
    if not holds:
        raise zipfile.BadZipFile


class _Member(NamedTuple):
    """Where a member's bytes lie, and what they are when inflated."""

    key: str
    start: int
    end: int
    next_entry: int
    method: int
    checksum: int
    plain: int


def _usual_member(view: memoryview, at: int, entry: int) -> _Member:
    """The member whose header is at `at`, and at `entry` in the central directory."""
    signature, shared, packed, plain, name_size, extra = _LOCAL.unpack_from(view, at)
    version, flags, method, checksum = _SHARED.unpack(shared)
    name_end, next_entry = at + _LOCAL.size + name_size, entry + _CENTRAL.size + name_size
    _insist(signature == _LOCAL_SIGNATURE and not flags)
    _insist(version in _VERSIONS and method in _STORED_OR_DEFLATED)
    if extra:
        _insist(extra == _ZIP64.size and (packed, plain) == _SIZES_IN_EXTRA)
        tag, length, plain, packed = _ZIP64.unpack_from(view, name_end)
        _insist((tag, length) == (1, 16))
    listed = _CENTRAL.unpack_from(view, entry)
    _insist(listed == (_CENTRAL_SIGNATURE, shared, packed, plain, name_size, 0, 0, at))
    name = bytes(view[name_end - name_size : name_end])
    key = name[:-4].decode("ascii")
    # A word holds neither a NUL, where zipfile ends a name, nor another record that zipfile might come upon.
    _insist(view[next_entry - name_size : next_entry] == name and name[-4:] == b".npy" and key.isidentifier())
    start = name_end + extra
    return _Member(key, start, start + packed, next_entry, method, checksum, plain)


def _plain_bytes(view: memoryview, member: _Member) -> memoryview:
    """What a member holds, of the size and with the checksum that it declares."""
    payload = view[member.start : member.end]
    if member.method == zipfile.ZIP_DEFLATED:
        engine = isal_zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        # One byte more than declared is enough to tell that there are more, and bounds what a lie can cost.
        payload = memoryview(engine.decompress(payload, member.plain + 1))
        _insist(engine.eof and not engine.unused_data)
    _insist(len(payload) == member.plain and isal_zlib.crc32(payload) == member.checksum)
    return payload


def _read_any_layout(view: memoryview, where: str) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(view)) as archive:
            members = archive.infolist()
            _check_directory(members, where)
            for member in members:
                arrays[member.filename.removesuffix(".npy")] = _read_npy(_payload(archive, member))
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise StampError(where, f"is not an NPZ archive we can read: {reason}") from error
    return arrays


def _payload(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> memoryview:
    """The bytes of a member, inflated to one byte beyond what it declares at most; BadZipFile if it lies."""
    declared = member.file_size
    member.file_size += 1  # else zipfile itself would cut off whatever is beyond, and check what is left
    with archive.open(member) as stream:
        payload = stream.read(declared + 1)
    if len(payload) != declared:
        message = f"a member does not hold the {declared} bytes that it declares"
        raise zipfile.BadZipFile(message)
    return memoryview(payload)


def _check_directory(members: list[zipfile.ZipInfo], where: str) -> None:
    """Refuse by what the archive declares, before any of it is inflated."""
    if len(members) > MAX_MEMBERS:
        raise StampError(where, f"holds {len(members)} arrays, more than the {MAX_MEMBERS} allowed")
    declared = sum(member.file_size for member in members)
    if declared > MAX_INFLATED_BYTES:
        raise StampError(where, f"declares {declared} bytes, more than the {MAX_INFLATED_BYTES} allowed")
    names = [member.filename for member in members]
    if len(set(names)) < len(names) or not all(name.endswith(".npy") for name in names):
        raise StampError(where, f"must hold distinct .npy members, not {', '.join(map(shown, names))}")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise StampError(where, f"{shown(member.filename)} is encrypted or packed other than by deflate")


def shown(name: str) -> str:
    """A foreign name as an error message may hold it: quoted, escaped, not too long."""
    return ascii(name[:40])


def _read_npy(view: memoryview) -> NDArray[Any]:
    """One array; a view of the bytes. ValueError if they are not exactly one plain array."""
    prefix = 12 if bytes(view[6:7]) == b"\x02" else 10  # version 2 has two more bytes for the length
    size = prefix + int.from_bytes(view[8:prefix], "little")
    if size > min(MAX_HEADER_BYTES, len(view)):
        message = "an array's header is too long or cut off"
        raise ValueError(message)
    dtype, shape, order, n_bytes = _parse_npy_header(bytes(view[:size]))
    if n_bytes != len(view) - size:
        message = f"an array of shape {shape} does not have {len(view) - size} bytes"
        raise ValueError(message)
    return np.ndarray(shape, dtype, view, size, None, order)


@functools.lru_cache(maxsize=64)
def _parse_npy_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], Any, int]:
    """Type, shape, order and how many bytes the array has."""
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        message = f"NPY version {version} is not one that plain arrays need"
        raise ValueError(message)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's remark on headers of Python 2, which it reads rightly
            shape, fortran, dtype = read(stream, max_header_size=MAX_HEADER_BYTES)
    except Exception as error:  # a header is Python source: hostile ones raise whatever the parser can
        message = f"an array's header is not one: {type(error).__name__}"
        raise ValueError(message) from error
    if dtype.hasobject:
        message = "it holds pickled objects, which are never loaded"
        raise ValueError(message)
    if dtype.itemsize not in _ITEM_BYTES.get(dtype.kind, ()) or not shape or min(shape) < 1:
        message = f"an array of type {dtype} and shape {shape} is not one of plain numbers"
        raise ValueError(message)
    return dtype, shape, "F" if fortran else "C", prod(shape) * dtype.itemsize


def write_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Plain arrays, by name, as a stored NPZ; equal arrays give equal bytes on any machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # else the bytes would tell which system wrote them
            archive.writestr(member, _npy_header(array.dtype.str, array.shape) + array.tobytes())
    return buffer.getvalue()


@functools.lru_cache(maxsize=64)
def _npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()
