"""A moving average of the weights: calmer than the last step, and often the better LoRA."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lora_studio.core.errors import UserError


class MovingAverage:
    """Average over the steps so far, in 32 bits, by the parameters' file keys."""

    def __init__(self, params: Mapping[str, Tensor], decay: float) -> None:
        self._params = dict(params)
        self._decay = decay
        self._average = {key: value.detach().float().clone() for key, value in self._params.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step` (1-based).

        average <- k average + (1 - k) weights with k = min(decay, (1 + step) / (10 + step)), the usual warm-up of the
        decay: without it a short run's average would still be half its beginning.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        weights = [value.detach().float() for value in self._params.values()]
        torch._foreach_lerp_(list(self._average.values()), weights, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The average by key, in 32 bits; the next `update` changes these very tensors."""
        return dict(self._average)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put an average back that `tensors` gave. Raises UserError when it belongs to another adapter."""
        shapes = {key: value.shape for key, value in tensors.items()}
        if shapes != {key: value.shape for key, value in self._average.items()}:
            raise UserError(
                "The saved moving average belongs to an adapter of another size or with other layers.",
                "Set adapter.rank, adapter.layers and run.ema_decay as they were, or start a new run.",
            )
        for key, value in tensors.items():
            self._average[key].copy_(value)
