"""True Stable Diffusion model folders at the smallest size, built with random weights from a fixed seed."""

import hashlib
import json
from pathlib import Path

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

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


def tokenizer() -> CLIPTokenizer:
    """A byte-level CLIP tokenizer: 512 byte tokens, start and end."""
    characters = byte_characters()
    tokens = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def make_base(folder: Path, seed: int = 0, layers: int = 2, **scheduler: object) -> Path:
    """Write a base model: UNet (8, 16), VAE with factor 4, text encoder of width 16; v-prediction unless said."""
    torch.manual_seed(seed)
    words = tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=514, hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
            bos_token_id=512, eos_token_id=513, pad_token_id=513,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3, norm_num_groups=2,
        up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False, scaling_factor=0.5,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=words, unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, **(scheduler or VELOCITY),
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
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
