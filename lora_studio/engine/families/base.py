"""What the engine asks of a model family. Everything that differs between families stands behind these names."""

from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn


class Family(Protocol):
    """A loaded base model. Parts are loaded when first asked for and can be let go again."""

    device: torch.device
    dtype: torch.dtype
    """Number format of the frozen weights."""

    @classmethod
    def load(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """Open the base at `path` without reading weights. Raises UserError when it is no such base."""
        ...

    def release(self, part: str) -> None:
        """Forget a part (`vae`, `text_encoder`); it is loaded anew when asked for."""
        ...

    @property
    def network(self) -> nn.Module:
        """The part that predicts, frozen."""
        ...

    @property
    def text_network(self) -> nn.Module:
        """The text encoder that can be trained, frozen."""
        ...

    @property
    def text_network_loaded(self) -> bool:
        """Whether the text encoder is in memory."""
        ...

    def identity(self, part: str) -> str:
        """SHA-256 of the weights of `vae` or `text_encoder`: the key of what is cached from it."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> scaled latents (B, C, h, w), without chance."""
        ...

    def encode_text(self, captions: list[str], clip_skip: int) -> Tensor:
        """Captions -> states (B, tokens, width) that the network reads; gradients flow."""
        ...

    def count_cut_off(self, captions: list[str]) -> int:
        """How many captions are longer than the text encoder reads."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noisy latents (B, C, h, w) that the network is shown at `timesteps` (B,)."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The right answer (B, C, h, w) of the network for these."""
        ...

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) timesteps for training, from `generator`."""
        ...

    def fixed_timesteps(self, count: int) -> Tensor:
        """(count,) timesteps spread over the noise levels, for validation."""
        ...

    def snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """(B,) weights of the loss by min-SNR; ones when gamma is 0."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, text_states: Tensor) -> Tensor:
        """The network's answer (B, C, h, w)."""
        ...

    def pipeline(self, sampler: str) -> Any:
        """A diffusers pipeline over the very parts held here, with the named sampler."""
        ...

    def sampler(self, name: str) -> Any:
        """A fresh diffusers scheduler for drawing, with the base's own noise schedule."""
        ...

    def adapter_layers(self, layers: str, parts: list[str]) -> dict[str, list[str]]:
        """Module names to adapt in each of the parts (`unet`, `text_encoder`), for the setting adapter.layers."""
        ...

    def key_name(self, part: str, module: str) -> str:
        """The name that other programs know the module by in a LoRA file, without its ending."""
        ...

    def metadata(self) -> dict[str, str]:
        """What a LoRA file says of its base: ss_base_model_version, modelspec.architecture and so on."""
        ...
