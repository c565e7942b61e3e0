"""Numbers of a picture, taken once at import: sharpness, perceptual hash, colour signature."""

import json
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

KEY = "measures-1"
"""Under which these stand in the project's findings (core.looks). Count it up when a measure changes."""
SHARPNESS_SIDE = 512
"""Longer side at which sharpness is measured: a large photo that is soft only at full size is trained small anyway."""
WORK_SIDE = 1024
"""Pictures of twice this side and more are first averaged in whole blocks, which keeps a 24-megapixel photo fast."""
HASH_SIDE = 32
SIGNATURE_SIDE = 8
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Measures:
    """What `measure` finds in one picture."""

    sharpness: float
    phash: int
    signature: bytes

    def to_bytes(self) -> bytes:
        """As the project's findings keep it, under KEY."""
        return json.dumps({**asdict(self), "signature": self.signature.hex()}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote."""
        values = json.loads(data)
        return cls(**{**values, "signature": bytes.fromhex(values["signature"])})


def measure(rgb: NDArray[np.uint8]) -> Measures:
    """rgb (H, W, 3) 0..255 -> its sharpness, 64-bit perceptual hash and 192-byte colour signature."""
    pixels = _blocks(np.asarray(rgb)) / 255
    gray = pixels @ LUMA
    height, width = gray.shape
    scale = min(1.0, SHARPNESS_SIDE / max(height, width))
    small = gray if scale == 1 else area_resize(gray, max(3, round(height * scale)), max(3, round(width * scale)))
    return Measures(sharpness(small), perceptual_hash(gray), colour_signature(pixels))


def _blocks(rgb: NDArray[np.uint8]) -> Array:
    """(H, W, 3) -> (H // n, W // n, 3) means of n x n blocks, n so that the longer side comes near WORK_SIDE."""
    height, width, _ = rgb.shape
    size = max(1, min(max(height, width) // WORK_SIDE, min(height, width) // HASH_SIDE))
    if size == 1:
        return rgb.astype(np.float64)
    whole = rgb[: height // size * size, : width // size * size]
    total = np.zeros((height // size, width // size, 3), np.uint32)
    for row in range(size):
        for column in range(size):
            total += whole[row::size, column::size]
    return total / (size * size)


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
    small = area_resize(gray, HASH_SIDE, HASH_SIDE)
    basis = _cosines(HASH_SIDE)[:8]
    low = (basis @ small @ basis.T).ravel()
    bits = low > np.median(low[1:])  # the mean brightness (first term) takes no part in the median
    return int("".join("1" if bit else "0" for bit in bits), 2)


def colour_signature(pixels: Array) -> bytes:
    """pixels (H, W, 3) 0..1 -> mean colours of an 8 x 8 grid as 192 bytes (row by row, RGB)."""
    channels = [area_resize(pixels[..., channel], SIGNATURE_SIDE, SIGNATURE_SIDE) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1) * 255).clip(0, 255).astype(np.uint8).tobytes()


def area_resize(gray: Array, height: int, width: int) -> Array:
    """(H, W) -> (height, width): each new pixel is the mean of the area it covers."""
    return _coverage(gray.shape[0], height) @ gray @ _coverage(gray.shape[1], width).T


def _coverage(old: int, new: int) -> Array:
    """(new, old) weights: the share of each old pixel in each new one; rows sum to 1."""
    edges = np.linspace(0, old, new + 1)
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old)[None]
    return np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None) * (new / old)


def _cosines(size: int) -> Array:
    """(size, size) orthonormal DCT-II basis, one frequency a row."""
    frequency, place = np.arange(size)[:, None], np.arange(size)[None]
    basis = np.cos(np.pi * frequency * (2 * place + 1) / (2 * size)) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis
