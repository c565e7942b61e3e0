"""What a file or folder is, and every no with its reason."""

import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import pytest

from lora_studio.engine.detect import detect

Shapes = dict[str, tuple[int, ...]]


def header_of(shapes: Shapes, dtype: str = "F16") -> dict:
    """A sane header for tensors of these shapes."""
    header, place = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    return header


def write(path: Path, header: dict | bytes, data: int | None = None, length: int | None = None) -> Path:
    """A file with this header; `data` bytes follow (as a hole in the disk, so large models cost nothing)."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    if data is None:
        data = max((entry["data_offsets"][1] for n, entry in header.items() if n != "__metadata__"), default=0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw) if length is None else length) + raw)
        file.truncate(8 + len(raw) + data)
    return path


ENTRY = {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}
HOSTILE = {
    "empty": (b"", 0, 0, "empty|not JSON"),
    "huge length": (b"{}", 0, 2**63, "larger than 100 MB"),
    "length past the end": (b"{}", 0, 5000, "cut off"),
    "not JSON": (b"\xff\xfe nonsense", 0, None, "not JSON"),
    "deeply nested": (b"[" * 100_000, 0, None, "not JSON"),
    "a list": (b"[1]", 0, None, "not a table"),
    "cut off data": ({"a": ENTRY}, 4, None, "cut off"),
    "spare bytes": ({"a": ENTRY}, 20, None, "belong to no tensor"),
    "overlap": ({"a": ENTRY, "b": ENTRY}, 8, None, "overlaps"),
    "wrong size": ({"a": {**ENTRY, "shape": [2, 3]}}, 8, None, "size its shape needs"),
    "negative": ({"a": {**ENTRY, "shape": [-2, -2]}}, 8, None, "impossible"),
    "backwards": ({"a": {**ENTRY, "data_offsets": [8, 0]}}, 8, None, "size its shape needs"),
    "floats": ({"a": {**ENTRY, "data_offsets": [0.0, 8.0]}}, 8, None, "impossible"),
    "huge shape": ({"a": {**ENTRY, "shape": [2**61, 2**61]}}, 8, None, "size its shape needs"),
    "unknown type": ({"a": {**ENTRY, "dtype": "X9"}}, 8, None, "impossible"),
    "no offsets": ({"a": {"dtype": "F16", "shape": [1]}}, 8, None, "malformed"),
    "an entry that is a number": ({"a": 3}, 8, None, "malformed"),
    "nothing inside": ({}, 0, None, "no weights"),
    "unknown weights": ({"a": ENTRY}, 8, None, "nothing known"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_or_damaged_file_is_refused_with_its_reason(case: str, tmp_path: Path) -> None:
    header, data, length, reason = HOSTILE[case]
    found = detect(write(tmp_path / "x.safetensors", header, data, length))
    assert found.kind == "unknown" and not found.usable
    assert any(part in found.problem for part in reason.split("|")), found.problem


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_is_refused_by_its_content(name: str, protocol: int, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"weights": [1, 2]}, protocol=protocol))
    found = detect(tmp_path / name)
    assert found.kind == "pickle" and "run any program" in found.problem


def test_a_zipped_pickle_is_refused_whatever_its_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    assert detect(tmp_path / "model.safetensors").kind == "pickle"


@pytest.mark.parametrize("name", ["nowhere", "nowhere.safetensors"])
def test_what_is_not_there_is_said(name: str, tmp_path: Path) -> None:
    assert "no file or folder" in detect(tmp_path / name).problem


def lora(prefix: str, width: int, more: Shapes | None = None) -> Shapes:
    return {
        f"{prefix}.lora_down.weight": (8, width),
        f"{prefix}.lora_up.weight": (320, 8),
        f"{prefix}.alpha": (),
        **(more or {}),
    }


KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TE2 = {
    "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 1280),
    "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (5120, 8),
}
LORAS = {
    "SD 1": (lora(KOHYA, 768), "sd1", True),
    "starter size": (lora(KOHYA, 128), "sd-small", True),
    "SD 2": (lora(KOHYA, 1024), "sd2", True),
    "SDXL": (lora("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048), "sdxl", False),
    "SDXL by its second text encoder": (TE2, "sdxl", False),
    "FLUX": (lora("lora_unet_double_blocks_0_img_attn_qkv", 3072), "flux", False),
    "SD 3": (lora("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536), "sd3", False),
    "diffusers layout": (
        {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (4, 768),
         "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": (320, 4)}, "sd1", True,
    ),
    "LoKr": ({f"{KOHYA}.lokr_w1": (4, 4), f"{KOHYA}.lokr_w2": (4, 4)}, "unknown", False),
    "older diffusers layout": (
        {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora.down.weight": (4, 768),
         "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora.up.weight": (320, 4)}, "sd1", False,
    ),
    "without partner": ({f"{KOHYA}.lora_down.weight": (8, 768)}, "sd1", False),
    "ranks that differ": ({**lora(KOHYA, 768), f"{KOHYA}.lora_up.weight": (320, 4)}, "sd1", False),
}  # fmt: skip


@pytest.mark.parametrize("case", LORAS)
def test_a_lora_is_known_with_its_family(case: str, tmp_path: Path) -> None:
    shapes, family, usable = LORAS[case]
    found = detect(write(tmp_path / "x.safetensors", header_of(shapes)))
    assert (found.kind, found.family, found.usable) == ("lora", family, usable), found
    assert found.files == (str(tmp_path / "x.safetensors"),)


UNET = "model.diffusion_model."
SD1_PARTS = {
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
}
BASES = {
    "SD 1.5": (SD1_PARTS, "base", "sd1", "in one file cannot be opened yet"),
    "SD 1.5 without VAE": (dict(list(SD1_PARTS.items())[:2]), "base", "sd1", "lacks the VAE"),
    "SDXL": (
        {f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048)},
        "base", "sdxl", "not supported yet",
    ),
    "FLUX": ({"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}, "base", "flux", "not supported yet"),
    "SD 3": ({f"{UNET}joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)}, "base", "sd3", "not supported yet"),
    "VAE": (
        {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)},
        "vae", "unknown", "VAE alone"),
    "text encoder": (
        {"text_model.embeddings.token_embedding.weight": (49408, 768),
         "text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768)}, "text_encoder", "unknown", "text encoder alone"),
}  # fmt: skip


@pytest.mark.parametrize("case", BASES)
def test_whole_models_and_their_parts_are_told_apart(case: str, tmp_path: Path) -> None:
    shapes, kind, family, problem = BASES[case]
    found = detect(write(tmp_path / "x.safetensors", header_of(shapes)))
    assert (found.kind, found.family) == (kind, family)
    assert problem in found.problem and bool(problem) == (not found.usable)


def test_a_model_folder_is_known(base: Path) -> None:
    found = detect(base)
    assert (found.kind, found.family, found.problem) == ("base", "sd-small", "")
    assert len(found.files) == 3


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda f: (f / "unet/config.json").write_text("{"), "unet/config.json is missing or damaged"),
        (lambda f: next((f / "vae").glob("*.safetensors")).unlink(), "vae has no .safetensors"),
        (lambda f: next((f / "unet").glob("*.safetensors")).write_bytes(b"1234567890"), "unet"),
        (lambda f: next((f / "vae").glob("*.safetensors")).rename(f / "vae/x.bin"), "pickle"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer"),
        (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "scheduler"),
        (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
        (lambda f: (f / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'), "FLUX"),
        (lambda f: (f / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}'), "XL"),
        (lambda f: (f / "model_index.json").write_text('{"_class_name": "Evil"}'), "Evil"),
    ],
)  # fmt: skip
def test_a_broken_model_folder_says_what_is_wrong(harm, reason: str, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(base, folder)
    harm(folder)
    found = detect(folder)
    assert not found.usable and reason in found.problem


def test_an_empty_folder_and_one_with_a_lone_file_are_no_models(tmp_path: Path) -> None:
    assert "not a model" in detect(tmp_path).problem
    (tmp_path / "lora.safetensors").write_bytes(b"")
    assert "did you mean the file lora.safetensors" in detect(tmp_path).problem
