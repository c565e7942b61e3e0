"""The settings of the auto-tagger. Imports no torch."""

from typing import Any, Literal

from pydantic import Field, field_validator

from lora_studio.core.images import WHITE
from lora_studio.core.settings import Settings

ONE_OF = ("style", "hair colour", "hair", "skin", "expression", "eyewear", "clothes", "background")
"""Kinds of the starter's tags of which a picture has one: its pictures were drawn so."""
PROMPT = "Describe this picture in one or two plain sentences."


class TagConfig(Settings):
    """How pictures are tagged or described."""

    models: tuple[str, ...] = Field(("starter",), min_length=1, max_length=8)
    """The taggers: `starter`, a folder, a name on the hub (owner/model), or an open_clip model (ARCH:PRETRAINED). Those that write sentences fill the sentences."""  # noqa: E501
    combine: Literal["union", "intersection"] = "union"
    """With several taggers: write what any of them finds, or only what all of them find."""
    threshold: float = Field(0.0, ge=0, le=1)
    """How sure the tagger must be to write a tag. 0 takes the level measured best for each tag; any other number counts for all tags alike, and a higher one gives fewer and surer tags."""  # noqa: E501
    character_threshold: float = Field(0.0, ge=0, le=1)
    """The same for names of known characters, which are worth little unless sure. 0 takes the tagger's own level."""
    rating: bool = False
    """Whether the likeliest rating (general, sensitive, ...) is written as well, where the tagger knows ratings."""
    underscores: bool = False
    """Keep `_` inside tags (long_hair). Off writes blanks, which most bases read better; faces such as ^_^ keep theirs."""  # noqa: E501
    max_tags: int = Field(30, ge=1, le=500)
    """At most so many tags for each picture, the surest ones."""
    exclude: tuple[str, ...] = ()
    """Tags never written."""
    skip_categories: tuple[str, ...] = ()
    """Kinds of tags left out, e.g. style for a style LoRA, so that the trigger word takes their place."""
    one_of: tuple[str, ...] = ONE_OF
    """Kinds of tags of which a picture gets the likeliest one only."""
    vocabulary: str = ""
    """For models that compare pictures with words: a text file with one tag a line, in place of the studio's own."""
    prompt: str = Field(PROMPT, min_length=1, max_length=4000)
    """What a model that writes sentences is asked."""
    max_tokens: int = Field(120, ge=8, le=1000)
    """A model that writes sentences stops after so many tokens."""
    batch_size: int = Field(16, ge=1, le=256)
    """Pictures looked at together. More is faster and takes more memory."""

    @field_validator("models")
    @classmethod
    def _named(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if not all(name.strip() for name in models):
            raise ValueError("a tagger without a name; write starter, a folder, or a name on the hub")
        if len(set(models)) != len(models):
            raise ValueError("a tagger is named twice")
        return tuple(name.strip() for name in models)


class TagJob(Settings):
    """What the tagging job is started with."""

    config: TagConfig = TagConfig()
    images: tuple[dict[str, Any], ...] = Field(min_length=1)
    """`{"id", "file"}` for each picture, with `crop` (left, top, right, bottom as shares) where only a part is used."""
    background: str = WHITE
    """What lies under transparent pictures, as #rrggbb."""


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
