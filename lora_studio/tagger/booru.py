"""How a picture is prepared for WD taggers: the steps they were trained with, to the byte.

Transparent places are white (core/images.decode has done that), the picture is padded with white to a square, centred,
the odd pixel right or below, and brought to the model's size: by areas when it shrinks, by Lanczos when it grows.
Colours are in the order blue, green, red. The recipe is that of sd-scripts' WD tagger.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHITE = 255


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """An RGB picture of any size -> (size, size, 3), blue first."""
    pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]
    height, width = pixels.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padded = np.full((side, side, 3), WHITE, np.uint8)
    padded[top : top + height, left : left + width] = pixels
    if side > size:
        return cv2.resize(padded, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(Image.fromarray(padded).resize((size, size), Image.Resampling.LANCZOS))
