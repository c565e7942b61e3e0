"""What the engine asks of a model family. Everything that differs between families stands behind these names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from lora_studio.engine.config import BaseConfig

AS_IT_SAYS = BaseConfig()
"""Take a base as it describes itself."""


@dataclass(frozen=True)
class Text:
    """Captions as the network reads them; one row a caption."""

    states: Tensor
    """(B, tokens, width): 77 tokens for each chunk of 75."""
    pooled: Tensor | None = None
    """(B, width) of the caption as a whole; only some families have it."""

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name, for caches."""
        return {"states": self.states} | ({} if self.pooled is None else {"pooled": self.pooled})

    def to(self, *args: Any, **kwargs: Any) -> "Text":
        """The same on another device or in another number format."""
        return Text(**{name: value.to(*args, **kwargs) for name, value in self.tensors().items()})

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Any) -> "Text":
        """Some rows, e.g. `text[2:3]` or `text[indices]`."""
        return Text(**{name: value[rows] for name, value in self.tensors().items()})

    @staticmethod
    def cat(texts: "list[Text]") -> "Text":
        """All rows of several."""
        parts = [text.tensors() for text in texts]
        return Text(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


class Family(Protocol):
    """A loaded base model. Parts are loaded when first asked for and can be let go again."""

    device: torch.device
    dtype: torch.dtype
    """Number format of the frozen weights."""
    in_main_memory: tuple[str, ...]
    """Parts that are loaded into main memory instead of onto the device; nothing is meant to be computed with them
    there."""
    text_parts: tuple[str, ...]
    """The text encoders that can be trained: `text_encoder` and, for some, `text_encoder_2`."""
    prediction_type: str
    """`epsilon`, `v_prediction` or `sample`."""
    alphas_cumprod: Tensor
    """(T,) share of the picture left at each timestep, fp32 on the device; zero at the end for zero terminal SNR."""

    @classmethod
    def load(cls, path: Path, device: torch.device, dtype: torch.dtype, config: BaseConfig = AS_IT_SAYS) -> Self:
        """Open the base at `path` (folder or single file) without reading weights. Raises UserError when it is no
        such base."""
        ...

    def part(self, name: str) -> nn.Module:
        """`unet`, `vae` or one of `text_parts`: frozen, on the device, loaded when first asked for."""
        ...

    def loaded(self, name: str) -> bool:
        """Whether the part is in memory."""
        ...

    def release(self, name: str) -> None:
        """Forget a part; it is loaded anew when asked for."""
        ...

    def identity(self, name: str) -> str:
        """SHA-256 of the weights of a part (`text` for all text parts together): the key of what is cached from it."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> scaled latents (B, C, h, w), without chance."""
        ...

    def decode_images(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> pixels (B, 3, H, W) in about -1..1, in fp32 whatever the others are in."""
        ...

    def num_tokens(self, captions: list[str], weighted: bool = False) -> list[int]:
        """Tokens of each caption, without begin and end, of the text encoder that needs most; `weighted` reads
        (word:1.2)."""
        ...

    def encode_text(self, captions: list[str], clip_skip: int, chunks: int = 1, weighted: bool = False) -> Text:
        """Captions -> what the network reads; gradients flow. Always `chunks` pieces of 75 tokens each: what a caption
        has more is cut off, what it has less is filled up with empty pieces, so it does not depend on its company.
        `weighted` reads (word:1.2). `clip_skip` counts from 1, the family's standard."""
        ...

    def draw_timesteps(self, count: int, config: Any, generator: torch.Generator) -> Tensor:
        """(count,) timesteps for training by an ObjectiveConfig, from `generator`."""
        ...

    def fixed_timesteps(self, count: int) -> Tensor:
        """(count,) timesteps spread over the noise levels, for validation."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noisy latents (B, C, h, w) that the network is shown at `timesteps` (B,)."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The right answer (B, C, h, w) of the network for these."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Text, frames: Tensor) -> Tensor:
        """The network's answer (B, C, h, w). `frames` (B, 6): original height and width, top and left of the cut,
        target height and width, in pixels; families that are not told of them ignore it."""
        ...

    def pipeline(self, sampler: str) -> Any:
        """A diffusers pipeline over the very parts held here, with the named sampler. Its VAE is in fp32: ask it for
        latents and decode them by `decode_images`."""
        ...

    def sampler(self, name: str) -> Any:
        """A fresh diffusers scheduler for drawing, with the base's own noise schedule."""
        ...

    def conditions(self, prompts: list[str], negative: str, clip_skip: int) -> dict[str, Any]:
        """Prompts as the pipeline's arguments (prompt_embeds, ...); long and weighted prompts are read."""
        ...

    def adapter_layers(self, layers: str, parts: list[str]) -> dict[str, list[str]]:
        """Module names to adapt in each of the parts (`unet`, text parts), for the setting adapter.layers."""
        ...

    def key_name(self, part: str, module: str) -> str:
        """The name that other programs know the module by in a LoRA file, without its ending."""
        ...

    def metadata(self) -> dict[str, str]:
        """What a LoRA file says of its base: ss_base_model_version, modelspec.architecture and so on."""
        ...
