"""What is wrong with each picture of a set, in words that name what was measured and the threshold it crossed.

Blur and light are compared within the set, for a soft or dark style is none of its pictures' fault. How good each
detector is stands in `benchmarks/results/detection.md`; the thresholds say where they are from.
"""

from collections.abc import Callable

import numpy as np

from lora_studio.judge.facts import Flag, ImageFacts
from lora_studio.judge.measures import Measures

BAD = frozenset({"blurred", "too_small", "aspect", "dark", "bright", "blocky"})
"""Flags of a picture that is proposed for rejection. The others are remarks: a crop, a mask or a look settles them."""

# In the three sample projects pictures blurred on purpose lie at 0.0002 to 0.0013 and the others at 0.077 to 0.61.
PLAINLY_BLURRED = 0.002
ENOUGH_FOR_BLUR = 5
BLURRED_SHARE = 1 / 6
BLURRED_DEVIATIONS = 3.5  # the usual cut for outliers by median and MAD (Iglewicz and Hoaglin, 1993)
MAX_ENLARGEMENT = 1.25
"""A picture enlarged more than this to reach the training size teaches softness. Chosen by eye."""
SMALL_IN_SET = 1 / 3
MAX_ASPECT = 3.0
"""The usual buckets (256 to 1024 at 512) end near 4:1; beyond 3:1 only a sliver survives the crop."""
# Of 90 photographs and 75 drawings, the darkest has its lightest hundredth at 0.55, the palest its darkest at 0.49, and
# the flattest 0.33 between both (a photo of the moon); 0.4, 0.6 and 0.25 leave room.
DARK_LIGHTEST = 0.4
BRIGHT_DARKEST = 0.6
FLAT_RANGE = 0.25
COMMON = 0.5
"""Where so much of a set of ENOUGH_FOR_BLUR or more is dark, bright or flat, it is the style."""
BLOCKY = 2.5
"""Drawings and photographs saved without loss lie at 0 (all but one); photographs as JPEG of quality 75 at 0 to 2.6, of
20 mostly at 1.7 to 15, of 10 at 3 to 30. Half of the drawings of flat colour, which have little to spoil, lie under it
even at 10."""
BORDER = 0.01
"""Narrower bars are cut off by the bucket's own crop."""
LETTERED = 0.002
"""A signature of eight letters in the corner covers 0.003 to 0.01. Rows of tiles and windows, bricks and gravel are
taken for lettering in 5 of 65 photographs, which is why it is but a remark."""
ENOUGH_FACES = 0.6
"""A picture without a face is odd only where so many others have one: the faces of drawings are as good as never found,
and a whole set of them says nothing."""
SMALL_FACE = 0.1
"""Height of a face as a share of the picture's (a full figure's is about 0.12, a third of that is a crowd's)."""
FACE_PIXELS = 64
"""Side of a face at the training size: eight latents of 8 pixels, the least that can show eyes and mouth."""
LOW_AESTHETIC = 4.5
"""The lowest bound that LAION published a subset for (LAION-Aesthetics v2, 4.5+)."""

Found = list[tuple[int, Flag]]


def per_image(images: list[ImageFacts], kind: str, resolution: int = 0) -> dict[int, list[Flag]]:
    """The flags of each picture, by id; pictures with none are left out. `resolution` is the training side in pixels,
    0 when not chosen yet: then small ones are found by comparison with the rest. What was not looked at is not judged.
    """
    found = [*_blurred(images), *_too_small(images, resolution), *_long(images), *_light(images), *_spoilt(images)]
    if kind == "character":
        found += _faces(images, resolution)
    flags: dict[int, list[Flag]] = {}
    for image, flag in found:
        flags.setdefault(image, []).append(flag)
    return flags


def _blurred(images: list[ImageFacts]) -> Found:
    """Against the set's own median, since a soft style is not blurred; plainly blurred ones where the set is small."""
    if len(images) < ENOUGH_FOR_BLUR:
        text = f"blurred: there are no sharp edges in it (sharpness under {PLAINLY_BLURRED})"
        return [
            (image.id, Flag("blurred", text, None, image.sharpness, PLAINLY_BLURRED))
            for image in images
            if image.sharpness < PLAINLY_BLURRED
        ]
    values = np.log2([max(image.sharpness, 1e-9) for image in images])
    median = float(np.median(values))
    deviation = max(float(np.median(np.abs(values - median))) * 1.4826, 0.3)
    cut = min(median - BLURRED_DEVIATIONS * deviation, median + float(np.log2(BLURRED_SHARE)))
    found = []
    for image, value in zip(images, values, strict=True):
        if value < cut:
            times, least = min(999, round(2 ** (median - float(value)))), round(2 ** (median - cut))
            text = f"blurred: edges are {times} times softer than in the other pictures (more than {least} is odd here)"
            found.append((image.id, Flag("blurred", text, None, image.sharpness, 2**cut)))
    return found


def sizes(image: ImageFacts) -> list[tuple[float, float]]:
    """Width and height in pixels of each part that will be trained on."""
    parts = [crop or (0.0, 0.0, 1.0, 1.0) for crop in image.crops or (None,)]
    return [(image.width * (right - left), image.height * (bottom - top)) for left, top, right, bottom in parts]


def _too_small(images: list[ImageFacts], resolution: int) -> Found:
    """By the side of the square with the area of the smallest part that is trained on."""
    smallest = [min(sizes(image), key=lambda size: size[0] * size[1]) for image in images]
    sides = [float(np.sqrt(width * height)) for width, height in smallest]
    if resolution:
        least = resolution / MAX_ENLARGEMENT
    else:
        least = float(np.median(sides)) * SMALL_IN_SET if len(images) >= ENOUGH_FOR_BLUR else 0.0
    found = []
    for image, (width, height), side in zip(images, smallest, sides, strict=True):
        if side >= least:
            continue
        why = "much smaller than the other pictures, under a third of the usual side"
        if resolution:
            times = f"{resolution / max(side, 1):.1f} times"
            why = f"would be enlarged {times} to train at {resolution}, more than {MAX_ENLARGEMENT} makes it soft"
        cropped = "" if (None in image.crops or not image.crops) else " after the crop"
        text = f"too small ({round(width)} x {round(height)}{cropped}): {why}"
        found.append((image.id, Flag("too_small", text, None, side, least)))
    return found


def _long(images: list[ImageFacts]) -> Found:
    found = []
    for image in images:
        aspect = max(max(size) / max(min(size), 1e-9) for size in sizes(image))
        if aspect > MAX_ASPECT:
            text = f"a long strip ({aspect:.1f} to 1, more than {MAX_ASPECT:g} to 1): crop it, or most of it is cut off"
            found.append((image.id, Flag("aspect", text, None, aspect, MAX_ASPECT)))
    return found


def _light(images: list[ImageFacts]) -> Found:
    """Dark, bright and flat ones, unless the set is so."""
    return [
        *_unusual(images, "dark", DARK_LIGHTEST, lambda seen: (seen.lightest, seen.lightest < DARK_LIGHTEST),
                  "too dark: even the lightest part reaches only {value} of white ({threshold} is the least)"),
        *_unusual(images, "bright", BRIGHT_DARKEST, lambda seen: (seen.darkest, seen.darkest > BRIGHT_DARKEST),
                  "too bright: even the darkest part has {value} of white ({threshold} is the most)"),
        *_unusual(images, "flat", FLAT_RANGE,
                  lambda seen: (seen.lightest - seen.darkest, seen.lightest - seen.darkest < FLAT_RANGE),
                  "faint: from its darkest to its lightest part it spans {value} of the range (under {threshold})"),
    ]  # fmt: skip


def _unusual(
    images: list[ImageFacts], name: str, threshold: float, look: Callable[[Measures], tuple[float, bool]], text: str
) -> Found:
    """Flags with `look`'s value for those of which it says yes; none where it says so of half of the set."""
    seen = [(image.id, *look(image.measures)) for image in images if image.measures]
    crossed = [(image, value) for image, value, yes in seen if yes]
    if len(seen) >= ENOUGH_FOR_BLUR and len(crossed) >= COMMON * len(seen):
        return []
    return [
        (image, Flag(name, text.format(value=_percent(value), threshold=_percent(threshold)), None, value, threshold))
        for image, value in crossed
    ]


def _spoilt(images: list[ImageFacts]) -> Found:
    """What others have added: JPEG's blocks, bars, lettering; and a low mark where there is one."""
    found = []
    for image in images:
        seen = image.measures
        if seen and seen.blockiness >= BLOCKY:
            times = f"{1 + seen.blockiness:.1f} times"
            text = f"saved too small as JPEG: the edges of its blocks stand out {times} ({1 + BLOCKY:g} shows)"
            found.append((image.id, Flag("blocky", text, None, seen.blockiness, BLOCKY)))
        if seen and max(seen.borders) >= BORDER:
            sides = ("left", "top", "right", "bottom")
            bars = [f"{side} {_percent(bar)}" for side, bar in zip(sides, seen.borders, strict=True) if bar >= BORDER]
            text = f"has bars of one colour ({', '.join(bars)}; {_percent(BORDER)} shows): crop them off"
            found.append((image.id, Flag("borders", text, None, max(seen.borders), BORDER)))
        if image.lettering is not None and image.lettering >= LETTERED:
            text = f"lettering or a watermark on {_percent(image.lettering)} of it (from {_percent(LETTERED)} on)"
            found.append((image.id, Flag("lettering", f"{text}: it may be learned", None, image.lettering, LETTERED)))
        if image.aesthetic is not None and image.aesthetic < LOW_AESTHETIC:
            text = f"few would call it pleasing: {image.aesthetic:.1f} of 10 (under {LOW_AESTHETIC})"
            found.append((image.id, Flag("low_aesthetic", text, None, image.aesthetic, LOW_AESTHETIC)))
    return found


def _faces(images: list[ImageFacts], resolution: int) -> Found:
    """For characters: none, several, or too small a face. Remarks only: the detector misses faces, drawn ones above
    all."""
    looked = [image for image in images if image.faces is not None]
    share = float(np.mean([bool(image.faces) for image in looked])) if looked else 0.0
    usual = len(looked) >= ENOUGH_FOR_BLUR and share >= ENOUGH_FACES
    found: Found = []
    for image in looked:
        faces = image.faces or ()
        if not faces:
            if usual:
                text = f"no face found, though {_percent(share)} of the pictures have one"
                text += f" (from {_percent(ENOUGH_FACES)} on that is odd)"
                found.append((image.id, Flag("no_face", text, None, 0, 1)))
            continue
        if len(faces) > 1:
            text = f"{len(faces)} faces (more than 1): which one is the character? Crop or mask the others"
            found.append((image.id, Flag("many_faces", text, None, len(faces), 1)))
        largest = max(bottom - top for _, top, _, bottom in faces)
        pixels = largest * image.height * (resolution / image.side if resolution else 1)
        if largest < SMALL_FACE:
            text = f"the face is small: {_percent(largest)} of the height (under {_percent(SMALL_FACE)})"
            found.append((image.id, Flag("small_face", text, None, largest, SMALL_FACE)))
        elif pixels < FACE_PIXELS:
            text = f"the face is small: {round(pixels)} pixels high in training (under {FACE_PIXELS})"
            found.append((image.id, Flag("small_face", text, None, pixels, FACE_PIXELS)))
    return found


def _percent(share: float) -> str:
    """`12 %`, `0.4 %`."""
    return f"{share * 100:.1f} %" if share < 0.0195 else f"{round(share * 100)} %"
