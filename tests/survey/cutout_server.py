"""A cutout service on loopback, over a mirror of coadds, that behaves as the sky viewer does, or as badly.

Native cutouts are cut by the viewer's own rule from every brick that the position touches; PSFs are Moffats;
mask bits come with the native answer only where `native_mask` says so, else with the resampled one. Faults
are given by target: a name of `FAULTS`, or ``name*n`` for the first n requests only.
"""

import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from darkhaloscope.survey.psf import moffat_kernel
from darkhaloscope.survey.release import PIXEL_SCALE_ARCSEC

FAULTS = (
    "truncated",
    "short",
    "html",
    "blank",
    "clipped",
    "500",
    "429",
    "reset",
    "slow",
    "other_release",
    "missing_band",
    "resampled",
    "no_overlap",
    "empty",
    "loop",
    "garbage",
)
PAGE = b"<!DOCTYPE html><html><body>The service is being maintained.</body></html>"


class Sky:
    """The bricks of a mirror in memory."""

    def __init__(
        self, root: Path, version: str = "DR10-south", bands: str = "grz", native_mask: bool = False
    ):
        self.version, self.bands, self.native_mask = version, bands, native_mask
        self.bricks = {}
        for path in sorted(root.glob("*/coadd/*/*/*-image-r.fits*")):
            name = path.parent.name
            planes = {}
            for file in path.parent.iterdir():
                key = file.name.removeprefix(f"legacysurvey-{name}-").split(".")[0]
                with fits.open(file) as units:
                    planes[key] = np.array(units[-1].data)
                    header = units[-1].header
            self.bricks[name] = (WCS(header, naxis=2), planes)

    def native(self, ra, dec, width, fault=None):
        units = [fits.PrimaryHDU()]
        units[0].header["IMAGETYP"] = "image"
        width = width // 2 if fault == "clipped" else width
        for name, (wcs, planes) in self.bricks.items():
            side = planes["image-r"].shape[0]
            x, y = (float(v) for v in wcs.wcs_world2pix(ra, dec, 1))
            starts = [int(np.round(v - width / 2)) - 1 for v in (x, y)]
            x0, y0 = (int(np.clip(s, 0, side - 1)) for s in starts)
            x1, y1 = (int(np.clip(s + width - 1, 0, side - 1)) for s in starts)
            if x0 == x1 or y0 == y1:
                continue
            box = slice(y0, y1 + 1), slice(x0, x1 + 1)
            header = self._header(wcs, x0, y0) | {"BRICK": name, "BRICK_X0": x0, "BRICK_Y0": y0}
            if fault == "other_release":
                header["VERSION"] = "DR9-north"
            for band in self.bands:
                if fault == "missing_band" and band == "r":
                    continue
                for kind in ("image", "invvar"):
                    pixels = planes[f"{kind}-{band}"][box] * (0.0 if fault == "blank" else 1.0)
                    units.append(_unit(pixels, header | {"BAND": band, "IMAGETYP": kind}))
            if self.native_mask:
                units.append(_unit(planes["maskbits"][box], header | {"IMAGETYP": "maskbits"}))
        return _bytes(units[:1] if fault == "empty" else units)

    def _header(self, wcs, x0, y0):
        crpix, crval = wcs.wcs.crpix, wcs.wcs.crval
        step = PIXEL_SCALE_ARCSEC / 3600
        return {
            "VERSION": self.version,
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CRVAL1": crval[0],
            "CRVAL2": crval[1],
            "CRPIX1": crpix[0] - x0,
            "CRPIX2": crpix[1] - y0,
            "CD1_1": -step,
            "CD1_2": 0.0,
            "CD2_1": 0.0,
            "CD2_2": step,
        }

    def resampled(self, ra, dec, width):
        """Centred on the position; nearest pixel, which is all that mask bits need."""
        name = min(self.bricks, key=lambda n: np.hypot(*(self.bricks[n][0].wcs.crval - [ra, dec])))
        wcs, planes = self.bricks[name]
        own = WCS(naxis=2)
        own.wcs.ctype, own.wcs.crval, own.wcs.crpix = (
            ["RA---TAN", "DEC--TAN"],
            [ra, dec],
            [(width + 1) / 2] * 2,
        )
        own.wcs.cd = wcs.wcs.cd
        rows, columns = np.indices((width, width))
        x, y = wcs.world_to_pixel_values(*own.pixel_to_world_values(columns, rows))
        x, y = (np.clip(np.rint(v).astype(int), 0, planes["image-r"].shape[0] - 1) for v in (x, y))
        header = self._header(own, 0, 0) | {"BANDS": self.bands}
        units = [
            _unit(
                np.stack([planes[f"{kind}-{band}"][y, x] for band in self.bands]),
                header | {"IMAGETYP": kind.upper()},
            )
            for kind in ("image", "invvar")
        ]
        units[0] = fits.PrimaryHDU(units[0].data, units[0].header)
        return _bytes([*units, _unit(planes["maskbits"][y, x], header | {"IMAGETYP": "MASKBITS"})])

    def psf(self):
        kernel = moffat_kernel(1.2, 3.0, pixel_scale=PIXEL_SCALE_ARCSEC, size=63).astype("f4")
        units = [_unit(kernel, {"BAND": band}) for band in self.bands]
        return _bytes([fits.PrimaryHDU(units[0].data, units[0].header), *units[1:]])


def _unit(pixels, cards):
    unit = fits.ImageHDU(pixels)
    for key, value in cards.items():
        unit.header[key] = value
    return unit


def _bytes(units):
    out = io.BytesIO()
    fits.HDUList(units).writeto(out)
    return out.getvalue()


class Service:
    """What the server knows: the sky, each target's fault, and how often it was asked for what."""

    def __init__(self, sky: Sky, faults: Mapping[str, str]):
        self.sky, self.faults, self.url = sky, faults, ""
        self.asked: Counter = Counter()
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    def fault(self, ra: str, path: str, count: int) -> str | None:
        name = self.faults.get(ra)
        if name is None or (path != "fits-cutout" and not name.startswith("psf:")):
            return None
        name, _, times = name.removeprefix("psf:").partition("*")
        return name if not times or count <= int(times) else None


class _Handler(BaseHTTPRequestHandler):
    service: Service
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Quiet."""

    def do_GET(self):
        service = self.service
        with service.lock:
            service.at_once += 1
            service.most_at_once = max(service.most_at_once, service.at_once)
        try:
            self._answer(service)
        finally:
            with service.lock:
                service.at_once -= 1

    def _answer(self, service):
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        path = url.path.strip("/")
        what = path if "subimage" in query or path != "fits-cutout" else "mask"
        with service.lock:
            service.asked[query["ra"], query["dec"], what] += 1
            count = service.asked[query["ra"], query["dec"], what]
        fault = service.fault(query["ra"], what, count)
        ra, dec, width = float(query["ra"]), float(query["dec"]), int(query.get("width", 0))
        if fault in ("500", "429", "no_overlap"):
            text = b"NoOverlapError: No overlap" if fault == "no_overlap" else b"Internal error"
            self._send(429 if fault == "429" else 500, text, {"Retry-After": "0"} if fault == "429" else {})
        elif fault == "html":
            self._send(200, PAGE)
        elif fault == "garbage":
            self._send(200, bytes(range(256)) * 60)
        elif fault == "loop":
            self._send(302, b"", {"Location": self.path})
        elif fault == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "slow":
            time.sleep(1.5)
            self._send(200, PAGE)
        elif what == "mask" or fault == "resampled":
            self._send(200, service.sky.resampled(ra, dec, width))
        elif what == "coadd-psf":
            self._send(200, service.sky.psf())
        else:
            body = service.sky.native(ra, dec, width, fault)
            if fault == "truncated":  # the length is announced, the body ends early
                self._send(200, body[: len(body) // 2], length=len(body))
            else:  # "short": the length agrees with a body that ends early
                self._send(200, body[: 2 * len(body) // 3] if fault == "short" else body)

    def _send(self, status, body, headers=(), length=None):
        try:
            self.send_response(status)
            for key, value in dict(headers).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)
            if length is not None:
                self.close_connection = True
        except OSError:
            self.close_connection = True


@contextmanager
def cutout_service(sky: Sky, faults: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Serve a sky; `faults` by the target's right ascension as it is asked for (8 decimals)."""
    service = Service(sky, dict(faults or {}))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"service": service}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
