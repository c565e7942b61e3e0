"""Pictures by id: the page never names a path. Everything is looked up in the project store and stays inside it."""

import math
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from lora_studio.core import images, paths
from lora_studio.core.errors import UserError
from lora_studio.core.files import inside
from lora_studio.core.project import Box, Project
from lora_studio.steps import crops, training

FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
FRESH = {"Cache-Control": "private, no-cache"}
PICTURES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
WEIGHTS = {".safetensors": "application/octet-stream"}
HANDED_OUT = WEIGHTS | {".zip": "application/zip"}


def confined(folder: Path, name: str, types: dict[str, str]) -> Path:
    """The file `name` straight inside `folder`, of one of `types`. Raises UserError for anything else."""
    path = inside(folder, name)
    if path.parent != folder.resolve() or path.suffix.lower() not in types or not path.is_file():
        raise UserError(f"There is no file {Path(name).name} here.", "Reload the page.")
    return path


def routes(root: Path) -> APIRouter:
    """Routes under /media for the projects in `root`. What is not there is answered with 404 and a sentence."""
    router = APIRouter(prefix="/media")

    def answer(path: Path, v: str, **changes: Any) -> Response:
        types = PICTURES | HANDED_OUT
        return FileResponse(path, media_type=types[path.suffix.lower()], headers=FOREVER if v else FRESH, **changes)

    @router.get("/{project}/{image:int}/thumb")
    def thumb(project: str, image: int, v: str = "") -> Response:
        found = Project.open(root, project)
        return answer(found.thumb_path(found.image(image)), v)

    @router.get("/{project}/{image:int}/full")
    def full(project: str, image: int, v: str = "") -> Response:
        found = Project.open(root, project)
        return answer(found.view_path(found.image(image)), v)

    @router.get("/{project}/{image:int}/trained")
    def trained(
        project: str, image: int, n: int = 0, box: str = "", resolution: int = 0, flip: bool = False, v: str = ""
    ) -> Response:
        found = Project.open(root, project)
        config = training.current(found)
        if box:
            pixels = crops.trained_part(found, config, found.image(image), _box(box), resolution, flip)
        else:
            pixels = crops.trained_pixels(found, config, image, n, resolution, flip)
        return Response(images.png(pixels), media_type="image/png", headers=FOREVER if v else FRESH)

    @router.get("/{project}/{image:int}/mask")
    def mask(project: str, image: int, v: str = "") -> Response:
        found = Project.open(root, project)
        path = found.mask_path(found.image(image))
        if path is None or not path.is_file():
            raise UserError(f"Picture {image} has no mask.", "Draw one, or reload the page.")
        return answer(path, v)

    @router.get("/{project}/runs/{run}/samples/{name}")
    def sample(project: str, run: str, name: str, v: str = "") -> Response:
        return answer(confined(_member(root, project, "runs", run) / "samples", name, PICTURES), v)

    @router.get("/{project}/tests/{test}/{name}")
    def test(project: str, test: str, name: str, v: str = "") -> Response:
        folder = _member(root, project, "tests", test)
        images = folder / "images"
        return answer(confined(images if images.is_dir() else folder, name, PICTURES), v)

    @router.get("/{project}/trials/{job}/{name}")
    def trial(project: str, job: str, name: str) -> Response:
        return answer(confined(_member(root, project, "jobs", job) / "images", name, PICTURES), "")

    @router.get("/{project}/exports/{name}")
    def export(project: str, name: str) -> Response:
        path = confined(Project.open(root, project).folder / "exports", name, HANDED_OUT)
        return answer(path, "", filename=path.name)

    @router.get("/samples/{kind}/{name}")
    def starter(kind: str, name: str, v: str = "") -> Response:
        folder = inside(paths.assets() / "starter" / "samples", kind)
        return answer(confined(folder / "images", name, PICTURES), v)

    return router


def _box(text: str) -> Box:
    """A crop that is not saved yet: left,top,right,bottom as shares."""
    try:
        left, top, right, bottom = (float(edge) for edge in text.split(","))
    except ValueError:
        left = top = right = bottom = math.nan
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UserError(f"{text[:60]} is no part of a picture.", "Name left,top,right,bottom from 0 to 1.")
    return left, top, right, bottom


def _member(root: Path, project: str, group: str, name: str) -> Path:
    parent = Project.open(root, project).folder / group
    folder = inside(parent, name)
    if folder.parent != parent.resolve():
        raise UserError(f"There is no {name} here.", "Reload the page.")
    return folder
