"""Where pictures are from and by what right they are used: shown and changed for one or for many."""

from collections.abc import Iterable, Mapping
from typing import Any

from lora_studio.core.project import PROVENANCE, Project


def common(project: Project, ids: Iterable[int]) -> dict[str, dict[str, Any]]:
    """For each field of PROVENANCE `{"value", "mixed"}`: what all of these pictures share; empty and mixed where they
    differ. Raises UserError for an unknown picture."""
    wanted = set(ids)
    images = [image for image in project.images() if image.id in wanted] if len(wanted) > 1 else []
    images = images or [project.image(image_id) for image_id in wanted]
    found = {}
    for field in PROVENANCE:
        values = {getattr(image, field) for image in images}
        found[field] = {"value": values.pop() if len(values) == 1 else "", "mixed": len(values) > 1}
    return found


def save(project: Project, ids: Iterable[int], values: Mapping[str, str]) -> None:
    """Give all of these pictures the same values: one undo entry. Raises UserError for an unknown picture."""
    ids = list(ids)
    with project.edit(f"Change the {', '.join(values)} of {len(ids)} picture{'s' if len(ids) != 1 else ''}") as edit:
        for image_id in ids:
            edit.set(image_id, **values)
