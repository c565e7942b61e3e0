"""Numbers of a picture, taken once for each content: sharpness, light, traces of JPEG, borders, perceptual hashes."""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

KEY = "measures-2"
"""Under which these stand in the project's findings (core.looks). Count it up when a measure changes."""
SHARPNESS_SIDE = 512
"""Longer side at which sharpness is measured: a large photo that is soft only at full size is trained small anyway."""
WORK_SIDE = 1024
"""Pictures of twice this side and more are first averaged in whole blocks, which keeps a 24-megapixel photo fast."""
HASH_SIDE = 32
MIRROR = np.where(np.arange(8) % 2, -1.0, 1.0)
SIGNATURE_SIDE = 8
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
CRUSHED, BLOWN = 4, 251
"""Luma of 0..255 from which on nothing can be made out any more."""
BLOCKS_SIDE = 1024
"""JPEG's blocks are looked for in the middle of this side, pixel for pixel."""
BLOCK_STEP = 20
"""Larger steps from pixel to pixel (of 255) are the picture's own edges, not those of blocks."""
SPECTRUM = 8 * BLOCKS_SIDE
BLOCK_BINS = np.arange(SPECTRUM // 16, SPECTRUM // 4 + 1)
BLOCK_PERIODS = SPECTRUM / BLOCK_BINS
"""Sides of a block in pixels: 8 as saved, less or more where the picture was made smaller or larger afterwards."""
BLOCK_CONFIDENCE = 4.0
"""So many times the spectrum's median must a period stand out. Of 25 drawings saved without loss none reaches it."""
BORDER_SPREAD = 12
"""A border is of one colour, within so much of 255 (JPEG leaves some noise in black bars)."""
BORDER_EDGE = 0.9
"""A border ends in a straight line: beyond it, so much of the width differs from it. Measured: 0.95 to 1 beside photos
and drawings; 0.83 at most where a figure of blocks stands before a plain ground."""
BORDER_DEPTH = 0.02
"""Beyond it means within this share of the side."""
BORDER_SMEAR = 20
"""JPEG smears the end of a bar over a block: 8 pixels, 16 where it halves the colours."""
BORDER_MOST = 0.45
"""Share of a side looked at; what is plain beyond it is no border but an empty picture."""


@dataclass(frozen=True)
class Measures:
    """What `measure` finds in one picture."""

    sharpness: float
    phash: int
    signature: bytes
    mirrored: int
    """Perceptual hash of the mirrored picture."""
    brightness: float
    """Mean luma, 0..1."""
    contrast: float
    """Standard deviation of the luma, 0..0.5."""
    darkest: float
    """Luma below which 1 % of the picture lies, 0..1."""
    lightest: float
    """Luma above which 1 % of the picture lies, 0..1."""
    blacks: float
    """Share of the pixels that are crushed to black."""
    whites: float
    """Share of the pixels that are blown to white."""
    blockiness: float
    """How much more the steps at the borders of JPEG's blocks stand out than others: 0 none, 1 twice as much."""
    borders: tuple[float, float, float, float]
    """Widths of the bars at the left, top, right and bottom, as shares of width and height."""

    def to_bytes(self) -> bytes:
        """As the project's findings keep it, under KEY."""
        return json.dumps({**asdict(self), "signature": self.signature.hex()}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote."""
        values = json.loads(data)
        return cls(**{**values, "signature": bytes.fromhex(values["signature"]), "borders": tuple(values["borders"])})


def measure(rgb: NDArray[np.uint8]) -> Measures:
    """rgb (H, W, 3) 0..255 -> all its numbers."""
    rgb = np.asarray(rgb)
    blocks = block_means(rgb)
    gray = _luma(blocks)
    height, width = gray.shape
    scale = min(1.0, SHARPNESS_SIDE / max(height, width))
    single = gray.astype(np.float32)
    small = single if scale == 1 else area_resize(single, max(3, round(height * scale)), max(3, round(width * scale)))
    low = low_frequencies(gray)
    return Measures(
        sharpness=sharpness(small.astype(np.float64)),
        phash=hash_bits(low),
        signature=colour_signature(blocks),
        mirrored=hash_bits(low * MIRROR),
        **exposure(gray),
        blockiness=blockiness(rgb),
        borders=borders(rgb),
    )


def block_means(rgb: NDArray[np.uint8]) -> NDArray[np.floating[Any]] | NDArray[np.uint8]:
    """(H, W, 3) -> (H // n, W // n, 3) means of n x n blocks, n so that the longer side comes near WORK_SIDE."""
    height, width, _ = rgb.shape
    size = max(1, min(max(height, width) // WORK_SIDE, min(height, width) // HASH_SIDE))
    if size == 1:
        return rgb
    whole = rgb[: height // size * size, : width // size * size]
    rows = np.zeros((height // size, whole.shape[1], 3), np.uint16 if size < 256 else np.uint32)
    for row in range(size):
        rows += whole[row::size]
    total = np.zeros((height // size, width // size, 3), np.uint32)
    for column in range(size):
        total += rows[:, column::size]
    return total / (size * size)


def _luma(rgb: NDArray[Any]) -> Array:
    """(H, W, 3) 0..255 -> (H, W) 0..1. In thousandths, so that bytes are weighed exactly in single precision."""
    weights = np.round(LUMA * 1000).astype(np.float32 if rgb.dtype == np.uint8 else np.float64)
    return (rgb @ weights).astype(np.float64) / 255_000


def exposure(gray: Array) -> dict[str, float]:
    """gray (H, W) 0..1 -> brightness, contrast, darkest, lightest, blacks and whites, as in `Measures`."""
    levels = np.bincount((gray * 255 + 0.5).astype(np.uint8).ravel(), minlength=256) / gray.size
    below = np.cumsum(levels)
    value = np.arange(256) / 255
    mean = float(levels @ value)
    return {
        "brightness": mean,
        "contrast": float(np.sqrt(levels @ (value - mean) ** 2)),
        "darkest": float(value[np.searchsorted(below, 0.01)]),
        "lightest": float(value[np.searchsorted(below, 0.99)]),
        "blacks": float(below[CRUSHED]),
        "whites": float(1 - below[BLOWN - 1]),
    }


def blockiness(rgb: NDArray[np.uint8]) -> float:
    """rgb (H, W, 3) 0..255, before any averaging -> excess of the steps at the borders of JPEG's blocks; 0 for none.

    The mean step between neighbouring columns (and rows) is a line with a peak every 8 pixels where blocks show, and
    every 8 * s when the picture was resized by s afterwards. Its spectrum tells the period: it stands out along both
    axes, and so does its first harmonic (what enlarging leaves has none at twice its period). The steps at that comb
    are then compared with those between. On drawings of flat colour, where there is little to compress, it sees only
    strong traces.
    """
    height, width, _ = rgb.shape
    top, left = max(0, (height - BLOCKS_SIDE) // 2), max(0, (width - BLOCKS_SIDE) // 2)
    part = rgb[top : top + BLOCKS_SIDE, left : left + BLOCKS_SIDE]
    if min(part.shape[:2]) < 64:
        return 0.0
    gray = (part @ LUMA.astype(np.float32) + 0.5).astype(np.int16)
    lines = [_steps(part) for part in (gray, np.ascontiguousarray(gray.T))]
    found = np.max([np.minimum(*(_comb_strength(line) for line in kind)) for kind in zip(*lines, strict=True)], axis=0)
    best = int(np.argmax(found))
    if found[best] < BLOCK_CONFIDENCE:
        return 0.0
    half = BLOCK_BINS[best] // 2 - BLOCK_BINS[0]  # where a period twice as long stands
    if half >= 4 and (near := found[half - 4 : half + 5]).max() > found[best] / 2:
        best = half - 4 + int(np.argmax(near))
    period = float(BLOCK_PERIODS[best])
    return min(_excess(alone, period) for _, alone in lines)


def _steps(gray: NDArray[np.int16]) -> tuple[Array, Array]:
    """(H, W) 0..255 -> two lines (W - 3,): the mean of the small steps from each column to the next, and of what rises
    above the steps on both sides."""
    steps = np.abs(np.diff(gray, axis=1))
    steps[steps > BLOCK_STEP] = 0
    middle = steps[:, 1:-1]
    alone = np.maximum(middle - np.maximum(steps[:, :-2], steps[:, 2:]), 0)
    return middle.mean(axis=0, dtype=np.float64), alone.mean(axis=0, dtype=np.float64)


def _comb_strength(line: Array) -> Array:
    """(n,) -> for each of BLOCK_PERIODS by how much it stands out of the line's spectrum (1 is nothing special)."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(line, 3, mode="edge"), 7)
    peaks = line - np.median(windows, axis=-1)
    peaks = np.clip(peaks, 0, max(float(np.quantile(peaks, 0.95)), 1e-6))
    spectrum = np.abs(np.fft.rfft((peaks - peaks.mean()) * np.hanning(len(peaks)), SPECTRUM))
    spectrum /= np.median(spectrum) + 1e-9
    first, second = spectrum[BLOCK_BINS], spectrum[2 * BLOCK_BINS]
    return np.where(BLOCK_PERIODS > 4.1, np.minimum(first, second), first)


def _excess(line: Array, period: float) -> float:
    """(n,) steps -> mean at the comb's best place over the mean elsewhere, less 1. The strongest fifth of the comb is
    left out: a long edge of the picture's own."""
    place = np.arange(len(line))
    best = 0.0
    for start in range(int(np.ceil(period))):
        comb = np.unique(np.round(np.arange(start, len(line) - 0.5, period)).astype(int))
        comb = comb[comb < len(line)]
        at, rest = np.sort(line[comb]), np.sort(line[~np.isin(place, comb)])
        at, rest = at[: max(1, len(at) * 4 // 5)].mean(), rest[: max(1, len(rest) * 4 // 5)].mean()
        best = max(best, float(at / max(rest, 0.05)) - 1)  # 0.05 of 255: an almost empty picture
    return best


def borders(rgb: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """rgb (H, W, 3) -> widths of bars of one colour at the left, top, right and bottom, as shares; 0 for none.

    Bars come in pairs of one colour; a single one is not told from the plain ground that a figure stands before.
    """
    height, width, _ = rgb.shape
    few, fewer = max(1, height // 512), max(1, width // 512)
    down, across = rgb[:, ::fewer], rgb[::few].transpose(1, 0, 2)
    top, bottom = _plain(down), _plain(down[::-1])
    across = across[:, top // few : len(rgb[::few]) - bottom // few]
    left, right = _plain(across), _plain(across[::-1])
    down = down[:, left // fewer : down.shape[1] - right // fewer]
    top, bottom = _pair(down, top, bottom)
    left, right = _pair(across, left, right)
    return left / width, top / height, right / width, bottom / height


def _plain(rows: NDArray[np.uint8]) -> int:
    """(N, M, 3) -> how many of the first rows are of the first one's colour; 0 where there is no end to them."""
    most = int(len(rows) * BORDER_MOST)
    colour = np.median(rows[0], axis=0).astype(np.int16)
    count = 0
    while count < most and _unlike(rows[count], colour).mean() < 0.01:
        count += 1
    return 0 if count == most else count


def _pair(rows: NDArray[np.uint8], first: int, last: int) -> tuple[int, int]:
    """(N, M, 3), as wide as what lies between the other two bars -> rows of the bars at both ends; 0, 0 for none."""
    colours = [np.median(row, axis=0).astype(np.int16) for row in (rows[0], rows[-1])]
    if not first or not last or np.abs(colours[0] - colours[1]).max() > 2 * BORDER_SPREAD:
        return 0, 0
    found = []
    for count, colour, inwards in ((first, colours[0], rows), (last, colours[1], rows[::-1])):
        smeared = _unlike(inwards[count : count + BORDER_SMEAR], colour).mean(axis=1) >= 0.5
        end = count + int(np.argmax(smeared))  # the first such row, or where the clean part ends
        beyond = _unlike(inwards[end : end + max(3, round(len(rows) * BORDER_DEPTH))], colour)
        if beyond.any(axis=0).mean() < BORDER_EDGE:
            return 0, 0
        found.append(end)
    return found[0], found[1]


def _unlike(pixels: NDArray[np.uint8], colour: NDArray[np.int16]) -> NDArray[np.bool_]:
    """(..., 3) -> (...): which are not of this colour."""
    return (np.abs(pixels.astype(np.int16) - colour) > BORDER_SPREAD).any(axis=-1)


def sharpness(gray: Array) -> float:
    """gray (H, W), any scale -> variance of the Laplacian divided by the variance of the picture.

    0 for a flat or wholly blurred picture, about 0.01 for soft ones, 0.1 and above for hard edges; 20 at most (a
    chequerboard of single pixels comes near). The division makes it independent of contrast. It cannot tell a soft
    subject before a sharp background, counts noise as sharpness, and differs between techniques: compare it only
    within one set. Variance of the Laplacian: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy",
    ICPR 2000.
    """
    if min(gray.shape) < 3:
        return 0.0
    variance = float(gray.var())
    if variance < 1e-8 * max(1.0, float(np.abs(gray).max()) ** 2):
        return 0.0
    centre = gray[1:-1, 1:-1]
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * centre
    return float(laplacian.var()) / variance


def perceptual_hash(gray: Array) -> int:
    """gray (H, W) -> 64 bits: which of the 8 x 8 lowest cosine frequencies of a 32 x 32 copy lie above their median.

    Re-saving, resizing and slight changes of tone alter few bits (0 to 6); different pictures differ in about 32. It
    sees only coarse shapes: drawings of one character in one pose may differ in 0 to 10 bits though clothes and
    face changed, so it never decides alone. Known as pHash (Zauner, "Implementation and benchmarking of perceptual
    image hash functions", 2010).
    """
    return hash_bits(low_frequencies(gray))


def low_frequencies(gray: Array) -> Array:
    """gray (H, W) -> (8, 8): the lowest cosine frequencies of a 32 x 32 copy."""
    basis = _cosines(HASH_SIDE)[:8]
    return basis @ area_resize(gray, HASH_SIDE, HASH_SIDE) @ basis.T


def hash_bits(low: Array) -> int:
    """(8, 8) -> 64 bits: which lie above the median. Mirroring turns the sign of every second column."""
    values = low.ravel()
    bits = values > np.median(values[1:])  # the mean brightness (first term) takes no part in the median
    return int("".join("1" if bit else "0" for bit in bits), 2)


def colour_signature(pixels: NDArray[Any]) -> bytes:
    """pixels (H, W, 3) 0..255 -> mean colours of an 8 x 8 grid as 192 bytes (row by row, RGB)."""
    rows = _area_rows(pixels, SIGNATURE_SIDE)
    grid = _area_rows(rows.transpose(1, 0, 2), SIGNATURE_SIDE).transpose(1, 0, 2)
    return np.round(grid).clip(0, 255).astype(np.uint8).tobytes()


def area_resize(gray: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """(H, W) -> (height, width), of the same precision: each new pixel is the mean of the area it covers."""
    return _area_rows(_area_rows(gray, height).T, width).T


def _area_rows(pixels: NDArray[Any], new: int) -> NDArray[Any]:
    """(N, ...) -> (new, ...), bytes in double precision. Rows are added up without a matrix product: that would start
    threads of its own in each thread of an import, and they wait for each other for longer than all of this takes."""
    old = len(pixels)
    edges = np.linspace(0, old, new + 1)
    whole = np.minimum(np.floor(edges).astype(int), old - 1)
    precision = pixels.dtype if pixels.dtype.kind == "f" else np.dtype(np.float64)
    beyond = (edges - whole).astype(precision)
    total = np.empty((new, *pixels.shape[1:]), precision)
    for row, (first, last) in enumerate(pairwise(whole)):
        total[row] = pixels[first:last].sum(axis=0, dtype=precision if precision == pixels.dtype else np.uint32)
        total[row] += beyond[row + 1] * pixels[last] - beyond[row] * pixels[first]
    return total * precision.type(new / old)


def _cosines(size: int) -> Array:
    """(size, size) orthonormal DCT-II basis, one frequency a row."""
    frequency, place = np.arange(size)[:, None], np.arange(size)[None]
    basis = np.cos(np.pi * frequency * (2 * place + 1) / (2 * size)) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis
