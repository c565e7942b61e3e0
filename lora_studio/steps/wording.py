"""Which words of a picture are trained: its tags, its sentences or both, as the plan says."""

from dataclasses import replace

from lora_studio.core.project import Image, Plan
from lora_studio.engine.wording import Words


def words_of(image: Image, plan: Plan) -> Words:
    """What of the picture's captions is trained, with the trigger that stands in front of it."""
    return trained(image.caption, image.prose, plan)


def trained(caption: str, prose: str, plan: Plan) -> Words:
    """What is trained of these tags and sentences."""
    return Words(caption if plan.captions != "prose" else "", prose if plan.captions != "tags" else "", plan.trigger)


def as_trained(image: Image, plan: Plan) -> Image:
    """The picture with only those captions that are trained, the trigger in front."""
    words = words_of(image, plan).led
    return replace(image, caption=words.caption, prose=words.prose)
