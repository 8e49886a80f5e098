"""Reading stamps: our reader against numpy.load, interleaved in one process, checksums on.

python -m benchmarks.decode [--json] [--stamps N] [--rounds N]
"""

import argparse
import io
import json
import time
from collections.abc import Callable

import numpy as np

from darkhaloscope.contracts.random import stream
from darkhaloscope.stamps.stamp import decode_planes, encode_planes

Cube = np.ndarray


def _numpy_load(blob: bytes) -> Cube:
    with np.load(io.BytesIO(blob), allow_pickle=False) as planes:
        return np.stack([planes[f"image_{band}"] for band in "grz"])


def _ours(blob: bytes) -> Cube:
    return decode_planes(blob, "image", where="benchmark")


def _deflated(cube: Cube) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{f"image_{band}": plane for band, plane in zip("grz", cube, strict=True)})
    return buffer.getvalue()


def _seconds(read: Callable[[bytes], Cube], blobs: list[bytes]) -> float:
    start = time.perf_counter()
    for blob in blobs:
        read(blob)
    return time.perf_counter() - start


def measure(stamps: int, rounds: int) -> dict[str, float]:
    """Median ratios over interleaved rounds; raises if a single pixel differs."""
    cubes = [
        stream(1, "benchmark/decode", str(k)).normal(0, 0.01, (3, 64, 64)).astype("f4") for k in range(stamps)
    ]
    stored, deflated = [encode_planes("image", c) for c in cubes], [_deflated(c) for c in cubes]
    for blobs in (stored, deflated):
        for blob, cube in zip(blobs, cubes, strict=True):
            if not (np.array_equal(_ours(blob), cube) and np.array_equal(_numpy_load(blob), cube)):
                message = "the two readers disagree"
                raise AssertionError(message)
    times: dict[str, list[float]] = {
        "ours": [],
        "ours_deflated": [],
        "numpy_stored": [],
        "numpy_deflated": [],
    }
    for _ in range(rounds):
        times["ours"].append(_seconds(_ours, stored))
        times["numpy_stored"].append(_seconds(_numpy_load, stored))
        times["ours_deflated"].append(_seconds(_ours, deflated))
        times["numpy_deflated"].append(_seconds(_numpy_load, deflated))
    ratio = {k: np.asarray(v) for k, v in times.items()}
    return {
        "n_stamps": stamps,
        "rounds": rounds,
        "ratio_vs_numpy_load": float(np.median(ratio["numpy_deflated"] / ratio["ours"])),
        "ratio_vs_numpy_load_stored": float(np.median(ratio["numpy_stored"] / ratio["ours"])),
        "ratio_foreign_deflated": float(np.median(ratio["numpy_deflated"] / ratio["ours_deflated"])),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Reading stamps, against numpy.load.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stamps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    result = measure(options.stamps, options.rounds)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<28} {value:.2f}")


if __name__ == "__main__":
    main()
