"""Lettering: titles, subtitles, signatures and watermarks, found without a model.

Letters are regions that keep their shape over a range of thresholds (MSER: Matas et al., 2002), with strokes of even
width; lettering is where several of them of one height, colour and stroke stand in a line. Nothing is read, so script
and language do not matter much as long as the letters stand apart: handwriting and joined scripts are missed, and rows
of like shapes (windows, tiles) can be taken for letters.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lora_studio.judge.facts import Box

KEY = "lettering-1"
"""Under which what `find` says stands in the project's findings. Count it up when the method changes."""
SIDE = 640
"""Longer side of the picture that is searched: letters of a hundredth of it are 6 pixels high."""
ANGLES = (0, 30, -30, 45, -45)
"""Directions of lines in degrees. Watermarks are often laid aslant."""
CONTRAST = 5
"""Steps of grey (of 255) over which a letter must keep its shape."""
HEIGHT = 7, 0.25
"""Letters: at least so many pixels, at most this share of the picture's height."""
FILL = 0.15, 0.9
"""Letters: share of their box that is ink."""
STROKE = 0.07, 0.4
"""Letters: width of a stroke over their height (from hairline to fat)."""
LETTERS_LEVEL, LETTERS_ASLANT = 6, 8
"""Letters in a line, at least; aslant more, for chance makes more such lines."""
CROWD = 1200
"""Where more regions than this could be letters it is grass, gravel or noise: chance sets some of them in a line."""
STRAIGHT = 0.1
"""Median distance of letters from the line they stand on, over their height. Measured: 0 to 0.12 for true lines, 0.15
to 0.4 in gravel, grass and fur."""
ALIKE = 0.4, 40
"""By how much a letter's stroke width (as a share of the line's median) and its colour (of 255) may differ."""
COLOUR_STEP = 45
"""By how much the colours of two neighbouring letters may differ: thin strokes blend with what is behind them."""
MOST = 0.7
"""Share of what stands in a row that must be alike."""


@dataclass(frozen=True)
class Lettering:
    """What is lettered in a picture."""

    share: float
    """Of the picture's area."""
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class _Letters:
    """Regions that may be letters: their boxes (n, 4) as left, top, right, bottom in a turned frame, stroke widths and
    colours (n,)."""

    boxes: NDArray[np.float64]
    strokes: NDArray[np.float64]
    colours: NDArray[np.float64]


def find(rgb: NDArray[np.uint8]) -> Lettering:
    """rgb (H, W, 3) -> where lettering stands in it."""
    height, width, _ = rgb.shape
    scale = SIDE / max(height, width)
    gray = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    size = max(16, round(width * scale)), max(16, round(height * scale))
    gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    covered = np.zeros(gray.shape, np.uint8)
    boxes: list[Box] = []
    for tone in (gray, 255 - gray):
        points, strokes, colours = _regions(tone)
        if len(points) > CROWD:
            continue
        for angle in ANGLES:
            turn = _turn(angle)
            letters = _upright(points, strokes, colours, turn)
            for left, top, right, bottom in _lines(letters, LETTERS_ASLANT if angle else LETTERS_LEVEL):
                corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) @ turn
                cv2.fillPoly(covered, [np.round(corners).astype(np.int32)], 1)
                x0, y0, x1, y1 = (*corners.min(axis=0) / size, *corners.max(axis=0) / size)
                boxes.append((max(0.0, float(x0)), max(0.0, float(y0)), min(1.0, float(x1)), min(1.0, float(y1))))
    return Lettering(float(covered.mean()), tuple(boxes))


def _regions(gray: NDArray[np.uint8]) -> tuple[list[NDArray[np.float64]], list[float], list[float]]:
    """Outlines (n, 2), stroke widths and colours of the regions, lighter than what is around, that may be letters."""
    height, width = gray.shape
    finder = cv2.MSER_create(CONTRAST, 24, max(25, int(0.02 * height * width)), 0.3)
    finder.setPass2Only(True)
    regions, boxes = finder.detectRegions(gray)
    found: tuple[list[NDArray[np.float64]], list[float], list[float]] = ([], [], [])
    for place in _once(boxes, height, width):
        region, (x, y, w, h) = regions[place], boxes[place]
        if not FILL[0] <= len(region) / (w * h) <= FILL[1]:
            continue
        mask = np.zeros((h + 2, w + 2), np.uint8)
        mask[region[:, 1] - y + 1, region[:, 0] - x + 1] = 1
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        if len(outlines) > 4:  # no letter has more than three holes
            continue
        outer = max(outlines, key=len)[:, 0]
        found[0].append(outer + np.array([x - 1.0, y - 1.0]))
        found[1].append(2 * len(region) / sum(len(outline) for outline in outlines))  # a band's area over its length
        found[2].append(float(gray[region[:, 1], region[:, 0]].mean()))
    return found


def _once(boxes: NDArray[np.int32], height: int, width: int) -> list[int]:
    """Which of (n, 4) boxes x, y, w, h have a letter's size, and of those that cover nearly the same place one each."""
    if not len(boxes):
        return []
    x, y, w, h = boxes.T
    longer, shorter = np.maximum(w, h), np.minimum(w, h)
    fits = (x > 0) & (y > 0) & (x + w < width) & (y + h < height)
    fits &= (longer >= HEIGHT[0]) & (longer <= HEIGHT[1] * height) & (shorter >= 2)
    kept: list[int] = []
    for place in np.nonzero(fits)[0][np.argsort(-(w * h)[fits], kind="stable")]:
        near = np.array(kept, int)
        across = np.minimum((x + w)[near], x[place] + w[place]) - np.maximum(x[near], x[place])
        down = np.minimum((y + h)[near], y[place] + h[place]) - np.maximum(y[near], y[place])
        shared = np.clip(across, 0, None) * np.clip(down, 0, None)
        same = shared > 0.6 * (w * h)[near]  # the kept ones are the larger
        part = (shared > 0.8 * w[place] * h[place]) & (h[place] > 0.7 * h[near]) & (w[near] < 2.2 * h[near])
        if not (same | part).any():
            kept.append(int(place))
    return kept


def _turn(angle: int) -> NDArray[np.float64]:
    """(2, 2): points @ its transpose are in a frame turned by so many degrees; points there @ it are back."""
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.array([(cosine, sine), (-sine, cosine)])


def _upright(
    points: list[NDArray[np.float64]], strokes: list[float], colours: list[float], turn: NDArray[np.float64]
) -> _Letters:
    """Those that stand like letters in the turned frame."""
    if not points:
        return _Letters(np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    turned = [outline @ turn.T for outline in points]
    boxes = np.array([(*outline.min(axis=0), *(outline.max(axis=0) + 1)) for outline in turned])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    stroke = np.array(strokes)
    fits = (height >= HEIGHT[0]) & (width / height > 0.1) & (width / height < 2.2)
    fits &= (stroke / height >= STROKE[0]) & (stroke / height <= STROKE[1])
    return _Letters(boxes[fits], stroke[fits], np.array(colours)[fits])


def _lines(letters: _Letters, least: int) -> list[tuple[float, float, float, float]]:
    """Boxes (in the letters' frame) of the lines that at least so many letters make."""
    boxes, strokes, colours = letters.boxes, letters.strokes, letters.colours
    group = np.arange(len(boxes))
    heights, middles = boxes[:, 3] - boxes[:, 1], (boxes[:, 0] + boxes[:, 2]) / 2
    for place, (_, top, right, bottom) in enumerate(boxes):
        taller, lower = np.maximum(heights, heights[place]), np.minimum(heights, heights[place])
        near = (middles > middles[place]) & (boxes[:, 0] - right < 0.9 * taller) & (lower > 0.5 * taller)
        near &= np.minimum(boxes[:, 3], bottom) - np.maximum(boxes[:, 1], top) > 0.6 * lower
        near &= np.minimum(np.abs(boxes[:, 3] - bottom), np.abs(boxes[:, 1] - top)) < 0.22 * taller
        near &= np.abs(colours - colours[place]) < COLOUR_STEP
        near &= np.minimum(strokes, strokes[place]) > 0.55 * np.maximum(strokes, strokes[place])
        same = np.unique(group[np.append(np.nonzero(near)[0], place)])
        group[np.isin(group, same)] = same[0]
    found = []
    for name, count in zip(*np.unique(group, return_counts=True), strict=True):
        line = _line(boxes[group == name], strokes[group == name], colours[group == name]) if count >= least else None
        if line is not None and len(line) >= least:
            left, top, right, bottom = line[:, 0].min(), line[:, 1].min(), line[:, 2].max(), line[:, 3].max()
            if right - left >= 2.5 * (bottom - top):
                found.append((float(left), float(top), float(right), float(bottom)))
    return found


def _line(
    boxes: NDArray[np.float64], strokes: NDArray[np.float64], colours: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Boxes (n, 4) that stand beside each other -> those that are letters of one line; None where they make none."""
    tallest, middles = np.argsort(-(boxes[:, 3] - boxes[:, 1]), kind="stable"), (boxes[:, 0] + boxes[:, 2]) / 2
    kept: list[int] = []  # what lies within a letter counts no second time
    for place in tallest:
        if not any(boxes[other, 0] < middles[place] < boxes[other, 2] for other in kept):
            kept.append(int(place))
    boxes, strokes, colours = boxes[kept], strokes[kept], colours[kept]
    stroke, colour = np.median(strokes), np.median(colours)
    alike = (np.abs(strokes - stroke) <= ALIKE[0] * stroke) & (np.abs(colours - colour) <= ALIKE[1])
    if alike.mean() < MOST or alike.sum() < 3:
        return None
    boxes = boxes[alike]
    height = np.median(boxes[:, 3] - boxes[:, 1])
    off = np.median(np.abs(_off_line(boxes[:, 0], boxes[:, 3]))) / height
    return boxes if off <= STRAIGHT else None


def _off_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) distances in y from the line through most points (medians of slopes and heights, Theil and Sen), which the
    letters that reach below it do not pull down."""
    one, other = np.triu_indices(len(x), 1)
    apart = x[one] != x[other]
    slope = np.median((y[other] - y[one])[apart] / (x[other] - x[one])[apart]) if apart.any() else 0.0
    rest = y - slope * x
    return rest - np.median(rest)
