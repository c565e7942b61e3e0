"""A tagger of the smallest size in the true file formats, with random weights."""

import gzip
import json
from pathlib import Path

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import open_clip
import torch
from safetensors.torch import save_file

TAGS = [
    ("voxel art", "style", 0.5),
    ("ink style", "style", 0.5),
    ("green hair", "hair colour", 0.5),
    ("blue hair", "hair colour", 0.5),
    ("freckles", "marks", 0.5),
    ("scar", "marks", 0.5),
]
MERGES = ["g r", "e e", "ee n</w>"]


def build(folder: Path) -> Path:
    """Write the five files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "bpe_simple_vocab.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(["#version: 0.2", *MERGES]))
    vocabulary = open_clip.SimpleTokenizer(bpe_path=str(folder / "bpe_simple_vocab.txt.gz")).vocab_size
    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
            "text_cfg": {"context_length": 16, "vocab_size": vocabulary, "width": 16, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {
            "size": [32, 32],
            "mode": "RGB",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "resize_mode": "squash",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.CLIP(**config["model_cfg"])
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    head = {"weight": torch.randn(len(TAGS), 16), "bias": torch.zeros(len(TAGS))}
    save_file(head, folder / "tag_head.safetensors")
    tags = [{"name": name, "category": category, "threshold": level} for name, category, level in TAGS]
    (folder / "vocabulary.json").write_text(json.dumps({"tags": tags}))
    return folder
