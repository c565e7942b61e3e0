"""What counts as right: noise, noise levels, loss."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lora_studio.core.settings import Settings, only


class ObjectiveConfig(Settings):
    """What counts as right."""

    weighting: Literal["none", "min_snr", "debiased", "p2"] = "min_snr"
    """How much each noise level counts: all alike (none), evened out (min_snr), the noisier ones more (debiased), or the middle ones more (p2)."""  # noqa: E501
    min_snr_gamma: float = only("weighting=min_snr", default=5.0, ge=0, le=100)
    """Of min_snr: evens out how much clear and noisy versions of a picture count, which learns faster (5 is usual). 0
    turns it off."""
    p2_gamma: float = only("weighting=p2", default=1.0, ge=0, le=2)
    """Of p2: how strongly the clear levels are counted less (1 is usual)."""
    loss: Literal["l2", "huber", "smooth_l1"] = "l2"
    """How errors are counted: squared (l2), or large ones less (huber, smooth_l1), which forgives odd pictures."""
    huber_c: float = only("loss=huber|smooth_l1", default=0.1, gt=0, le=10)
    """Size from which an error counts as large for huber and smooth_l1."""
    huber_schedule: Literal["constant", "exponential", "snr"] = only("loss=huber|smooth_l1", default="snr")
    """How that size changes with the noise: not at all, shrinking with noise exponentially, or by the signal-to-noise
    ratio."""
    noise_offset: float = Field(0.0, ge=0, le=1)
    """Lets the LoRA learn very dark and very bright pictures (0.05 to 0.1). Not needed for bases made with zero
    terminal SNR."""
    multires_iterations: int = Field(0, ge=0, le=10)
    """Adds coarser noise in so many sizes (pyramid noise, 6 is usual), which helps light and colour of the whole
    picture. 0 turns it off."""
    multires_discount: float = Field(0.3, gt=0, le=1)
    """How much each coarser size counts less (0.3 is usual)."""
    input_perturbation: float = Field(0.0, ge=0, le=1)
    """Noise on top of what the network is shown, not of what it shall find (0.05 to 0.1): less learning by heart."""
    timestep_min: int = Field(0, ge=0, le=999)
    """Least noise level trained (0 is the clear picture)."""
    timestep_max: int = Field(1000, ge=1, le=1000)
    """Highest noise level trained (1000 is pure noise)."""
    timestep_distribution: Literal["uniform", "logit_normal", "content", "style"] = "uniform"
    """Which noise levels come up: all alike, the middle more (logit_normal), the clear ones more (style: detail and
    texture), or the noisy ones more (content: shape and layout)."""
    logit_mean: float = only("timestep_distribution=logit_normal", default=0.0, ge=-5, le=5)
    """Of logit_normal: above 0 shifts to noisy levels, below to clear ones."""
    logit_std: float = only("timestep_distribution=logit_normal", default=1.0, gt=0, le=5)
    """Of logit_normal: how wide it is."""
    mask_outside: float = Field(0.0, ge=0, le=1)
    """For pictures with a mask: how much what lies outside counts. 0 leaves it out."""
    prior_weight: float = Field(1.0, ge=0, le=10)
    """How much regularisation pictures count beside the others."""
    preservation: float = Field(0.0, ge=0, le=10)
    """Works against style bleed: each step also asks that prompts without the trigger look as the base has them (0.5 to 1). Steps take about twice as long. 0 turns it off."""  # noqa: E501
    preservation_prompts: tuple[str, ...] = ()
    """Prompts that must not change. With none given, the captions without the trigger are used."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.timestep_min >= self.timestep_max:
            raise ValueError(
                f"timestep_min {self.timestep_min} is not below timestep_max {self.timestep_max}: "
                "lower it or raise the other"
            )
        return self
