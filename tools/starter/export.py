"""Writes the trained parts as a diffusers StableDiffusionPipeline folder, half precision.

python -m tools.starter.export              # averaged weights -> assets/starter/base
python -m tools.starter.export untrained    # random UNet -> work folder, for tests that only need the shapes
"""

import json
import shutil
import sys
from pathlib import Path

import torch

from .common import start
from .config import ASSETS, WORK
from .unet import build, build_scheduler

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_text_encoder(folder: Path) -> None:
    """With the classic key prefix `text_model.`, which transformers 5 reads but no longer writes."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(WORK / "text_encoder", folder, dirs_exist_ok=True)
    state = load_file(folder / "model.safetensors")
    save_file(
        {f"text_model.{name.removeprefix('text_model.')}": p.half().contiguous() for name, p in state.items()},
        folder / "model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip


def export(folder: Path, weights: dict[str, torch.Tensor] | None) -> None:
    """The whole folder; `weights` of the UNet, or None for random ones."""
    from diffusers import AutoencoderKL

    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(folder / name, ignore_errors=True)
    unet = build()
    if weights is not None:
        unet.load_state_dict(weights)
    unet.half().save_pretrained(folder / "unet")
    AutoencoderKL.from_pretrained(WORK / "vae").half().save_pretrained(folder / "vae")
    build_scheduler().save_pretrained(folder / "scheduler")
    shutil.copytree(WORK / "tokenizer", folder / "tokenizer", ignore=shutil.ignore_patterns("*.gz"))
    write_text_encoder(folder / "text_encoder")
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


def check(folder: Path) -> float:
    """Load it as others do; the largest difference of its text states from the trained encoder's."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    prompt = "comic style, red hair, short hair, light skin, smile, blue shirt, yellow background"
    ids = pipe.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        trained = CLIPTextModel.from_pretrained(WORK / "text_encoder")(ids).last_hidden_state
        loaded = pipe.text_encoder(ids).last_hidden_state
    generator = torch.Generator().manual_seed(0)
    image = pipe(prompt, num_inference_steps=12, guidance_scale=3.0, generator=generator).images[0]
    image.resize((256, 256), 0).save(WORK / "export.png")
    return float((trained - loaded).abs().max())


def main() -> None:
    """Export and check."""
    start()
    untrained = "untrained" in sys.argv[1:]
    folder = WORK / "placeholder/base" if untrained else ASSETS / "base"
    weights = None if untrained else torch.load(WORK / "unet.pt", weights_only=True)["average"]
    export(folder, weights)
    print(folder, "largest difference of text states", check(folder))


if __name__ == "__main__":
    main()
