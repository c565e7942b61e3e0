"""The subject's outline in one picture, found while somebody waits: in a process of its own, since the page's process
never loads what sees.

    python -m lora_studio.steps.seeing FILE [LEFT TOP RIGHT BOTTOM] > mask.png
"""

import io
import subprocess
import sys
from pathlib import Path

from PIL import Image as Pil

from lora_studio.core import images
from lora_studio.core.errors import UserError
from lora_studio.core.project import Box

TIMEOUT = 120
"""Seconds; an outline takes one or two."""


def subject(file: Path, box: Box | None = None) -> Pil.Image:
    """Grey picture of the file's size as it is meant to be seen: 255 where the subject is, 0 elsewhere.

    All of the box (or picture) where nothing stands out. `box`, in shares, says where to look. Raises UserError when
    the file cannot be looked at.
    """
    words = [str(edge) for edge in box or ()]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lora_studio.steps.seeing", str(file), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError("Finding the subject takes too long here.", "Draw it by hand.") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason was given"]
        raise UserError(f"The subject of {file.name} was not found: {last[-1][:200]}.", "Draw it by hand.")
    with Pil.open(io.BytesIO(done.stdout), formats=("PNG",)) as mask:
        mask.load()
        return mask


def _main(file: str, *edges: str) -> None:
    import numpy as np

    from lora_studio.vision import faces
    from lora_studio.vision import subject as outline

    rgb = np.asarray(images.decode(Path(file)))
    box = tuple(float(edge) for edge in edges) if edges else None
    alpha = images.transparency(Path(file))
    found = outline.mask(rgb, box, None if alpha is None else np.asarray(alpha), faces.find(rgb))
    sys.stdout.buffer.write(images.png(Pil.fromarray(found)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
