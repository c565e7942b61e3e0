"""Stable Diffusion XL and all of its build: two text encoders, a pooled text, and the picture's frame as conditions."""

from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from lora_studio.engine.families.base import Text
from lora_studio.engine.families.latent import LatentFamily


class StableDiffusionXL(LatentFamily):
    """SDXL 1.0, Pony, Illustrious, NoobAI and so on."""

    keys = "sdxl"
    text_parts = ("text_encoder", "text_encoder_2")
    scaling = 0.13025

    def encode_text(self, captions: list[str], clip_skip: int, chunks: int = 1, weighted: bool = False) -> Text:
        """States of both encoders side by side, and encoder 2's projection of the first piece's end token.

        SDXL was trained on the last layer but one, without the final norm: that is clip_skip 1 here, and 2 is one
        layer further from the end (diffusers' own clip_skip is one less; programs that call SDXL's standard
        "clip skip 2" count one more).
        """
        first, _ = self._encode_part(0, captions, chunks, weighted, clip_skip, norm=False)
        second, answer = self._encode_part(1, captions, chunks, weighted, clip_skip, norm=False)
        return Text(torch.cat([first, second], dim=-1), answer.text_embeds[::chunks])

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Text, frames: Tensor) -> Tensor:
        # the frames stay fp32: bf16 knows no 1333
        added = {"text_embeds": text.pooled, "time_ids": frames.to(self.device, torch.float32)}
        unet = self.part("unet")
        return unet(noisy, timesteps, text.states, added_cond_kwargs=added, return_dict=False)[0]

    def pipeline(self, sampler: str) -> Any:
        pipeline = StableDiffusionXLPipeline(
            vae=self.part("vae"),
            text_encoder=self.part("text_encoder"),
            text_encoder_2=self.part("text_encoder_2"),
            tokenizer=self.tokenizers[0],
            tokenizer_2=self.tokenizers[1],
            unet=self.part("unet"),
            scheduler=self.sampler(sampler),
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def metadata(self) -> dict[str, str]:
        return super().metadata() | {
            "ss_base_model_version": "sdxl_base_v1-0",
            "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        }
