"""NPZ archives from anywhere, read without trust and without haste.

Nothing is unpickled, nothing is inflated beyond a bound, and a checksum that does not match is an error. Our
own archives (`write_npz`) are *stored*, since noise does not compress, with fixed dates, so that equal arrays
give equal bytes; they are read on a short path without the zipfile module. ``numpy.load`` opens them too.
"""

import functools
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

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

# The three records of a ZIP archive (PKWARE APPNOTE 6.3.9, sections 4.3.7, 4.3.12, 4.3.16).
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_ZIP64 = struct.Struct("<2H2Q")
_LARGE = 0xFFFFFFFF
_SIGNATURES = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")

_INFLATION: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its annotation is a string
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, _INFLATION, struct.error, EOFError, OSError,
    ValueError, TypeError, RuntimeError, SyntaxError, MemoryError, OverflowError,
)  # fmt: skip
"""What zipfile and numpy.lib.format raise on bytes that are not what they claim to be."""


def read_npz(blob: Blob | None, *, where: str) -> dict[str, NDArray[Any]]:
    """Every array of an NPZ blob, by name; read-only views where the bytes are stored as they are.

    Plain integers and floats only. Archives with more than MAX_MEMBERS arrays or MAX_INFLATED_BYTES are
    refused before they are inflated. Raises StampError naming `where`.
    """
    if blob is None:
        raise StampError(where, "has no bytes where a stamp should be")
    view = memoryview(blob).cast("B")
    if view[:2] == _GZIP:
        view = _gunzip(view, where)
    if len(view) > MAX_BLOB_BYTES:
        raise StampError(where, f"is {len(view)} bytes long, more than the {MAX_BLOB_BYTES} a stamp may have")
    try:
        arrays = _read_short(view)
    except _UNREADABLE:
        arrays = None  # not such a layout after all: the general reader says what is wrong with it
    return _read_any_layout(view, where) if arrays is None else arrays


def _gunzip(view: memoryview, where: str) -> memoryview:
    engine = isal_zlib.decompressobj(wbits=31)
    try:
        inflated = engine.decompress(view, MAX_BLOB_BYTES + 1)
    except _INFLATION as error:
        raise StampError(where, f"is not a gzip stream: {error}") from error
    if len(inflated) > MAX_BLOB_BYTES:
        raise StampError(where, f"inflates to more than the {MAX_BLOB_BYTES} bytes a stamp may have")
    if not engine.eof or engine.unused_data.strip(b"\0"):
        raise StampError(where, "is a gzip stream that ends too early or has bytes after its end")
    return memoryview(inflated)


def _read_short(view: memoryview) -> dict[str, NDArray[Any]] | None:
    """Arrays of an archive laid out as `write_npz` or NumPy does, checksums verified; None if it is other.

    Walks local headers and central directory side by side and wants them to agree, so it never reads an
    archive differently than zipfile would. Deflated members are inflated no further than they declare.
    """
    signature, *disks, count, size, central, comment = _END.unpack_from(view, max(len(view) - _END.size, 0))
    if signature != _SIGNATURES[2] or disks != [0, 0, count] or comment or count > MAX_MEMBERS:
        return None
    if central + size + _END.size != len(view):
        return None
    members: list[_Member] = []
    at, entry = 0, central
    for _ in range(count):
        member = _member(view, at, entry, central)
        if member is None:
            return None
        members.append(member)
        at, entry = member.end, member.next_entry
    if (at, entry) != (central, central + size) or sum(m.plain for m in members) > MAX_INFLATED_BYTES:
        return None
    arrays: dict[str, NDArray[Any]] = {}
    for member in members:
        payload = _payload(member)
        if payload is None or isal_zlib.crc32(payload) != member.checksum:
            return None
        arrays[member.name] = _read_npy(payload)
    return arrays if len(arrays) == count else None


class _Member(NamedTuple):
    """One array of an archive: its bytes as they lie there, and where the next one begins."""

    name: str
    packed: memoryview
    method: int
    plain: int
    checksum: int
    end: int
    next_entry: int


def _member(view: memoryview, at: int, entry: int, central: int) -> _Member | None:
    """The member whose local header is at `at` and whose directory entry is at `entry`, if they agree."""
    local, listed = _LOCAL.unpack_from(view, at), _CENTRAL.unpack_from(view, entry)
    _sig, _version, flags, method, _time, _date, checksum, packed, plain, name_size, extra = local
    told_packed, told_plain = listed[8], listed[9]
    if (local[0], listed[0]) != _SIGNATURES[:2] or listed[2:8] != local[1:7] or flags:
        return None
    name_end = at + _LOCAL.size + name_size
    start, end = name_end + extra, name_end + extra + told_packed
    next_entry = entry + _CENTRAL.size + name_size
    name = bytes(view[at + _LOCAL.size : name_end])
    if listed[10:13] != (name_size, 0, 0) or listed[16] != at or end > central or not name.endswith(b".npy"):
        return None
    if bytes(view[next_entry - name_size : next_entry]) != name:
        return None
    if (packed, plain) != (told_packed, told_plain) or extra:
        # NumPy leaves room for large members: the sizes stand in an extra field (section 4.5.3).
        sizes = (packed, plain, bytes(view[name_end:start]))
        if sizes != (_LARGE, _LARGE, _ZIP64.pack(1, 16, told_plain, told_packed)):
            return None
    return _Member(name[:-4].decode("ascii"), view[start:end], method, told_plain, checksum, end, next_entry)


def _payload(member: _Member) -> memoryview | None:
    """A member's bytes, as stored or inflated; None if they are not exactly as many as declared."""
    if member.method == zipfile.ZIP_STORED:
        return member.packed if len(member.packed) == member.plain else None
    if member.method != zipfile.ZIP_DEFLATED:
        return None
    engine = isal_zlib.decompressobj(wbits=-15)
    data = engine.decompress(member.packed, member.plain + 1)
    whole = len(data) == member.plain and engine.eof and not engine.unused_data
    return memoryview(data) if whole else None


def _read_any_layout(view: memoryview, where: str) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(view)) as archive:
            members = archive.infolist()
            _check_directory(members, where)
            for member in members:
                with archive.open(member) as stream:
                    # Asking for a number of bytes is what bounds the inflation of a member that lies.
                    payload = stream.read(member.file_size)
                if len(payload) != member.file_size:
                    raise zipfile.BadZipFile("an array is shorter than the archive declares")
                arrays[member.filename.removesuffix(".npy")] = _read_npy(memoryview(payload))
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise StampError(where, f"is not an NPZ archive we can read: {reason}") from error
    return arrays


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
    dtype, shape, order = _parse_npy_header(bytes(view[:size]))
    if prod(shape) * dtype.itemsize != len(view) - size:
        message = f"an array of shape {shape} does not have {len(view) - size} bytes"
        raise ValueError(message)
    return np.frombuffer(view, dtype=dtype, offset=size).reshape(shape, order=order)


@functools.lru_cache(maxsize=64)
def _parse_npy_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], Any]:
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
    return dtype, shape, "F" if fortran else "C"


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
