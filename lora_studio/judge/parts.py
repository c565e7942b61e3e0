"""Which pictures may be cut out of which: a guess from colour grids and embeddings, to be checked pixel by pixel.

A part of a picture has most of its colours, and often a like embedding: so the pictures nearest in these are taken
first. For each of them it is then tried whether its grid is what the other's would be after one of some hundred crops.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

# Measured on the labelled set (benchmarks/duplicates.py): of 134 crops that keep half of the area and more, each has
# its whole among the 30 nearest of 890 by palette; the starter's embeddings alone would miss one in six. Among those,
# 98 % have it among the 5 whose grids fit best, the true ones within 35 levels.
BY_PALETTE = 24
BY_EMBEDDING = 8
KEPT = 5
FITS = 36.0
PALETTE_ALIKE = 0.75
EMBEDDING_ALIKE = 0.8
LEVELS = 6
"""Steps of each channel in a palette."""
SIDES = (0.92, 0.84, 0.76, 0.68, 0.6)
"""Width or height of a crop as shares; between two of them the grid is still alike."""
LEAST_AREA = 0.42
WHOLE_BLOCK = 2048
"""Up to so many pictures, all are compared with each other."""


def likely_parts(grids: NDArray[np.int16], embeddings: Sequence[Array | None]) -> Indices:
    """grids (N, 8, 8, 3) levels, N embeddings (D,) or None -> (P, 2) places of pictures worth a look, smaller first.

    At most KEPT for each picture. The order of the pictures has no influence but through `_blocks`' landmarks.
    """
    count = len(grids)
    flat = grids.reshape(count, 64, 3).astype(np.float32)
    pairs = [_neighbours(_palettes(flat), BY_PALETTE, PALETTE_ALIKE)]
    known = np.array([place for place, vector in enumerate(embeddings) if vector is not None], np.int64)
    if len(known) > 1:
        vectors = np.stack([vector for vector in embeddings if vector is not None]).astype(np.float32)
        pairs.append(known[_neighbours(vectors, BY_EMBEDDING, EMBEDDING_ALIKE)])
    found = np.concatenate(pairs)
    if not len(found):
        return found
    both = np.concatenate([found, found[:, ::-1]])
    codes = np.unique(both[:, 0] * count + both[:, 1])
    whole, part = codes // count, codes % count
    apart = _misfit(flat, whole, part)
    # what counts is the better way round: either may be the part
    code = np.minimum(whole, part) * count + np.maximum(whole, part)
    least = np.full(len(codes), np.inf)
    _, place = np.unique(code, return_inverse=True)
    np.minimum.at(least, place, apart)
    apart = least[place]
    order = np.lexsort((part, apart, whole))
    first = np.searchsorted(whole[order], whole[order])
    near = order[(np.arange(len(order)) - first < KEPT) & (apart[order] <= FITS)]
    chosen = np.unique(code[near])
    return np.column_stack([chosen // count, chosen % count])


def _palettes(flat: Array) -> Array:
    """(N, 64, 3) levels -> (N, LEVELS ** 3) square roots of how much of the picture has which colour, of length 1.

    Each field goes to the eight colours around its own, by nearness. Their products are Bhattacharyya's coefficient.
    """
    place = flat / 255 * (LEVELS - 1)
    low = np.clip(np.floor(place), 0, LEVELS - 2).astype(np.int64)
    share = place - low
    found = np.zeros((len(flat), LEVELS**3), np.float32)
    rows = np.arange(len(flat))[:, None]
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, share, 1 - share).prod(axis=2)
        bins = ((low + corner) * (LEVELS**2, LEVELS, 1)).sum(axis=2)
        np.add.at(found, (np.broadcast_to(rows, bins.shape), bins), weight)
    return np.sqrt(found / 64)


def _neighbours(vectors: Array, count: int, least: float) -> Indices:
    """(N, D) of length 1 -> (P, 2) places of each and its `count` nearest with a product of at least `least`."""
    best = np.full((len(vectors), count), -1, np.int64)
    score = np.full((len(vectors), count), least, np.float32)
    for block in _blocks(vectors):
        alike = vectors[block] @ vectors[block].T
        np.fill_diagonal(alike, -1)
        most = min(count, len(block) - 1)
        if not most:
            continue
        near = np.argpartition(-alike, most - 1, axis=1)[:, :most]
        scores = np.concatenate([score[block], np.take_along_axis(alike, near, axis=1)], axis=1)
        names = np.concatenate([best[block], block[near]], axis=1)
        again = (names[:, count:, None] == best[block][:, None]).any(axis=2)
        scores[:, count:][again] = -1
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        score[block], best[block] = np.take_along_axis(scores, order, axis=1), np.take_along_axis(names, order, axis=1)
    first, column = np.nonzero(best >= 0)
    return np.column_stack([first, best[first, column]])


def _blocks(vectors: Array) -> Iterator[Indices]:
    """Places (M,) to be compared with each other: all of them, or beyond WHOLE_BLOCK those that share one of their two
    nearest among sqrt(N) landmarks, which keeps the effort near N sqrt(N)."""
    count = len(vectors)
    if count <= WHOLE_BLOCK:
        yield np.arange(count)
        return
    landmarks = vectors[:: int(np.sqrt(count))]
    two = np.argpartition(-(vectors @ landmarks.T), 1, axis=1)[:, :2]
    for landmark in range(len(landmarks)):
        block = np.flatnonzero((two == landmark).any(axis=1))
        for start in range(0, len(block), WHOLE_BLOCK):
            yield block[start : start + WHOLE_BLOCK]


def _misfit(flat: Array, whole: Indices, part: Indices) -> NDArray[np.float64]:
    """flat (N, 64, 3) levels; places (P,) sorted by `whole` -> (P,) root mean square of the levels by which the part's
    grid, as it is or mirrored, differs from that of the whole after the crop that fits best."""
    crops = _crops()
    coarse = flat.reshape(-1, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    turned = coarse[:, :, ::-1].reshape(len(flat), 48)
    coarse = coarse.reshape(len(flat), 48)
    found = np.zeros(len(whole))
    edges = np.flatnonzero(np.diff(whole, prepend=-1, append=-1))
    for start, end in pairwise(edges.tolist()):
        cropped = (crops @ flat[whole[start]]).reshape(-1, 48)
        seen = part[start:end]
        grids = np.concatenate([coarse[seen], turned[seen]])
        square = (cropped**2).sum(axis=1)[:, None] - 2 * cropped @ grids.T
        least = square.min(axis=0) + (grids**2).sum(axis=1)
        found[start:end] = np.sqrt(np.maximum(least.reshape(2, -1).min(axis=0), 0) / 48)
    return found


@cache
def _crops() -> Array:
    """(C * 16, 64): for each of C crops the 4 x 4 grid it has, as means over the 8 x 8 fields of the whole's grid."""
    spans = {
        (left, side): _span(left, side)
        for side in (1.0, *SIDES)
        for left in np.linspace(0, 1 - side, 1 + round((1 - side) / 0.08)).tolist()
    }
    boxes = [
        (rows, columns)
        for rows in spans
        for columns in spans
        if LEAST_AREA <= rows[1] * columns[1] < 1 and 0.7 <= rows[1] / columns[1] <= 1 / 0.7
    ]
    return (
        np.stack([np.kron(spans[rows], spans[columns]) for rows, columns in boxes]).reshape(-1, 64).astype(np.float32)
    )


def _span(left: float, side: float) -> NDArray[np.float64]:
    """(4, 8) weights: the quarters of [left, left + side] as means of a line drawn through the old eighths' centres."""
    points = (left + side * (np.arange(128) + 0.5) / 128) * 8 - 0.5
    low = np.clip(np.floor(points), 0, 6).astype(np.int64)
    share = np.clip(points - low, 0, 1)
    weights = np.zeros((128, 8))
    weights[np.arange(128), low] += 1 - share
    weights[np.arange(128), low + 1] += share
    return weights.reshape(4, 32, 8).mean(axis=1)
