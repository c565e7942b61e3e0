"""The subject's outline, by its transparency where there is one, else by GrabCut (Rother, Kolmogorov, Blake, 2004).

A start for the brush, no verdict: it tells colours apart, so a subject of the background's colours loses parts.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from lora_studio.judge.facts import Box

SIDE = 320
"""Longer side of the copy on which the outline is found; larger takes long and gains little."""
ROUNDS = 4
RIM = 0.02
"""Share of the sides along the left, upper and right edge that shows the background in nearly every picture; a subject
is mostly cut off by the lower one."""
MARGIN = 0.1
"""Of a box, around it: so much is looked at to learn its background."""
UNLIKE = 18.0
"""Distance in Lab from all colours of the rim from which on a place may be the subject."""
LEAST, MOST = 0.005, 0.98
"""Share of the picture; less or more was no outline."""
CRUMB = 0.05
"""Pieces smaller than this share of the largest are left out."""


def mask(
    rgb: NDArray[np.uint8],
    box: Box | None = None,
    alpha: NDArray[np.uint8] | None = None,
    faces: Sequence[Box] = (),
) -> NDArray[np.uint8]:
    """rgb (H, W, 3) -> (H, W): 255 on the subject, 0 elsewhere. The same input gives the same mask.

    Looks only within `box` where it is given; `alpha` (H, W) decides alone where it has both clear and opaque parts;
    `faces` are surely the subject. Where nothing stands out, all of the box (or of the picture) is the subject.
    """
    height, width, _ = rgb.shape
    if alpha is not None and 0.01 < float((alpha < 128).mean()) < 0.99:
        found = np.where(alpha >= 128, 255, 0).astype(np.uint8)
        return found if box is None else found & _filled((height, width), box)
    whole = box or (0.0, 0.0, 1.0, 1.0)
    part = _around(whole, (height, width))
    top, left = part[0].start, part[1].start
    part_height, part_width = part[0].stop - top, part[1].stop - left

    def moved(one: Box) -> Box:
        """A box of the picture as one of the part."""
        return (
            (one[0] * width - left) / part_width, (one[1] * height - top) / part_height,
            (one[2] * width - left) / part_width, (one[3] * height - top) / part_height,
        )  # fmt: skip

    found = np.zeros((height, width), np.uint8)
    found[part] = _cut_out(rgb[part], moved(box) if box else None, [moved(face) for face in faces])
    found &= _filled((height, width), whole)
    if not LEAST <= float((found[part] > 0).mean()) <= MOST:
        return _filled((height, width), whole)
    return found


def box(mask: NDArray[np.uint8]) -> Box:
    """(H, W) -> the box around the subject; the whole picture where the mask is empty."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not len(rows):
        return 0.0, 0.0, 1.0, 1.0
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def _around(box: Box, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the box and a MARGIN around it, which shows its background."""
    height, width = shape
    left, top, right, bottom = box
    across, down = MARGIN * (right - left), MARGIN * (bottom - top)
    rows = slice(max(0, round((top - down) * height)), min(height, round((bottom + down) * height)))
    return rows, slice(max(0, round((left - across) * width)), min(width, round((right + across) * width)))


def _cut_out(rgb: NDArray[np.uint8], box: Box | None, faces: Sequence[Box]) -> NDArray[np.uint8]:
    """rgb (H, W, 3) -> (H, W) 0 or 255; its subject lies within `box`, where that is given."""
    height, width, _ = rgb.shape
    scale = min(1.0, SIDE / max(height, width))
    size = max(8, round(width * scale)), max(8, round(height * scale))
    small = cv2.resize(np.ascontiguousarray(rgb), size, interpolation=cv2.INTER_AREA)
    seeds = _seeds(small, box, faces)
    if {int(cv2.GC_PR_FGD), int(cv2.GC_FGD)} & set(np.unique(seeds).tolist()):
        cv2.setRNGSeed(0)
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        cv2.grabCut(bgr, seeds, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = _main_parts(np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8))
    large = cv2.resize(found * np.uint8(255), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(large >= 128, 255, 0).astype(np.uint8)


def _seeds(rgb: NDArray[np.uint8], box: Box | None, faces: Sequence[Box]) -> NDArray[np.uint8]:
    """(H, W, 3) -> (H, W) what GrabCut starts from."""
    height, width, _ = rgb.shape
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    rim = np.ones((height, width), bool)
    if box is None:
        edge = max(1, round(RIM * min(height, width)))
        rim[edge:, edge:-edge] = False
    else:
        rim = _filled((height, width), box) == 0
    if not rim.any():  # the box is the whole picture
        return _seeds(rgb, None, faces)
    colours = lab[rim]
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    _, _, centres = cv2.kmeans(colours, min(5, len(colours)), None, stop, 1, cv2.KMEANS_PP_CENTERS)
    unlike = np.min([np.linalg.norm(lab - centre, axis=-1) for centre in centres], axis=0) > UNLIKE
    seeds = np.where(unlike, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seeds[rim] = cv2.GC_BGD
    for face in faces:
        left, top, right, bottom = face
        inset = (right - left) / 5, (bottom - top) / 5
        seeds[_filled((height, width), (left + inset[0], top + inset[1], right - inset[0], bottom)) > 0] = cv2.GC_FGD
    return seeds


def _filled(shape: tuple[int, int], box: Box) -> NDArray[np.uint8]:
    """(H, W): 255 inside the box."""
    height, width = shape
    left, top, right, bottom = box
    found = np.zeros(shape, np.uint8)
    found[round(top * height) : max(1, round(bottom * height)), round(left * width) : max(1, round(right * width))] = (
        255
    )
    return found


def _main_parts(found: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) 0 or 1 -> without crumbs, and with small holes filled."""
    for _ in range(2):  # first the crumbs of the subject, then those of the background, which are holes in it
        count, parts, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=4)
        if count > 1:
            areas = stats[1:, cv2.CC_STAT_AREA]
            found = np.isin(parts, np.nonzero(areas >= CRUMB * areas.max())[0] + 1).astype(np.uint8)
        found = 1 - found
    return found
