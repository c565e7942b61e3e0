"""Models of every kind at the smallest size, in the true file formats, with random weights."""

import json
import struct
from pathlib import Path

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import open_clip
import timm
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from lora_studio.tagger.clip import build

BOORU = [("general", 9), ("sensitive", 9), ("questionable", 9), ("explicit", 9), ("1girl", 0), ("long_hair", 0),
         (">_<", 0), ("o_o", 0), ("hatsune_miku", 4)]  # fmt: skip
ARCHITECTURES = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2, "class_token": False,
            "global_pool": "avg", "fc_norm": False, "act_layer": "gelu_tanh"}),
    "swinv2": ("swinv2_tiny_window8_256", {"img_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2],
               "window_size": 4}),
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 28, "embed_dim": 24, "depth": 1, "num_heads": 2}),
}  # fmt: skip


def write_tags(folder: Path, rows: list[tuple[str, int]] = BOORU) -> None:
    lines = [f"{number},{name},{kind},{1000 - number}" for number, (name, kind) in enumerate(rows)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *lines]) + "\n", "utf-8")


def build_wd(folder: Path, family: str = "vit") -> Path:
    """A folder as SmilingWolf publishes them."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture, args = ARCHITECTURES[family]
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=len(BOORU), **args)
    with torch.no_grad():  # fresh heads are nearly zero
        model.get_classifier().weight.normal_(0, 1)
    save_file(model.state_dict(), folder / "model.safetensors")
    side = args.get("img_size", 32)
    cfg = {"input_size": [3, side, side], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"architecture": architecture, "num_classes": len(BOORU), "model_args": args, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config))
    write_tags(folder)
    return folder


def build_siglip(folder: Path) -> Path:
    """A folder as open_clip publishes SigLIP: a vision tower of timm, a tokenizer of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["<pad>", "</s>", "<unk>", *"a picture of red blue hat cat dog long hair smile".split()]  # noqa: SIM905
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = {
        "embed_dim": 16,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "timm_model_name": "convnext_atto", "timm_model_pretrained": True,
                       "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": {"context_length": 8, "vocab_size": len(words), "hf_tokenizer_name": "zorbi/nowhere",
                     "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 16, "heads": 2, "layers": 1,
                     "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    }  # fmt: skip
    preprocess = {"size": [32, 32], "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    save_file(build(config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def build_clip(folder: Path) -> Path:
    """A folder as open_clip publishes CLIP, with neither merges (it has its own) nor a tag head."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 16, "head_width": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"size": [32, 32]}})
    )
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


# --- ONNX, written by hand: the package that writes such files is large, and only a test would need it -------------


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _value(name: str, shape: tuple[int | str, ...]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, dim) if isinstance(dim, int) else _bytes(2, dim)) for dim in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, dims)))


def _node(kind: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    return b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, kind) + attributes


def build_onnx(folder: Path, shape: tuple[int | str, ...] = ("N", 32, 32, 3)) -> np.ndarray:
    """`sigmoid(mean over the picture / 255 @ weights)` as an ONNX file with a list of tags -> the weights (3, T)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(0).normal(0, 1, (3, len(BOORU))).astype(np.float32)
    axes = _bytes(5, _bytes(1, "axes") + _number(8, 1) + _number(8, 2) + _number(20, 7))
    keep = _bytes(5, _bytes(1, "keepdims") + _number(3, 0) + _number(20, 2))
    tensor = (
        _number(1, 3) + _number(1, len(BOORU)) + _number(2, 1) + _bytes(8, "w") + _bytes(9, (weights / 255).tobytes())
    )
    graph = b"".join(
        [
            _bytes(1, _node("ReduceMean", ["pictures"], "means", axes + keep)),
            _bytes(1, _node("MatMul", ["means", "w"], "logits")),
            _bytes(1, _node("Sigmoid", ["logits"], "predictions")),
            _bytes(2, "tiny"),
            _bytes(5, tensor),
            _bytes(11, _value("pictures", shape)),
            _bytes(12, _value("predictions", (shape[0], len(BOORU)))),
        ]
    )
    model = _number(1, 8) + _bytes(7, graph) + _bytes(8, _bytes(1, "") + _number(2, 13))
    (folder / "model.onnx").write_bytes(model)
    write_tags(folder)
    return weights


def cut_off(path: Path) -> None:
    """Half of a .safetensors file: the header is whole, the numbers are not."""
    data = path.read_bytes()
    header = struct.unpack("<Q", data[:8])[0]
    path.write_bytes(data[: 8 + header + (len(data) - 8 - header) // 2])
