"""True Stable Diffusion 1, 2 and XL model folders at the smallest size, built with random weights from a fixed seed."""

import hashlib
import json
from pathlib import Path

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

VELOCITY = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
EPSILON = {"prediction_type": "epsilon", "steps_offset": 1}


def byte_characters() -> list[str]:
    """The 256 printable stand-ins for bytes that CLIP's vocabulary begins with."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + index) for index in range(len(other))]


def tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """A byte-level CLIP tokenizer: 512 byte tokens, start and end. OpenCLIP's pads with `!`, which is token 0."""
    characters = byte_characters()
    tokens = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, pad_token=pad)


SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def text_config(width: int, layers: int, act: str = "quick_gelu", **changes: int) -> CLIPTextConfig:
    """A text encoder of so many layers and 2 heads for the tokenizer above."""
    tokens = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    return CLIPTextConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=2,
        hidden_act=act, **{**tokens, **changes},
    )  # fmt: skip


def make_vae(scaling: float = 0.5) -> AutoencoderKL:
    """A VAE with factor 4."""
    return AutoencoderKL(
        block_out_channels=(4, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3, norm_num_groups=2,
        up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False, scaling_factor=scaling,
    )  # fmt: skip


def _make_sd(
    folder: Path, words: CLIPTokenizer, text: CLIPTextConfig, unet: dict[str, object], scheduler: dict[str, object]
) -> Path:
    text_encoder = CLIPTextModel(text)
    network = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **unet,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=make_vae(), text_encoder=text_encoder, tokenizer=words, unet=network,
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, **scheduler),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def make_base(folder: Path, seed: int = 0, layers: int = 2, **scheduler: object) -> Path:
    """Write a base model: UNet (8, 16), VAE with factor 4, text encoder of width 16; v-prediction unless said."""
    torch.manual_seed(seed)
    return _make_sd(folder, tokenizer(), text_config(16, layers), {}, scheduler or VELOCITY)


def make_sd2_base(folder: Path, seed: int = 0, layers: int = 3, **scheduler: object) -> Path:
    """Write a base as SD 2.1 is built: OpenCLIP's text encoder, linear projections; v-prediction unless said."""
    torch.manual_seed(seed)
    unet = {"use_linear_projection": True, "upcast_attention": True}
    config = text_config(16, layers, "gelu", pad_token_id=0)
    return _make_sd(folder, tokenizer("!"), config, unet, scheduler or {**EPSILON, "prediction_type": "v_prediction"})


def make_sdxl_base(folder: Path, seed: int = 0, **scheduler: object) -> Path:
    """Write a base as SDXL is built: three levels of two blocks, two text encoders; epsilon unless said."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8, 16), layers_per_block=2, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=16 + 24, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 20,
    )  # fmt: skip
    pipeline = StableDiffusionXLPipeline(
        vae=make_vae(0.25), text_encoder=CLIPTextModel(text_config(16, 3)), tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(text_config(24, 4, "gelu", projection_dim=20, pad_token_id=0)),
        tokenizer_2=tokenizer("!"), unet=unet,
        scheduler=EulerDiscreteScheduler(**SCHEDULE, **(scheduler or EPSILON)), add_watermarker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def make_dataset(folder: Path, sizes: list[tuple[int, int]] | None = None, repeats: int = 1) -> Path:
    """Write pictures with soft colours and dataset.json; captions begin with the trigger."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for index, (width, height) in enumerate(sizes or [(32, 32)] * 4):
        rng = np.random.default_rng(index)
        small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        path = folder / f"picture-{index}.png"
        small.resize((width, height), Image.Resampling.BICUBIC).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        caption = f"zorbi, red {index}, blue hair, smile"
        images.append(
            {"id": str(index), "file": path.name, "caption": caption, "repeats": repeats, "crop": None,
             "width": width, "height": height, "sha256": digest}
        )  # fmt: skip
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": images}))
    return path
