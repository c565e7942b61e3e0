"""Pictures that were looked at already, without the seconds that loading the tagger takes: findings as the job keeps
them, of a set with two clusters and one picture that stands apart."""

import json
from collections.abc import Sequence

import numpy as np

from lora_studio.core.looks import Looks
from lora_studio.core.project import Project
from lora_studio.steps import looking


def look_at(project: Project, groups: Sequence[Sequence[str]]) -> None:
    """Keep findings for all pictures: picture n is seen to show the tags `groups[n % len(groups)]`, and its embedding
    lies with those of its group. The last picture imported lies far from all."""
    dice, images = np.random.default_rng(0), project.images()
    centres = dice.normal(size=(len(groups) + 1, 48))
    keys, looks = looking.names(project.plan), Looks(project.folder)
    found: dict[str, dict[str, bytes]] = {name: {} for name in ("embedding", "scores", "faces", "lettering")}
    for place, image in enumerate(images):
        group = place % len(groups)
        vector = centres[-1 if place == len(images) - 1 else group] + 0.25 * dice.normal(size=48)
        found["embedding"][image.sha256] = (vector / np.linalg.norm(vector)).astype(np.float32).tobytes()
        found["scores"][image.sha256] = json.dumps(dict.fromkeys(groups[group], 0.9)).encode()
        found["faces"][image.sha256] = json.dumps([[0.3, 0.2, 0.6, 0.5]]).encode()
        found["lettering"][image.sha256] = b"0.0"
    for name, of_contents in found.items():
        looks.put(keys[name], of_contents)
    looks.put(looking.COMPARED, {looking.comparison(project, images): b"1"})
