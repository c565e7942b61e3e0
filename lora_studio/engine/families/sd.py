"""Stable Diffusion 1.x and 2.x and all of their build, at any size, the small starter among them."""

from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
from diffusers import StableDiffusionPipeline
from torch import Tensor

from lora_studio.engine.families.base import Text
from lora_studio.engine.families.latent import LatentFamily


class StableDiffusion(LatentFamily):
    """SD 1.x and the starter, whose UNet also pools the text states itself (addition_embed_type `text`)."""

    keys = "sd"
    text_parts = ("text_encoder",)

    def encode_text(self, captions: list[str], clip_skip: int, chunks: int = 1, weighted: bool = False) -> Text:
        """The text encoder's states `clip_skip - 1` layers from the end, with the final norm; pooled there is none.

        For SD 2.x the folder's encoder already lacks the original's last layer, so clip_skip 1 is its standard and
        counts from there, as in diffusers (whose own clip_skip is one less) and sd-scripts.
        """
        states, _ = self._encode_part(0, captions, chunks, weighted, clip_skip - 1, norm=True)
        return Text(states)

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Text, frames: Tensor) -> Tensor:
        return self.part("unet")(noisy, timesteps, text.states, return_dict=False)[0]

    def pipeline(self, sampler: str) -> Any:
        pipeline = StableDiffusionPipeline(
            vae=self.part("vae"),
            text_encoder=self.part("text_encoder"),
            tokenizer=self.tokenizers[0],
            unet=self.part("unet"),
            scheduler=self.sampler(sampler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def metadata(self) -> dict[str, str]:
        velocity = "_v" if self.prediction_type == "v_prediction" else ""
        return super().metadata() | {
            "ss_base_model_version": f"sd_v1{velocity}",
            "modelspec.architecture": "stable-diffusion-v1/lora",
        }


class StableDiffusion2(StableDiffusion):
    """SD 2.x: another text encoder (OpenCLIP's), and names of its own in the file."""

    def metadata(self) -> dict[str, str]:
        velocity = self.prediction_type == "v_prediction"
        return super().metadata() | {
            "ss_v2": "True",
            "ss_base_model_version": "sd_v2_v" if velocity else "sd_v2",
            "modelspec.architecture": f"stable-diffusion-v2-{'768-v' if velocity else '512'}/lora",
        }
