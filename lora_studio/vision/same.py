"""Do two thumbnails show the same picture? Looked at pixel by pixel, after laying one over the other.

Hashes, colour grids and embeddings only say which pairs are worth a look (`judge.duplicates.candidates`): drawings of
one character in one pose agree in all of them though the mouth or the shirt changed. Here such a change is seen.
"""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Relation = Literal["same", "mirrored", "cropped", "whole"]
"""What the second of two pictures is to the first: `cropped` a part of it, `whole` more of it."""
Pixels = NDArray[np.float32]
Place = tuple[float, float, float, float]
"""Left, top, width, height in pixels of the picture that a part was found in."""

SIDE = 160
"""Longer side at which pixels are compared: a mouth is still some pixels high, traces of compression are not."""
COARSE_SIDE = 48
LEAST_SHARE = 0.45
"""The smallest part of a picture's area that is looked for in it; the figures of docs/judgement.md are for 0.5."""
STEP = 0.96
"""Sizes tried for a part: each this much shorter than the last; half a step off is mended by the fine alignment."""
COARSE = 0.75
"""Correlation from which the fine alignment is worth its time. True parts lie above 0.85 at 48 pixels."""
SAME_SHAPE = 1.03
"""Aspects within 3 % of each other are one shape: small copies are rounded to whole pixels."""
STRETCH = 0.04
"""How much the alignment may stretch or slant a part; a true one needs neither, but thumbnails are rounded."""

# Two aligned pixels agree within BASE levels of 255 and SHIFT pixels of misalignment. Measured on the labelled set
# (benchmarks/duplicates.py): of true copies at most 0.02 % of the pixels disagree (0.08 % where brightening cut off
# the whites), of another picture of the same character 0.8 % and more; of a part that shows only a corner of the other
# shirt 0.06 %.
BASE = 14.0
SHIFT = 0.9
MAX_BAD = 0.0015
MAX_BAD_IN_PART = 0.0003
# A change of tone that still is a "slight" one (brightness, contrast or saturation by about a quarter); what lies
# beyond is held to be another colouring.
MAX_MIXED = 0.3
MAX_OFFSET = 0.15
DRAWN = 1e-4
PLAINLY_OTHER = 40.0
"""Levels by which two pictures differ on average, at 24 x 24, when no slight change of tone can be the cause."""
WHITE, BLACK = 250.0, 5.0


def relation(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Relation | None:
    """a, b (H, W, 3) 0..255, thumbnails of two pictures -> what b is to a; None for another picture.

    A part may be mirrored as well; it is then called `cropped` or `whole`.
    """
    first, second = _fit(a, SIDE), _fit(b, SIDE)
    flipped = np.ascontiguousarray(second[:, ::-1])
    if _one_shape(first, second):
        size = first.shape[1], first.shape[0]
        if _agree(first, cv2.resize(second, size, interpolation=cv2.INTER_AREA)):
            return "same"
        if _agree(first, cv2.resize(flipped, size, interpolation=cv2.INTER_AREA)):
            return "mirrored"
    for other in (second, flipped):
        if _is_part(other, first):
            return "cropped"
        if _is_part(first, other):
            return "whole"
    return None


def _fit(rgb: NDArray[np.uint8], side: int) -> Pixels:
    """(H, W, 3) -> the same with its longer side at `side`."""
    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR).astype(np.float32)


def _one_shape(a: Pixels, b: Pixels) -> bool:
    ratio = (a.shape[1] / a.shape[0]) / (b.shape[1] / b.shape[0])
    return 1 / SAME_SHAPE <= ratio <= SAME_SHAPE


def _agree(a: Pixels, b: Pixels, most: float = MAX_BAD) -> bool:
    """(H, W, 3) both, laid over each other -> whether they are one picture but for tone and traces of saving: no more
    than the share `most` of the pixels disagrees."""
    small = [cv2.resize(pixels, (24, 24), interpolation=cv2.INTER_AREA) for pixels in (a, b)]
    if np.abs(small[0] - small[1]).mean() > PLAINLY_OTHER:
        return False
    a, b = (cv2.GaussianBlur(pixels, (0, 0), 0.8) for pixels in (a, b))
    toned = _same_tone(a, b)
    apart = toned - a
    # What is cut off at white or black was brighter or darker before the tone was changed.
    apart[((b > WHITE) & (apart < 0)) | ((a > WHITE) & (apart > 0))] = 0
    apart[((b < BLACK) & (apart > 0)) | ((a < BLACK) & (apart < 0))] = 0
    allowed = BASE + SHIFT * np.maximum(_slope(a), _slope(toned))
    return float((_largest(np.abs(apart)) > allowed).mean()) <= most


def _same_tone(a: Pixels, b: Pixels) -> Pixels:
    """b with brightness, contrast and saturation brought to a's, within what counts as a slight change.

    Least squares for the change of colour a = b M + o, drawn towards no change; as it is when M or o go too far.
    """
    flat_a, flat_b = a.reshape(-1, 3), b.reshape(-1, 3)
    within = (np.minimum(flat_a, flat_b) >= BLACK).all(axis=1) & (np.maximum(flat_a, flat_b) <= WHITE).all(axis=1)
    if within.mean() < 0.1:
        return b
    known = np.column_stack([flat_b[within] / 255, np.ones(int(within.sum()), np.float32)]).astype(np.float64)
    change = (flat_a[within] - flat_b[within]).astype(np.float64) / 255
    found = np.linalg.solve(known.T @ known + DRAWN * len(known) * np.eye(4), known.T @ change)
    if np.abs(found[:3]).max() > MAX_MIXED or np.abs(found[3]).max() > MAX_OFFSET:
        return b
    return (b + b @ found[:3].astype(np.float32) + 255 * found[3].astype(np.float32)).astype(np.float32)


def _slope(pixels: Pixels) -> NDArray[np.float32]:
    """(H, W, 3) -> (H, W) levels a pixel, the steepest of the three channels within one pixel around."""
    across = np.abs(cv2.Sobel(pixels, cv2.CV_32F, 1, 0, scale=1 / 8))
    down = np.abs(cv2.Sobel(pixels, cv2.CV_32F, 0, 1, scale=1 / 8))
    return cv2.dilate(_largest(across + down), np.ones((3, 3), np.uint8))


def _largest(pixels: Pixels) -> Pixels:
    """(H, W, 3) -> (H, W), the largest of the channels. NumPy's own maximum over so short an axis takes ten times as
    long."""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def _is_part(part: Pixels, whole: Pixels) -> bool:
    """Whether `part` is cut out of `whole`."""
    place = _find(part, whole)
    if place is None:
        return False
    laid = _lay(part, whole, place)
    return laid is not None and _agree(*laid, MAX_BAD_IN_PART)


def _find(part: Pixels, whole: Pixels) -> Place | None:
    """Where in `whole` the part correlates best, over all sizes of at least LEAST_SHARE; None when nowhere well."""
    scale = COARSE_SIDE / max(whole.shape[:2])
    size = round(whole.shape[1] * scale), round(whole.shape[0] * scale)
    ground = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    aspect = part.shape[1] / part.shape[0]
    if float(part.std()) < 1:  # of one colour: it would be found everywhere
        return None
    height = min(size[1], size[0] / aspect)
    best, place = COARSE, None
    while height * height * aspect >= LEAST_SHARE * size[0] * size[1] and min(height, height * aspect) >= 8:
        shape = min(size[0], round(height * aspect)), min(size[1], round(height))
        small = cv2.resize(part, shape, interpolation=cv2.INTER_AREA)
        _, score, _, corner = cv2.minMaxLoc(cv2.matchTemplate(ground, small, cv2.TM_CCOEFF_NORMED))
        if score > best:
            best, place = score, (corner[0] / scale, corner[1] / scale, shape[0] / scale, shape[1] / scale)
        height *= STEP
    return place


def _lay(part: Pixels, whole: Pixels, place: Place) -> tuple[Pixels, Pixels] | None:
    """The part, and the same region of `whole` in the part's pixels, aligned to fractions of a pixel; edges cut off.

    By enhanced correlation (Evangelidis and Psarakis, PAMI 2008). None when only a slanted or stretched region fits.
    """
    height, width = part.shape[:2]
    left, top, across, down = place
    start = np.array([[across / width, 0, left], [0, down / height, top]], np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-5)
    grays = [cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in (part, whole)]
    try:
        _, found = cv2.findTransformECC(grays[0], grays[1], start, cv2.MOTION_AFFINE, stop, None, 5)
    except cv2.error:  # it does not converge on what does not match
        return None
    wide, high = float(found[0, 0]), float(found[1, 1])
    slant = max(abs(float(found[0, 1])), abs(float(found[1, 0])))
    if wide <= 0 or high <= 0 or slant > STRETCH * wide or not 1 - STRETCH < wide / high < 1 + STRETCH:
        return None
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    region = cv2.warpAffine(whole, found, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = slice(3, height - 3), slice(3, width - 3)
    return np.ascontiguousarray(part[inside]), np.ascontiguousarray(region[inside])
