"""Pictures of another project, with all that was done to them."""

import json
from collections.abc import Iterator

from lora_studio.core.errors import UserError
from lora_studio.core.project import Project
from lora_studio.steps.sources.candidate import Candidate


def candidates(name: str, project: Project) -> Iterator[Candidate]:
    """All pictures of the project `name` in the same projects folder, with captions, repeats, decisions, crops, masks
    and origins. Raises UserError when there is no such project, or it is this one."""
    other = Project.open(project.root, name)
    if other.slug == project.slug:
        raise UserError(f"{name} is this very project.", "Name another one.")
    for image in other.images():
        mask = other.mask_path(image)
        yield Candidate(
            name=image.name,
            source=image.source or f"project {other.slug}",
            read=other.original_path(image).read_bytes,
            caption=image.caption,
            tags=True,
            prose=image.prose,
            repeats=image.repeats,
            url=image.url,
            author=image.author or other.plan.credit,
            licence=image.licence or other.plan.licence,
            consent=image.consent,
            origin=json.loads(image.origin) if image.origin else None,
            decision=image.decision,
            reason=image.reason,
            crops=image.crops,
            mask=mask.read_bytes if mask else None,
        )
