"""Curation, the shape of a picture: crops, the mask, and what of it is trained."""

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import Field

from lora_studio.core.errors import UserError
from lora_studio.core.project import Project
from lora_studio.engine import buckets as engine_buckets
from lora_studio.steps import crops, curation, masks, training
from lora_studio.ui import pictures
from lora_studio.ui.studio import Studio

Share = Annotated[float, Field(ge=0, le=1)]
Box = tuple[Share, Share, Share, Share]
Boxes = Annotated[list[Box | None], Field(min_length=1, max_length=50)]
Png = Annotated[str, Field(max_length=masks.MAX_BYTES * 4 // 3)]
MIRRORING = "data.flip"


def functions(studio: Studio) -> dict[str, Any]:
    """What the shape editor's scripts call."""

    def shown(opened: Project, image_id: int, before: int) -> dict[str, Any]:
        studio.patch(opened, [opened.image(image_id)], before)
        return pictures.changed(opened, [image_id])

    def crop(project: str, id: int, box: Box | None) -> dict[str, Any]:
        opened = studio.open(project)
        before = opened.revision
        curation.set_crop(opened, id, box)
        return shown(opened, id, before)

    def set_crops(project: str, id: int, boxes: Boxes) -> dict[str, Any]:
        opened = studio.open(project)
        before = opened.revision
        curation.set_crops(opened, id, boxes)
        return shown(opened, id, before)

    def crop_to(project: str, id: int, to: Literal["face", "subject"]) -> Box:
        return crops.named(to)(studio.open(project), id)

    def preview(project: str, id: int, boxes: Boxes | None = None) -> list[dict[str, Any]]:
        opened = studio.open(project)
        return curation.preview(opened, studio.config(opened), id, boxes)

    def find_subject(project: str, id: int, box: Box | None = None) -> str:
        return base64.b64encode(masks.automatic(studio.open(project), id, box)).decode()

    def mask(project: str, id: int, png: Png | None) -> dict[str, Any]:
        opened = studio.open(project)
        before = opened.revision
        masks.save(opened, id, None if png is None else _bytes(png))
        return shown(opened, id, before)

    def shaping(project: str) -> dict[str, Any]:
        opened = studio.open(project)
        config = studio.config(opened)
        data = config.data
        return {
            "resolutions": engine_buckets.resolutions(data),
            "shapes": [] if data.no_upscale else engine_buckets.make_buckets(data),
            "batch": data.batch_size,
            "buckets": curation.buckets(opened, config),
            "random_crop": data.random_crop,
            "mask_outside": config.objective.mask_outside,
            "flip": data.flip,
            "one_sided": [found.text for found in studio.audit(opened).findings if MIRRORING in found.remedy],
        }

    def change(project: str, setting: Literal["objective.mask_outside", "data.flip"], value: float) -> dict[str, Any]:
        """Change one training setting that decides what of a picture counts; answers like `shaping`."""
        opened = studio.open(project)
        changed = training.current(opened).with_changes({setting: bool(value) if setting == MIRRORING else value})
        training.save_current(opened, changed)
        return shaping(project)

    return {
        "curation.crop": crop,
        "curation.crops": set_crops,
        "curation.crop_to": crop_to,
        "curation.preview": preview,
        "curation.find_subject": find_subject,
        "curation.mask": mask,
        "curation.shaping": shaping,
        "curation.change": change,
    }


def _bytes(png: str) -> bytes:
    try:
        return base64.b64decode(png, validate=True)
    except binascii.Error:
        raise UserError("The mask did not arrive whole.", "Save it again.") from None
