"""The folder of regularisation pictures: which files there are and how large they look. No torch, so that the page
can count steps with it."""

import warnings
from pathlib import Path

from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.core.images import EXTENSIONS, FORMATS

SUFFIXES = {*EXTENSIONS.values(), ".jpeg", ".jfif", ".tiff"}
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations in which width and height change places
ORIENTATION = 0x0112  # EXIF tag


def picture_files(folder: str) -> list[Path]:
    """The picture files of the folder and those below it, in order of name; none for an empty setting.

    Raises UserError when there is no such folder or it holds no picture.
    """
    if not folder:
        return []
    path = Path(folder).expanduser()
    mend = "Correct data.regularization, or leave it empty to train without."
    if not path.is_dir():
        raise UserError(f"data.regularization: there is no folder {path}.", mend)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"data.regularization: the folder {path} holds no pictures.", mend)
    return files


def sizes(folder: str) -> list[tuple[int, int]]:
    """(width, height) of each of them as it is seen (EXIF turn applied), read from the files' heads alone.

    Raises UserError naming all files that are no pictures.
    """
    found, broken = [], []
    for file in picture_files(folder):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file, formats=FORMATS) as image:
                    turned = image.getexif().get(ORIENTATION) in SIDEWAYS
                    found.append(image.size[::-1] if turned else image.size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            broken.append(f"{file.name} ({str(error)[:80]})")
    if broken:
        raise broken_files(broken)
    return found


def broken_files(names: list[str]) -> UserError:
    """The error for regularisation pictures that cannot be used; `names` with the reason for each."""
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return UserError(
        f"Regularisation pictures that cannot be used: {listed}.",
        "Remove them from the folder of data.regularization, or replace them.",
    )
