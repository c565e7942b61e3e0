"""Curation's views of the whole set: what is known of it, copies, the map of the embeddings."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from lora_studio.core import captions
from lora_studio.core.project import Image
from lora_studio.judge import layout, naming
from lora_studio.judge.coverage import BELIEVED
from lora_studio.steps import curation, looking, training
from lora_studio.ui import pictures
from lora_studio.ui.studio import Studio

KNOWN = ("embedding", "scores", "faces", "lettering")
"""What the judgement of a set is built on, as fields of `looking.Seen`."""


class Copies(BaseModel):
    """One group of copies as a person settled it."""

    best: int
    others: list[int]


Settled = Annotated[list[Copies], Field(max_length=100_000)]


def functions(studio: Studio) -> dict[str, Any]:
    """What the views call."""

    def whole(project: str) -> dict[str, Any]:
        """How many of the used pictures are known in which way, and the training sizes that never fill a batch."""
        opened = studio.open(project)
        config = training.current(opened)
        used = [image for image in studio.images(opened) if image.used]
        seen = studio.seen(opened)
        known = [seen.get(image.sha256, looking.NOTHING) for image in used]
        return {
            "used": len(used),
            "known": {name: sum(getattr(one, name) is not None for one in known) for name in KNOWN},
            "problem": looking.no_tagger(opened.plan),
            "buckets": curation.small_buckets(opened, config),
            "batch_size": config.data.batch_size,
        }

    def copies(project: str) -> dict[str, Any]:
        """What speaks for one copy or the other, and whether all that may be copies were compared yet."""
        opened = studio.open(project)
        groups = studio.audit(opened).groups
        wanted = {image_id for group in groups for image_id in (group.best, *(one.id for one in group.members))}
        images = studio.images(opened)
        sharpness = {image.id: image.sharpness for image in images if image.id in wanted}
        return {"sharpness": sharpness, "compared": looking.is_compared(opened, images)}

    def settle(project: str, groups: Settled) -> dict[str, Any]:
        opened = studio.open(project)
        count = sum(len(group.others) for group in groups)
        kept = f"#{groups[0].best}" if len(groups) == 1 else f"the best of {len(groups)} groups"
        with opened.edit(f"Keep {kept}, reject {count} like {'it' if len(groups) == 1 else 'them'}") as edit:
            for group in groups:
                edit.set(group.best, decision="keep", reason="")
                for image_id in group.others:
                    edit.set(image_id, decision="reject", reason=f"#{group.best} is kept in its place")
        return pictures.changed(opened, [one for group in groups for one in (group.best, *group.others)])

    def mapped(project: str) -> dict[str, Any]:
        """Where each picture lies, whatever was decided of it, and how many are not on the map for want of a look."""
        opened = studio.open(project)
        images, seen, trigger = studio.images(opened), studio.seen(opened), opened.plan.trigger
        stamp = (id(seen), trigger, [(image.id, image.caption) for image in images])
        # with the answer `seen` is kept alive, so that no other can get its id
        found, _ = studio.remembered(opened, "map", lambda: (_map(images, seen, trigger), seen), stamp)
        return {**found, "without": len(images) - len(found["points"]), "problem": looking.no_tagger(opened.plan)}

    return {
        "curation.whole": whole,
        "curation.copies": copies,
        "curation.settle": settle,
        "curation.map": mapped,
    }


def _map(images: Sequence[Image], seen: Mapping[str, looking.Seen], trigger: str) -> dict[str, Any]:
    known = [(image, seen[image.sha256]) for image in images if image.sha256 in seen]
    known = [(image, one) for image, one in known if one.embedding is not None]
    if not known:
        return {"points": [], "clusters": []}
    found = layout.layout([image.id for image, _ in known], np.stack([one.embedding for _, one in known]))
    tags = {image.id: _tags(image.caption, one.scores) - {trigger} for image, one in known}
    named = naming.names([point[3] for point in found.points], [tags[point[0]] for point in found.points])
    return {"points": found.points, "clusters": sorted(named.items())}


def _tags(caption: str, scores: dict[str, float] | None) -> set[str]:
    """What a picture shows, by its caption and by what the auto-tagger believes."""
    return {*captions.split(caption), *(tag for tag, score in (scores or {}).items() if score >= BELIEVED)}
