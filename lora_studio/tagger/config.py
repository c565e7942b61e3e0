"""The settings of the auto-tagger. Imports no torch."""

from typing import Any

from pydantic import Field

from lora_studio.core.settings import Settings

ONE_OF = ("style", "hair colour", "hair", "skin", "expression", "eyewear", "clothes", "background")
"""Kinds of the starter's tags of which a picture has one: its pictures were drawn so."""


class TagConfig(Settings):
    """How pictures are tagged."""

    model: str = Field("starter", min_length=1)
    """The tagger: `starter`, or a folder with an open_clip model and a tag head."""
    threshold: float = Field(0.0, ge=0, le=1)
    """How sure the tagger must be to write a tag. 0 takes the level measured best for each tag; any other number counts for all tags alike, and a higher one gives fewer and surer tags."""  # noqa: E501
    max_tags: int = Field(30, ge=1, le=500)
    """At most so many tags for each picture, the surest ones."""
    exclude: tuple[str, ...] = ()
    """Tags never written."""
    skip_categories: tuple[str, ...] = ()
    """Kinds of tags left out, e.g. style for a style LoRA, so that the trigger word takes their place."""
    one_of: tuple[str, ...] = ONE_OF
    """Kinds of tags of which a picture gets the likeliest one only."""
    batch_size: int = Field(16, ge=1, le=256)
    """Pictures looked at together. More is faster and takes more memory."""


class TagJob(Settings):
    """What the tagging job is started with."""

    config: TagConfig = TagConfig()
    images: tuple[dict[str, Any], ...] = Field(min_length=1)
    """`{"id", "file"}` for each picture."""


class EmbedJob(Settings):
    """What the embedding job is started with."""

    model: str = Field("starter", min_length=1)
    images: tuple[dict[str, Any], ...] = ()
    """`{"id", "file"}` for each picture."""
    texts: tuple[str, ...] = ()
    """Prompts or tags to embed beside the pictures."""
    out: str = "embeddings.npz"
    """File to write, inside the job's folder."""
    batch_size: int = Field(16, ge=1, le=256)
