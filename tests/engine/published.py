"""The published configurations of the real bases, and their true classes on the meta device (no memory)."""

from functools import cache
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SD1_UNET: dict[str, Any] = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
    "attention_head_dim": 8, "layers_per_block": 2,
}  # fmt: skip
SD2_UNET = {
    **SD1_UNET, "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # fmt: skip
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
CLIP_L = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768, "hidden_act": "quick_gelu",
}  # fmt: skip
CLIP_H = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "projection_dim": 512, "hidden_act": "gelu",
}  # fmt: skip
CLIP_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
PARTS: dict[str, dict[str, tuple[type, dict[str, Any]]]] = {
    "sd1": {
        "unet": (UNet2DConditionModel, SD1_UNET), "vae": (AutoencoderKL, VAE), "text_encoder": (CLIPTextModel, CLIP_L),
    },
    "sd2": {
        "unet": (UNet2DConditionModel, SD2_UNET), "vae": (AutoencoderKL, VAE), "text_encoder": (CLIPTextModel, CLIP_H),
    },
    "sdxl": {
        "unet": (UNet2DConditionModel, SDXL_UNET), "vae": (AutoencoderKL, {**VAE, "sample_size": 1024}),
        "text_encoder": (CLIPTextModel, CLIP_L), "text_encoder_2": (CLIPTextModelWithProjection, CLIP_G),
    },
}  # fmt: skip


@cache
def part(family: str, name: str) -> nn.Module:
    """A part of a real base at full size, without weights."""
    kind, config = PARTS[family][name]
    with torch.device("meta"):
        return kind(CLIPTextConfig(**config)) if name.startswith("text") else kind(**config)
