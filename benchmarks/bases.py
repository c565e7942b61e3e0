"""Bases of published size with random weights, as diffusers folders, and pictures: for speed, not to look at."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lora_studio.core import paths

# Sizes as in the published config.json files of runwayml/stable-diffusion-v1-5 and stabilityai/stable-diffusion-xl.
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
             "block_out_channels": (320, 640, 1280, 1280)},
    "sdxl": {"sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
             "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
             "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
             "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
             "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
             "projection_class_embeddings_input_dim": 2816},
}  # fmt: skip
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
SCALING = {"sd15": 0.18215, "sdxl": 0.13025}
PICTURES = 8


def pictures(folder: Path, side: int) -> Path:
    """Soft pictures with .txt captions, and dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for index in range(PICTURES):
        small = Image.fromarray(np.random.default_rng(index).integers(0, 255, (8, 8, 3), dtype=np.uint8))
        path, caption = folder / f"{index}.png", f"zorbi, red {index}, smile"
        small.resize((side, side), Image.Resampling.BICUBIC).save(path)
        path.with_suffix(".txt").write_text(caption)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entry = {"id": str(index), "file": path.name, "caption": caption, "repeats": 1, "crop": None, "width": side}
        entries.append({**entry, "height": side, "sha256": digest})
    (folder / "dataset.json").write_text(json.dumps({"images": entries}))
    return folder / "dataset.json"


def make(name: str, folder: Path) -> Path:
    """The folder of `sd15` or `sdxl` in bf16, made when it is not there yet (2 and 7 GB)."""
    path = folder / name
    if (path / "model_index.json").exists():
        return path
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(Path(paths.resolve_base("starter")) / "tokenizer")
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        levels = (128, 256, 512, 512)
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**UNETS[name]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP_L, **ends)),
            "vae": AutoencoderKL(
                block_out_channels=levels, layers_per_block=2, scaling_factor=SCALING[name],
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            ),
        }  # fmt: skip
        if name == "sdxl":
            config = CLIPTextConfig(**CLIP_G, **ends, hidden_act="gelu", projection_dim=1280)
            parts["text_encoder_2"] = CLIPTextModelWithProjection(config)
    finally:
        torch.set_default_dtype(before)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False,
        set_alpha_to_one=False,
    )  # fmt: skip
    if name == "sdxl":
        pipeline: Any = StableDiffusionXLPipeline(
            **parts, tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=scheduler, add_watermarker=False
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    pipeline.save_pretrained(path, safe_serialization=True)
    return path
