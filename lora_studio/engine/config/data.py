"""What is fed in: pictures, shapes, captions."""

from typing import Self

from pydantic import Field, model_validator

from lora_studio.core.settings import Settings


class DataConfig(Settings):
    """What is fed in."""

    resolution: int = Field(512, ge=32, le=4096, multiple_of=8)
    """Side of a square training picture in pixels; other shapes get the same area. Use what the base was made
    for (starter 128, SD 1.5 512)."""
    more_resolutions: tuple[int, ...] = ()
    """Further sizes in which every picture is trained too, e.g. 768, 1024: makes the LoRA hold at several sizes."""
    batch_size: int = Field(2, ge=1, le=256)
    """Pictures looked at in one step. More is steadier and needs more memory."""
    repeats: int = Field(1, ge=1, le=1000)
    """How often each picture comes up in an epoch, on top of its own repeats."""
    bucket_step: int = Field(64, ge=8, le=256, multiple_of=8)
    """Sides of the picture shapes are multiples of this. Smaller crops less and makes more shapes."""
    bucket_min: int = Field(256, ge=8, le=4096, multiple_of=8)
    """Shortest side a picture shape may have. Longer pictures than this allows are cropped."""
    bucket_max: int = Field(1024, ge=32, le=8192, multiple_of=8)
    """Longest side a picture shape may have."""
    no_upscale: bool = False
    """Never enlarge small pictures: they are trained at their own size instead."""
    flip: bool = False
    """Also show each picture mirrored. Leave it off when left and right matter (a scar, a text, hair to one side)."""
    color_jitter: float = Field(0.0, ge=0, le=0.5)
    """Changes brightness, contrast and saturation of each picture a little each time (0.1). Not for styles."""
    random_crop: bool = False
    """Cut pictures at a chance place in place of the centre."""
    alpha_mask: bool = False
    """Take a picture's transparency as its mask: what is transparent counts as objective.mask_outside says."""
    balance: tuple[str, ...] = ()
    """Tags whose pictures shall come up equally often, e.g. two outfits: the rarer ones are repeated more."""
    regularization: str = ""
    """Folder of regularisation pictures (others of the same kind, with .txt captions): they keep the base as it is.
    They count as objective.prior_weight says."""
    shuffle_tags: bool = True
    """Mix the order of the tags in every step, so that none is tied to its place. Sentences are never mixed."""
    keep_tokens: int = Field(1, ge=0, le=50)
    """How many tags at the front stay in place and are never dropped; the trigger word is one of them, and stays there at 0 too."""  # noqa: E501
    caption_dropout: float = Field(0.0, ge=0, le=1)
    """Share of the steps in which a picture is shown without any caption. A little (0.05 to 0.1) helps styles."""
    tag_dropout: float = Field(0.0, ge=0, le=1)
    """Chance for each tag behind the kept ones to be left out. A little makes the LoRA less picky about prompts."""
    wildcards: bool = False
    """Where a caption says {red hat|blue hat}, show one of them by chance each time. Off, braces are plain text."""

    max_tokens: int = Field(225, ge=75, le=450, multiple_of=75)
    """Longest caption in tokens; what is beyond is cut off. 75 is one piece of the text encoder, 225 three."""
    weighted_captions: bool = False
    """Read (word:1.2) in captions as weights. Leave it off when tags hold brackets, as in ganyu (genshin impact)."""

    @model_validator(mode="after")
    def _buckets_fit(self) -> Self:
        side = f"data.resolution {self.resolution}"
        wrong = {
            "bucket_min": (self.bucket_min > self.resolution, "larger", "lower it or raise the resolution"),
            "bucket_max": (self.bucket_max < self.resolution, "smaller", "raise it or lower the resolution"),
            "bucket_step": (self.bucket_step > self.resolution, "larger", "lower it (64, or 8 for small pictures)"),
        }
        problems = [
            f"data.more_resolutions: {side} does not lie in 32 to 4096 or is no multiple of 8"
            for side in self.more_resolutions
            if not 32 <= side <= 4096 or side % 8
        ]
        problems += [
            f"data.{name}: {getattr(self, name)} is {how} than {side}; {mend}"
            for name, (is_wrong, how, mend) in wrong.items()
            if is_wrong
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self
