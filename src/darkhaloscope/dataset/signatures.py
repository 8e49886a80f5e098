"""Knowing an image again: 128 bits that survive noise, a rescaled flux and a fresh compression.

The noise of the sky around a galaxy is a fingerprint that no two images share. Pixels beyond three sigma are
left out (galaxies of a kind with a neighbour at the same place look alike), the rest is averaged in blocks,
clipped, freed of its mean at each radius and projected on 128 fixed random directions; the signs are the
signature. Two images whose blocks correlate by rho differ in a share arccos(rho)/pi of the bits (Charikar
2002); unrelated ones in half.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.contracts.random import stream

BITS = 128
SAME_BITS = 20
"""Two signatures that differ in at most this many bits are of one image: rho > .88, 7 sigma from chance."""

_BLOCK = 4
_SKY_SIGMAS = 3.0
_BLOCK_LIMIT = 2.0 * _BLOCK  # two sigma of a block of independent pixels
_CORE_PIX = 10.0
PIECE_BITS, PIECES = 12, 10
"""Rows are compared that share one of so many pieces of so many bits."""

Signature = NDArray[np.int64]


@functools.lru_cache(maxsize=4)
def _directions(side: int) -> NDArray[np.float64]:
    """(blocks, 128): means at each radius and the core taken out, then random directions."""
    blocks = side // _BLOCK
    axis = (np.arange(blocks) - 0.5 * (blocks - 1)) * _BLOCK
    radius = np.hypot(axis, axis[:, None]).ravel()
    ring = np.floor(radius / _BLOCK).astype(int)
    keep = np.eye(len(radius))
    for value in np.unique(ring):
        members = ring == value
        keep[np.ix_(members, members)] -= 1.0 / members.sum()
    keep[radius < _CORE_PIX] = 0.0
    random = stream(1, "dataset/signature", str(side)).normal(size=(len(radius), BITS))
    return np.asarray(keep.T @ random, dtype=np.float64)


def signatures(image: NDArray[np.float32], invvar: NDArray[np.float32]) -> tuple[Signature, Signature]:
    """Both halves of the signatures of images (n, y, x) [nmgy] with their inverse variances."""
    side = image.shape[-1] // _BLOCK * _BLOCK
    n, k = len(image), side // _BLOCK
    sigmas = image[:, :side, :side] * np.sqrt(np.maximum(invvar[:, :side, :side], 0.0))
    sigmas *= np.abs(sigmas) < _SKY_SIGMAS
    columns = sigmas.reshape(n, side, k, _BLOCK)
    narrow = sum((columns[..., i] for i in range(1, _BLOCK)), start=columns[..., 0])
    rows = narrow.reshape(n, k, _BLOCK, k)
    blocks = sum((rows[:, :, i] for i in range(1, _BLOCK)), start=rows[:, :, 0])
    np.maximum(np.minimum(blocks, _BLOCK_LIMIT, out=blocks), -_BLOCK_LIMIT, out=blocks)
    signs = blocks.reshape(n, k * k) @ _directions(side) > 0.0
    words = np.packbits(signs, axis=1).view(">i8").astype(np.int64)
    return words[:, 0], words[:, 1]


def near_duplicates(
    first: Signature, second: Signature, apart: NDArray[Any] | None = None
) -> NDArray[np.intp]:
    """Pairs (m, 2) of rows whose signatures agree but for a few bits.

    apart   a label per row; only pairs of different labels are of interest

    Rows that share any of ten pieces of twelve bits are compared: equal images always do, images that differ
    in 7 bits in 99.9 %, in 13 bits in 96 % of cases. Sorted, no pair twice.
    """
    bits = np.unpackbits(np.stack([first, second], axis=1).astype(">i8").view(np.uint8), axis=1)
    found: list[NDArray[np.intp]] = []
    powers = 1 << np.arange(PIECE_BITS)
    for piece in range(PIECES):
        code = bits[:, piece * PIECE_BITS : (piece + 1) * PIECE_BITS] @ powers
        order = np.lexsort((second, first, code))
        found += _in_runs(order, code[order], first, second, apart)
    if not found:
        return np.empty((0, 2), dtype=np.intp)
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _in_runs(
    order: NDArray[np.intp],
    code: NDArray[Any],
    first: Signature,
    second: Signature,
    apart: NDArray[Any] | None,
) -> list[NDArray[np.intp]]:
    """Near pairs among the rows that share a piece, lag by lag."""
    found = []
    # A popcount of negative integers would count the bits of their absolute value.
    first, second = first.view(np.uint64), second.view(np.uint64)
    for lag in range(1, len(order)):
        same = np.flatnonzero(code[lag:] == code[:-lag])
        if not len(same):
            break
        a, b = order[same], order[same + lag]
        near = np.bitwise_count(first[a] ^ first[b]) + np.bitwise_count(second[a] ^ second[b]) <= SAME_BITS
        if apart is not None:
            near &= apart[a] != apart[b]
        found.append(np.stack([a[near], b[near]], axis=1))
    return found
