"""The image units of a FITS file, whole or not at all.

A file is trusted only where its own headers account for every byte: astropy pads what is missing and stops
without a word where it cannot go on. Declared sizes are compared with the bytes at hand before anything is
allocated, so a damaged header cannot ask for the memory of the machine.
"""

import io
import warnings
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from darkhaloscope.contracts.errors import DataError

BLOCK = 2880
MAX_PIXELS = 2**26
"""No cutout or coadd has more pixels in a unit: a compressed header that says so is damaged."""
_MAX_TRAILING = 10 * BLOCK

_MOST = {"NAXIS": 9, "ZNAXIS": 9, "TFIELDS": 999}
"""What no file of images or catalogue rows exceeds; 999 columns are the standard's own limit."""
_SOUND_UNITS = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU, fits.BinTableHDU, fits.TableHDU)
"""What astropy makes of a sound unit; what it cannot read becomes another kind, and goes unnoticed."""
HEADER_BYTES = 2**20
"""Every header of a survey file lies within the first of them."""

Unit = tuple[fits.Header, NDArray[Any]]


class NotFits(DataError):
    """Bytes that are something else, such as an error page."""


class Truncated(DataError):
    """A FITS file that ends before its headers say."""


def image_units(data: bytes, where: str) -> list[Unit]:
    """Header and pixels (any number of axes) of every unit that holds an image, in order.

    Raises NotFits, Truncated, or DataError for any other damage; never anything else.
    """
    if not data.startswith(b"SIMPLE  ="):
        problem = "is empty" if not data else f"is no FITS file: it begins with {bytes(data[:20])!r}"
        raise NotFits(where, problem)
    refuse_endless_headers(data, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(data), memmap=False, lazy_load_hdus=False) as units:
                _account_for_every_byte(units, data, where)
                return [(unit.header, _pixels(unit, where)) for unit in units if unit.is_image and unit.shape]
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(where, "declares an image larger than the memory") from error
    except Exception as error:  # a damaged header makes astropy and numpy raise nearly anything
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(where, f"is a damaged FITS file: {cause}") from error


def refuse_endless_headers(data: bytes, where: str) -> None:
    """Counts that a header may declare, before anything is built of them.

    astropy makes an object for every axis and column that a header declares: a damaged digit would have it
    fill the memory of the machine. `data` is a file, or as much of it as holds the headers.
    """
    for keyword, most in _MOST.items():
        card = f"{keyword:<8}= ".encode()
        place = data.find(card)
        while place >= 0:
            value = data[place + len(card) : place + 80].split(b"/")[0].strip()
            if place % 80 == 0 and not (value.isdigit() and len(value) < 20 and int(value) <= most):
                said = value[:20].decode("latin-1")
                raise DataError(where, f"declares {keyword} = {said}, no count from 0 to {most}")
            place = data.find(card, place + 1)


def _account_for_every_byte(units: fits.HDUList, data: bytes, where: str) -> None:
    end = 0
    for number, unit in enumerate(units):
        place = unit.fileinfo()
        begins = b"XTENSION=" if number else b"SIMPLE  ="
        # What is not at its place astropy skips over in search of something that looks like a header.
        sound = place is not None and place["hdrLoc"] == end and data.startswith(begins, end)
        if not sound or not isinstance(unit, _SOUND_UNITS):
            raise DataError(
                where, f"is a damaged FITS file: unit {number} does not begin where the last ends"
            )
        end = place["datLoc"] + place["datSpan"]
        if end > len(data):
            raise Truncated(where, f"is truncated: unit {number} ends at byte {end} of {len(data)}")
    rest = data[end:]
    if len(rest) > _MAX_TRAILING or rest.strip(b"\0 "):
        raise Truncated(where, f"is truncated or damaged: {len(rest)} bytes after the last unit are no unit")


def _pixels(unit: Any, where: str) -> NDArray[Any]:
    if int(np.prod(unit.shape, dtype=object)) > MAX_PIXELS:
        raise DataError(where, f"declares an image of {unit.shape} pixels, which no cutout has")
    for card in unit.header.cards:
        card.value  # noqa: B018 - a card that cannot be read raises here and not in some later look-up
    return np.array(unit.data)
