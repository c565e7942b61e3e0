"""Captions as training shows them: the very functions of training, without torch."""

import random
from collections.abc import Iterable
from typing import Any

from lora_studio.core.project import Project
from lora_studio.engine.config import TrainConfig
from lora_studio.engine.wording import chance_of, draw
from lora_studio.steps import tokens, training
from lora_studio.steps.wording import words_of


def sample(
    project: Project,
    ids: Iterable[int] | None = None,
    count: int = 20,
    seed: int | None = None,
    config: TrainConfig | None = None,
) -> list[dict[str, Any]]:
    """`count` captions as they come up in training: of the pictures `ids` (None: all used ones), first each of them as
    in the first epoch (a choice by chance where they are more than `count`), then as in the second, and so on.

    Each is `{"id", "file", "epoch" (from 1), "text", "tags", "prose", "dropped": [tags], "ids": {encoder: [...]},
    "pieces": {encoder: [...]}, "cut": tokens beyond data.max_tokens}`; `ids` and `pieces` are what is read, without
    begin and end, and empty while the base is not here. With the config's own seed (the default) it is what a run with
    this config shows. Raises UserError when the base cannot be read.
    """
    config = config or training.current(project)
    if seed is not None:
        config = config.with_changes({"run.seed": seed})
    wanted = None if ids is None else set(ids)
    images = [image for image in project.used_images() if wanted is None or image.id in wanted]
    if len(images) > count:
        chosen = set(random.Random(f"{config.run.seed} seen").sample([image.id for image in images], count))
        images = [image for image in images if image.id in chosen]
    counter = tokens.counter(project, config)
    plan, found = project.plan, []
    for number in range(count if images else 0):
        epoch, place = divmod(number, len(images))
        image = images[place]
        chance = chance_of(config, epoch, str(image.id), 0, config.data.resolution)
        _, shown = draw(words_of(image, plan).led, config.data, chance)
        read = counter.tokens(shown.text) if counter else {}
        limit = config.data.max_tokens
        found.append(
            {
                "id": image.id,
                "file": image.name,
                "epoch": epoch + 1,
                "text": shown.text,
                "tags": shown.tags,
                "prose": shown.prose,
                "dropped": list(shown.dropped),
                "ids": {name: [token.id for token in all_[:limit]] for name, all_ in read.items()},
                "pieces": {name: [token.text or "·" for token in all_[:limit]] for name, all_ in read.items()},
                "cut": max((len(all_) - limit for all_ in read.values() if len(all_) > limit), default=0),
            }
        )
    return found
