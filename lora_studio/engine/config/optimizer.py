"""How the weights are moved, and how the learning rate changes on the way."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lora_studio.core.settings import Settings, only
from lora_studio.engine.config.adapter import pairs


class OptimizerConfig(Settings):
    """How the weights are moved."""

    kind: Literal[
        "adamw", "adamw8bit", "adafactor", "lion", "came", "prodigy", "schedulefree_adamw", "schedulefree_prodigy",
        "stable_adamw", "muon",
    ] = "adamw"  # fmt: skip
    """The method that moves the weights. AdamW is the safe choice; 8-bit saves memory on NVIDIA cards; Adafactor and CAME save it everywhere; Lion takes a third of AdamW's rate; Prodigy finds the rate itself (set the rates to 1); schedule-free needs no schedule (set it to constant)."""  # noqa: E501
    unet_lr: float = Field(5e-4, ge=0, le=10)
    """How far each step moves the picture part (UNet). Too high burns the pictures, too low learns nothing. 0 leaves
    it untouched."""
    text_encoder_lr: float = Field(1e-4, ge=0, le=10)
    """How far each step moves the text part. 0 leaves it untouched, which is usual for styles; a trigger word
    learns better with it."""
    text_encoder_2_lr: float = Field(0.0, ge=0, le=10)
    """The same for the second, larger text part of SDXL. 0 leaves it untouched; other bases have none."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """How strongly weights are drawn back to zero. A little keeps the adapter modest."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Memory for direction and size of past steps. Rarely needs a change."""
    max_grad_norm: float = Field(1.0, ge=0, le=1000)
    """The longest step allowed: one odd picture cannot throw the training off. 0 sets no limit."""
    lora_plus_ratio: float = Field(1.0, ge=1, le=64)
    """LoRA+: the up weights take this many times the rate of the down weights, which learns faster (4 to 16). 1 is
    the usual LoRA."""
    rates: tuple[str, ...] = ()
    """Rates by layer, REGEX=FACTOR, the first that fits counts: down_blocks=0.5, mid_block=2. Names begin with unet.,
    text_encoder. or text_encoder_2."""
    d_coef: float = only("kind=prodigy|schedulefree_prodigy", default=1.0, gt=0, le=10)
    """Prodigy only: makes the rate that it finds larger (2) or smaller (0.5)."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        problems = []
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas: both must lie in 0 to below 1 (given: {self.betas[0]}, {self.betas[1]})")
        try:
            pairs(self.rates, "optimizer.rates")
        except ValueError as error:
            problems.append(str(error))
        if not (self.unet_lr or self.text_encoder_lr or self.text_encoder_2_lr):
            problems.append("unet_lr, text_encoder_lr and text_encoder_2_lr are all 0: nothing would be trained")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class ScheduleConfig(Settings):
    """How the learning rate changes on the way."""

    kind: Literal[
        "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "rex", "rex_with_restarts", "one_cycle"
    ] = "cosine_with_restarts"
    """Shape of the learning rate: constant, falling in a line, falling softly (cosine), softly several times, by a power (polynomial), late and steeply (REX), REX several times, or up and down once (one cycle)."""  # noqa: E501
    restarts: int = only("kind=cosine_with_restarts|rex_with_restarts", default=3, ge=1, le=100)
    """How many times the rate falls from full to its end; used by cosine_with_restarts and rex_with_restarts only."""
    restart_decay: float = only("kind=rex_with_restarts", default=0.9, gt=0, le=1)
    """Height of each restart of REX, as a share of the one before."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the rate climbs from zero, so that the first steps cannot break anything. REX with
    restarts splits it among its cycles; one_cycle has its own rise and takes none."""
    warmup_steps: int = Field(0, ge=0, le=1_000_000)
    """The same as a number of steps; 0 takes the share above."""
    power: float = only("kind=polynomial", default=2.0, gt=0, le=10)
    """Polynomial only: 1 falls in a line, 2 falls fast at first."""
    end: float = only(
        "kind=linear|cosine|cosine_with_restarts|polynomial|rex|rex_with_restarts|one_cycle", default=0.0, ge=0, lt=1
    )
    """Where the rate ends, as a share of the full rate. Constant has no end."""
