"""Copies among the pictures: which belong together, which of them is best, and which pairs to look at closely.

Two steps. `candidates` names the pairs that may be copies, from what is known of each picture: perceptual hash, colour
grid, embedding. Its effort grows almost in step with the number of pictures: every search sorts the pictures by a
short key and compares neighbours only. The pairs are then looked at pixel by pixel (`vision.same.relation`, in a job),
and `groups` puts the verdicts together. Pairs that nobody has looked at yet count as copies only where hash and colour
grid leave little doubt.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lora_studio.judge.facts import ImageFacts
from lora_studio.judge.parts import likely_parts

Relation = Literal["same file", "same picture", "smaller", "mirrored", "cropped"]
Pairs = Mapping[tuple[str, str], str]
"""(SHA-256, SHA-256) -> what `vision.same.relation` says the second is to the first; "" for another picture."""
Indices = NDArray[np.int64]
Array = NDArray[np.float32]

# Measured on the three sample projects (75 different pictures, 9 planted bad ones): a copy re-saved as JPEG or made
# smaller differs by at most 2 bits and 5 levels; the closest two different pictures by 2 bits and 16 levels.
MAX_BITS = 6
MAX_LEVELS = 10
BANDS = 7
"""Hashes that differ in at most 6 bits agree wholly in one of 7 bands (pigeonhole; Norouzi et al., "Fast search in
Hamming space with multi-index hashing", CVPR 2012)."""
WINDOW = 48
"""Neighbours compared with each picture among those of one key, however many share it."""
MIRROR_LEVELS = 24
"""Levels by which a mirrored grid may differ and still be worth a look; with a changed tone it is more than 10."""
HASH_NEIGHBOURS = 6
MUCH_SMALLER = 0.5
"""A part is kept in place of the whole when the whole has less than half its side."""


@dataclass(frozen=True)
class Member:
    """A picture that is a copy of its group's best."""

    id: int
    relation: Relation
    text: str


@dataclass(frozen=True)
class Group:
    """Copies of one picture: the one to keep, why that one, and the others."""

    best: int
    why: str
    members: tuple[Member, ...]


def candidates(images: list[ImageFacts]) -> list[tuple[int, int]]:
    """Pairs of places in `images`, smaller first, that may be copies and are worth comparing pixel by pixel.

    At most about ten for each picture.
    """
    if len(images) < 2:
        return []
    order = sorted(range(len(images)), key=lambda place: (images[place].sha256, images[place].id))
    ordered = [images[place] for place in order]
    grids = _grids(ordered)
    found = np.concatenate([
        _closest(_by_hash(ordered, grids), grids, grids, HASH_NEIGHBOURS),
        _closest(_by_mirror(grids), grids, grids[:, :, ::-1], HASH_NEIGHBOURS),
        likely_parts(grids, [image.embedding for image in ordered]),
    ])  # fmt: skip
    pairs = {tuple(sorted((order[first], order[second]))) for first, second in np.unique(found, axis=0).tolist()}
    return sorted((first, second) for first, second in pairs if images[first].sha256 != images[second].sha256)


def groups(images: list[ImageFacts], pairs: Pairs | None = None) -> list[Group]:
    """The copies among the pictures, each group with its best; in the order of the best ones' ids."""
    links = _with_one_whole(_links(images, pairs or {}), images)
    near: dict[int, dict[int, str]] = {}
    for (first, second), relation in links.items():
        near.setdefault(first, {})[second] = relation
        near.setdefault(second, {})[first] = REVERSED.get(relation, relation)
    found, seen = [], set()
    for place in sorted(near, key=lambda place: images[place].id):
        if place not in seen:
            together = sorted(_reach(place, near), key=lambda member: images[member].id)
            seen.update(together)
            found.append(_group([images[member] for member in together], _best(together, images, near), near, images))
    return sorted(found, key=lambda group: group.best)


REVERSED = {"cropped": "whole", "whole": "cropped"}


def _links(images: list[ImageFacts], pairs: Pairs) -> dict[tuple[int, int], str]:
    """Places of two pictures -> what the second is to the first, in the words of `vision.same`."""
    found: dict[tuple[int, int], str] = {}
    places: dict[str, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(image.sha256, []).append(place)
    for first, *others in places.values():
        found |= {(first, other): "same" for other in others}
    for (one, other), relation in pairs.items():
        if relation and one in places and other in places:
            found[places[one][0], places[other][0]] = relation
    for first, second, relation in _unseen(images):
        shas = images[first].sha256, images[second].sha256
        if shas not in pairs and shas[::-1] not in pairs:
            found[first, second] = relation
    return found


def _with_one_whole(links: dict[tuple[int, int], str], images: list[ImageFacts]) -> dict[tuple[int, int], str]:
    """The links without those of a part to a second whole: what tells two pictures apart may lie outside of the part,
    and then it must not make them one group. The whole that is most like it, by embedding, is kept."""
    wholes: dict[int, list[tuple[float, int, tuple[int, int]]]] = {}
    for pair, relation in links.items():
        if relation in REVERSED:
            whole, part = pair if relation == "cropped" else pair[::-1]
            vectors = images[whole].embedding, images[part].embedding
            alike = float(vectors[0] @ vectors[1]) if vectors[0] is not None and vectors[1] is not None else 0.0
            wholes.setdefault(part, []).append((-round(alike, 4), images[whole].id, pair))
    extra = {pair for found in wholes.values() for _, _, pair in sorted(found)[1:]}
    return {pair: relation for pair, relation in links.items() if pair not in extra}


def _unseen(images: list[ImageFacts]) -> Iterator[tuple[int, int, str]]:
    """Copies that hash and colour grid alone give away."""
    if len(images) < 2:
        return
    grids = _grids(images)
    close = _by_hash(images, grids)
    close = close[_levels(grids, grids, close) <= MAX_LEVELS]
    yield from ((first, second, "same") for first, second in close.tolist())
    flipped = _by_mirror(grids)
    flipped = flipped[_levels(grids, grids[:, :, ::-1], flipped) <= MAX_LEVELS]
    symmetric = _levels(grids, grids, flipped) <= MAX_LEVELS  # then it would have been found above, were it a copy
    yield from ((first, second, "mirrored") for first, second in flipped[~symmetric].tolist())


def _reach(start: int, near: Mapping[int, Mapping[int, str]]) -> dict[int, str]:
    """What each picture linked to `start`, directly or through others, is to it."""
    found, queue = {start: "same"}, [start]
    for place in queue:
        for other, relation in sorted(near[place].items()):
            if other not in found:
                found[other] = _joined(found[place], relation)
                queue.append(other)
    return found


def _joined(first: str, second: str) -> str:
    """What a copy of a copy is: mirrored twice is not mirrored; a part stays a part."""
    if first == second == "mirrored":
        return "same"
    return next((relation for relation in ("cropped", "whole", "mirrored") if relation in (first, second)), "same")


def _best(together: list[int], images: list[ImageFacts], near: Mapping[int, Mapping[int, str]]) -> int:
    """The one to keep: what the user kept; the whole rather than a part; the way most are turned; the largest, then
    the sharpest, then the first imported."""
    largest = max(images[place].side for place in together)

    def rank(place: int) -> tuple[bool, bool, int, float, float, int]:
        image, others = images[place], _reach(place, near)
        part = "whole" in others.values() and any(
            relation == "whole" and images[other].side >= MUCH_SMALLER * image.side
            for other, relation in others.items()
        )
        turned = sum(relation == "mirrored" for relation in others.values())
        size = 0.0 if image.side >= 0.98 * largest else largest - image.side
        return (
            image.decision != "keep",
            part,
            turned if turned > len(together) / 2 else 0,
            size,
            -image.sharpness,
            image.id,
        )

    return min(together, key=rank)


def _group(
    members: list[ImageFacts], best: int, near: Mapping[int, Mapping[int, str]], images: list[ImageFacts]
) -> Group:
    relations = {images[place].id: relation for place, relation in _reach(best, near).items()}
    kept = images[best]
    others = [image for image in members if image.id != kept.id]
    return Group(
        kept.id, _why(kept, others, relations), tuple(_member(image, kept, relations[image.id]) for image in others)
    )


def _why(best: ImageFacts, others: list[ImageFacts], relations: Mapping[int, str]) -> str:
    if best.decision == "keep":
        return "you kept it"
    if any(relations[image.id] == "cropped" for image in others):
        return "it shows the whole picture"
    if all(image.side < 0.98 * best.side for image in others):
        return "the largest"
    rivals = [image for image in others if image.side >= 0.98 * best.side]
    if all(image.sharpness < 0.98 * best.sharpness for image in rivals):
        return "the sharpest"
    return "as good as the others, and imported first"


def _member(image: ImageFacts, best: ImageFacts, relation: str) -> Member:
    size = f"({image.width} x {image.height}; the other has {best.width} x {best.height})"
    if image.sha256 == best.sha256:
        return Member(image.id, "same file", "the very same file as another picture")
    if relation == "mirrored":
        return Member(image.id, "mirrored", f"another picture, mirrored {size}")
    if relation == "cropped":
        return Member(image.id, "cropped", f"a part of another picture {size}")
    if relation == "whole":
        return Member(image.id, "smaller", f"more of another picture, but much smaller {size}")
    if image.side < 0.9 * best.side:
        return Member(image.id, "smaller", f"a smaller copy of another picture {size}")
    return Member(image.id, "same picture", f"nearly the same as another picture {size}")


def _grids(images: list[ImageFacts]) -> NDArray[np.int16]:
    """(N, 8, 8, 3) levels of the colour grids."""
    flat = np.frombuffer(b"".join(image.signature for image in images), np.uint8)
    return flat.reshape(len(images), 8, 8, 3).astype(np.int16)


def _levels(grids: NDArray[np.int16], others: NDArray[np.int16], pairs: Indices) -> NDArray[np.int64]:
    """(P, 2) places -> (P,) the largest difference between a field of the first's grid and the second's."""
    found = np.zeros(len(pairs), np.int64)
    for start in range(0, len(pairs), 65_536):
        some = slice(start, start + 65_536)
        first, second = pairs[some].T
        found[some] = np.abs(grids[first] - others[second]).reshape(len(first), -1).max(axis=1, initial=0)
    return found


def _windows(keys: NDArray[np.uint64], values: Array, reach: float) -> Indices:
    """(P, 2) places with equal keys whose values lie within `reach`, for each the WINDOW nearest above it."""
    order = np.lexsort((values, keys))
    key, value, found = keys[order], values[order], []
    for step in range(1, min(WINDOW, len(order) - 1) + 1):
        near = (key[step:] == key[:-step]) & (value[step:] - value[:-step] <= reach)
        if not near.any():
            break
        place = np.flatnonzero(near)
        found.append(np.column_stack([order[place], order[place + step]]))
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def _unique(parts: list[Indices], count: int) -> Indices:
    """(P, 2) each pair once, the smaller place first."""
    pairs = np.sort(np.concatenate(parts), axis=1)
    codes = np.unique(pairs[:, 0] * count + pairs[:, 1])
    return np.column_stack([codes // count, codes % count])


def _by_hash(images: list[ImageFacts], grids: NDArray[np.int16]) -> Indices:
    """(P, 2) places of pictures whose hashes differ in at most MAX_BITS bits."""
    hashes = np.array([image.phash for image in images], dtype=np.uint64)
    brightness = grids.mean(axis=(1, 2, 3)).astype(np.float32)
    edges = np.linspace(0, 64, BANDS + 1).astype(int)
    parts = []
    for low, high in pairwise(edges.tolist()):
        band = (hashes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        pairs = _windows(band, brightness, 30)
        bits = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
        parts.append(pairs[bits <= MAX_BITS])
    return _unique(parts, len(images))


def _by_mirror(grids: NDArray[np.int16]) -> Indices:
    """(P, 2) places of pictures of which one may be the other, mirrored.

    What a picture and its mirrored copy share are the means of each field and its mirrored field: 96 numbers. Pictures
    near in these are found by random projections cut into cells (Datar et al., "Locality-sensitive hashing scheme
    based on p-stable distributions", 2004): copies differ by about 1 level a field, and so along any direction.
    """
    even = ((grids + grids[:, :, ::-1]) / 2)[:, :, :4].reshape(len(grids), -1).astype(np.float32)
    random = np.random.default_rng(0)
    parts = []
    for _ in range(6):
        along = even @ (random.normal(size=(even.shape[1], 4)) / np.sqrt(even.shape[1])).astype(np.float32)
        cells = np.floor(along / 4 + random.random(4)).astype(np.int64) + 2**12
        keys = (cells * 2 ** (14 * np.arange(4))).sum(axis=1).astype(np.uint64)
        parts.append(_windows(keys, along[:, 0], 4))
    pairs = _unique(parts, len(grids))
    return pairs[_levels(grids, grids[:, :, ::-1], pairs) <= MIRROR_LEVELS]


def _closest(pairs: Indices, grids: NDArray[np.int16], others: NDArray[np.int16], count: int) -> Indices:
    """Of the pairs those that are among the `count` closest in colour for one of their two pictures."""
    if not len(pairs):
        return pairs
    apart = np.abs(grids[pairs[:, 0]] - others[pairs[:, 1]]).mean(axis=(1, 2, 3))
    wanted = np.zeros(len(pairs), bool)
    for side in (0, 1):
        order = np.lexsort((pairs[:, 1 - side], apart, pairs[:, side]))
        place = pairs[order, side]
        first = np.searchsorted(place, place)
        wanted[order[np.arange(len(order)) - first < count]] = True
    return pairs[wanted]
