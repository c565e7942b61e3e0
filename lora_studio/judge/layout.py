"""A map of the set: each picture a point, like pictures near each other; clusters, and pictures that stand apart.

All of it is worked out from the auto-tagger's embeddings, and the same pictures always give the same map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora_studio.judge.common import plural

Array = NDArray[np.float32]

LANDMARKS = 256
"""Pictures whose places are worked out against each other; the rest are set between them."""
ROUNDS = 80
LANDMARK_NEIGHBOURS = 12
MAX_CLUSTERS = 8
ENOUGH_FOR_CLUSTERS = 8
SPLIT = 0.12
"""Mean silhouette from which two or more clusters are believed: below 0.25 there is "no substantial structure"
(Kaufman and Rousseeuw, "Finding Groups in Data", 1990) for distances in the plane; in 30 dimensions of an embedding
silhouettes are about half as large. A set of one subject stays one cluster at this value, a mixture of two does not."""
DIMENSIONS = 30
APART_NEIGHBOURS = 5
APART = 3.5
"""Robust deviations from the median (Iglewicz and Hoaglin, 1993)."""
APART_TIMES = 1.35
"""And so many times the median: in a very even set, small differences would cross the first."""
ENOUGH_FOR_OUTLIERS = 8
COMPARED = 2500
"""Pictures with which each is compared to see whether it stands apart; of more, so many evenly chosen ones."""


@dataclass(frozen=True)
class Map:
    """Where each picture lies, and the clusters."""

    points: list[tuple[int, float, float, int, bool]]
    """(id, x, y, number of its cluster, stands apart); x and y from 0 to 1."""
    clusters: list[tuple[int, str]]
    """(number, how many pictures it has in words), the largest first."""


def layout(ids: Sequence[int], embeddings: Array) -> Map:
    """ids (N,), embeddings (N, D) of length 1 -> the map. Neither depends on the order of the pictures."""
    if not len(ids):
        return Map([], [])
    order = np.argsort(np.asarray(ids), kind="stable")
    named, vectors = np.asarray(ids)[order], np.asarray(embeddings, np.float32)[order]
    places = _places(vectors)
    cluster = clusters(vectors)
    apart = outliers(vectors)[0]
    points = [
        (int(name), round(float(x), 4), round(float(y), 4), int(number), bool(far))
        for name, (x, y), number, far in zip(named, places, cluster, apart, strict=True)
    ]
    counts = np.bincount(cluster)
    return Map(points, [(number, plural(int(count), "picture")) for number, count in enumerate(counts)])


def outliers(vectors: Array) -> tuple[NDArray[np.bool_], NDArray[np.float64], float]:
    """(N, D) of length 1 -> which stand apart, the mean distance of each to its 5 nearest, the distance from which on
    a picture stands apart (infinite for fewer than 8 pictures)."""
    if len(vectors) < ENOUGH_FOR_OUTLIERS:
        return np.zeros(len(vectors), bool), np.zeros(len(vectors)), float("inf")
    far = np.zeros(len(vectors))
    others = _spread(len(vectors), COMPARED)
    for start in range(0, len(vectors), 1024):
        alike = vectors[start : start + 1024] @ vectors[others].T
        alike[np.arange(start, start + len(alike))[:, None] == others] = -1
        near = np.partition(alike, -APART_NEIGHBOURS, axis=1)[:, -APART_NEIGHBOURS:]
        far[start : start + 1024] = np.sqrt(np.maximum(2 - 2 * near, 0)).mean(axis=1)
    median = float(np.median(far))
    deviation = 1.4826 * float(np.median(np.abs(far - median)))
    cut = max(median + APART * deviation, APART_TIMES * median, 0.05)
    return far > cut, far, cut


def clusters(vectors: Array) -> NDArray[np.int64]:
    """(N, D) of length 1 -> (N,) cluster of each, numbered by size; all 0 when the set does not fall into clusters.

    k-means for 2 to 8 clusters on the main directions; as many as give the largest mean silhouette.
    """
    if len(vectors) < ENOUGH_FOR_CLUSTERS:
        return np.zeros(len(vectors), np.int64)
    reduced = _main_directions(vectors, DIMENSIONS)
    some = reduced[_spread(len(reduced), 500)]
    best, chosen = SPLIT, None
    for count in range(2, min(MAX_CLUSTERS, len(some) // 3) + 1):
        centres = _means(some, count)
        quality = _silhouette(some, _nearest(some, centres), count)
        if quality > best + 0.01:
            best, chosen = quality, centres
    if chosen is None:
        return np.zeros(len(vectors), np.int64)
    found = _nearest(reduced, chosen)
    sizes = np.bincount(found, minlength=len(chosen))
    rank = np.empty(len(chosen), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(chosen))
    return rank[found]


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` places evenly among `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))


def _main_directions(vectors: Array, count: int) -> Array:
    """(N, D) -> (N, count) along the directions of largest spread, each signed so that the outcome is always one."""
    centred = vectors - vectors.mean(axis=0)
    some = centred[_spread(len(centred), 2000)]
    _, axes = np.linalg.eigh(some.T.astype(np.float64) @ some)
    axes = axes[:, ::-1][:, :count]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return (centred @ axes).astype(np.float32)


def _distances(points: Array, others: Array) -> Array:
    """(N, D), (M, D) -> (N, M) squared distances."""
    square = (points**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * points @ others.T
    return np.maximum(square, 0)


def _nearest(points: Array, centres: Array) -> NDArray[np.int64]:
    return _distances(points, centres).argmin(axis=1)


def _means(points: Array, count: int) -> Array:
    """k-means from starts that lie far apart: the first the point nearest the middle, each next the farthest from
    those chosen among the nearer nine tenths, so that a lone stranger does not become a cluster."""
    chosen = [int((points**2).sum(axis=1).argmin())]
    for _ in range(count - 1):
        apart = _distances(points, points[chosen]).min(axis=1)
        chosen.append(int(np.argsort(apart, kind="stable")[int(0.9 * (len(points) - 1))]))
    centres = points[chosen].copy()
    for _ in range(25):
        found = _nearest(points, centres)
        moved = np.stack([points[found == one].mean(axis=0) if (found == one).any() else centres[one]
                          for one in range(count)])  # fmt: skip
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return centres


def _silhouette(points: Array, found: NDArray[np.int64], count: int) -> float:
    """Mean over the points of (b - a) / max(a, b): a the mean distance within the own cluster, b to the next nearest
    (Rousseeuw, 1987). -1 when a cluster has fewer than 3 points: that is no group."""
    sizes = np.bincount(found, minlength=count)
    if sizes.min() < 3:
        return -1.0
    apart = np.sqrt(_distances(points, points))
    to = np.stack([apart[:, found == one].sum(axis=1) for one in range(count)], axis=1)
    rows = np.arange(len(points))
    within = to[rows, found] / (sizes[found] - 1)
    mean = to / sizes
    mean[rows, found] = np.inf
    other = mean.min(axis=1)
    return float(((other - within) / np.maximum(np.maximum(other, within), 1e-9)).mean())


def _places(vectors: Array) -> Array:
    """(N, D) -> (N, 2) within 0..1. Landmarks start along the two main directions, then are drawn towards their
    nearest neighbours and pushed off the others; the other pictures lie amid their nearest landmarks."""
    count = len(vectors)
    if count == 1:
        return np.full((1, 2), 0.5, np.float32)
    reduced = _main_directions(vectors, DIMENSIONS)
    start = reduced[:, :2] if reduced.shape[1] > 1 else np.column_stack([reduced, 0 * reduced])
    marks = _spread(count, LANDMARKS)
    placed = _relax(reduced[marks], start[marks] / max(float(start[marks].std()), 1e-6))
    if len(marks) == count:
        return _fit(placed)
    places = np.empty((count, 2), np.float32)
    for begin in range(0, count, 2048):
        apart = _distances(reduced[begin : begin + 2048], reduced[marks])
        near = np.argpartition(apart, 4, axis=1)[:, :4]
        weight = 1 / (np.take_along_axis(apart, near, axis=1) + 1e-4)
        weight /= weight.sum(axis=1, keepdims=True)
        places[begin : begin + 2048] = (placed[near] * weight[..., None]).sum(axis=1)
    return _fit(places + 0.02 * start / max(float(start.std()), 1e-6))


def _relax(vectors: Array, places: Array) -> Array:
    """vectors (M, D), places (M, 2) -> better places: springs between neighbours, a push between all that falls off
    with the square of the distance (as in force-directed drawing; Fruchterman and Reingold, 1991)."""
    count = len(vectors)
    if count < 4:
        return places
    most = min(LANDMARK_NEIGHBOURS, count - 1)
    apart = _distances(vectors, vectors)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1, kind="stable")[:, :most]
    bound = np.zeros((count, count), np.float32)
    bound[np.arange(count)[:, None], near] = 1
    bound = np.maximum(bound, bound.T)
    places = places.astype(np.float32).copy()
    for turn in range(ROUNDS):
        towards = places[None] - places[:, None]
        square = (towards**2).sum(axis=2) + 1e-2
        pull = (bound[..., None] * towards).sum(axis=1) / bound.sum(axis=1, keepdims=True)
        push = (towards / square[..., None]).sum(axis=1) / count
        step = 0.3 * pull - 0.6 * push
        length = np.sqrt((step**2).sum(axis=1, keepdims=True)) + 1e-9
        most_now = 0.3 * (1 - turn / ROUNDS) + 0.01
        places += step * np.minimum(1, most_now / length)
    return places


def _fit(places: Array) -> Array:
    """(N, 2) -> within 0..1, by the middle 98 % of each axis: one stray point must not press the rest together."""
    low, high = np.quantile(places, 0.01, axis=0), np.quantile(places, 0.99, axis=0)
    spread = np.maximum(high - low, 1e-6)
    return np.clip(0.04 + 0.92 * (places - low) / spread, 0, 1)
