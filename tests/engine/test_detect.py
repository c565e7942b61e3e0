"""What a file or folder is, and every no with its reason."""

import json
import pickle
import shutil
import struct
import zipfile
from functools import cache
from pathlib import Path

import pytest

from lora_studio.engine.detect import detect, weight_files
from tests.engine import published
from tests.engine.original import whole_state

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
SGM = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
TE = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
TE2 = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
PEFT = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def of_kind(kind: str, module: str = KOHYA, rows: int = 320, columns: int = 768) -> Shapes:
    """The tensors of one module as LyCORIS writes them."""
    tensors: dict[str, Shapes] = {
        "lora": {"lora_down.weight": (8, columns), "lora_up.weight": (rows, 8), "alpha": ()},
        "dora": {"lora_down.weight": (8, columns), "lora_up.weight": (rows, 8), "alpha": (), "dora_scale": (rows, 1)},
        "loha": {"hada_w1_a": (rows, 8), "hada_w1_b": (8, columns), "hada_w2_a": (rows, 8), "hada_w2_b": (8, columns)},
        "lokr": {"lokr_w1": (4, 4), "lokr_w2_a": (rows // 4, 8), "lokr_w2_b": (8, columns // 4), "alpha": ()},
        "lokr whole": {"lokr_w1": (4, 4), "lokr_w2": (rows // 4, columns // 4)},
        "ia3": {"weight": (rows,), "on_input": ()},
        "oft": {"oft_blocks": (rows // 8, 8, 8), "alpha": ()},
        "boft": {"oft_blocks": (3, rows // 8, 8, 8), "alpha": ()},
        "glora": {"a1.weight": (columns, 8), "a2.weight": (8, columns), "b1.weight": (rows, 8),
                  "b2.weight": (8, columns)},
        "full": {"diff": (rows, columns)},
        "norm": {"w_norm": (rows,), "b_norm": (rows,)},
    }  # fmt: skip
    return {f"{module}.{ending}": shape for ending, shape in tensors[kind].items()}


LORAS = {
    "SD 1": (lora(KOHYA, 768), "sd1", ""),
    "starter size": (lora(KOHYA, 128), "sd-small", ""),
    "SD 2": (lora(KOHYA, 1024), "sd2", ""),
    "SDXL": (lora(SGM, 2048), "sdxl", ""),
    "SDXL in diffusers' spelling": (lora(KOHYA.replace("blocks_0_att", "blocks_1_att"), 2048), "sdxl", ""),
    "SDXL by its second text encoder": (of_kind("lora", TE2, 5120, 1280), "sdxl", ""),
    "SDXL at a small size": (lora(SGM, 64), "sdxl", ""),
    "SD 1 in the original spelling": (lora(SGM, 768), "sd1", ""),
    "text encoder alone": (of_kind("lora", TE, 768, 768), "sd1", ""),
    "FLUX": (lora("lora_unet_double_blocks_0_img_attn_qkv", 3072), "flux", "FLUX"),
    "FLUX in diffusers' layout": (
        {
            "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 3072),
            "transformer.single_transformer_blocks.0.attn.to_q.lora_B.weight": (3072, 4),
        },
        "flux",
        "FLUX",
    ),
    "SD 3": (lora("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536), "sd3", "Stable Diffusion 3"),
    "diffusers layout": ({f"{PEFT}.lora_A.weight": (4, 768), f"{PEFT}.lora_B.weight": (320, 4)}, "sd1", ""),
    "diffusers layout of SDXL": (
        {
            f"{PEFT}.lora_A.weight": (4, 2048),
            f"{PEFT}.lora_B.weight": (640, 4),
            "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": (4, 1280),
            "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_B.weight": (5120, 4),
        },
        "sdxl",
        "",
    ),
    "diffusers layout with DoRA": (
        {f"{PEFT}.lora_A.weight": (4, 768), f"{PEFT}.lora_B.weight": (320, 4), f"{PEFT}.lora_magnitude_vector": (320,)},
        "sd1",
        "",
    ),
    "older diffusers layout": (
        {f"{PEFT}.lora.down.weight": (4, 768), f"{PEFT}.lora.up.weight": (320, 4)},
        "sd1",
        "layout is not supported",
    ),
    "without partner": ({f"{KOHYA}.lora_down.weight": (8, 768)}, "sd1", "no partner lora_up.weight"),
    "ranks that differ": ({**lora(KOHYA, 768), f"{KOHYA}.lora_up.weight": (320, 4)}, "sd1", "do not fit together"),
    "half a LoHa": ({f"{KOHYA}.hada_w1_a": (4, 4), f"{KOHYA}.hada_w1_b": (4, 768)}, "sd1", "no partner hada_w2_a"),
    "half a LoKr": ({f"{KOHYA}.lokr_w1": (4, 4), f"{KOHYA}.lokr_w2_b": (4, 192)}, "sd1", "no partner lokr_w2_a"),
    "a layer that is none": ({**lora(KOHYA, 768), **lora("lora_unet_visual_blocks_0", 768)}, "sd1", "names no layer"),
    "something else beside": (
        {**lora(KOHYA, 768), "bundle_emb.x.string_to_param.*": (1, 768)},
        "sd1",
        "names no layer",
    ),
    "a layer with nothing known": ({**lora(KOHYA, 768), f"{TE}.bias": (4,)}, "sd1", "holds nothing that is known"),
    "a decomposed LoHa": ({**of_kind("loha"), f"{KOHYA}.dora_scale": (320, 1)}, "sd1", "weight-decomposed LoHa"),
    "full difference": (of_kind("full"), "unknown", "full difference files are not supported"),
    "norms": ({**lora(KOHYA, 768), **of_kind("norm", "lora_unet_conv_norm_out")}, "sd1", "norm difference"),
    "scalars": ({f"{KOHYA}.lora_down.weight": (), f"{KOHYA}.lora_up.weight": ()}, "unknown", "tell which base"),
    "(IA)3 that does not say": (of_kind("ia3"), "unknown", "does not tell which base"),
}


@pytest.mark.parametrize("case", LORAS)
def test_a_lora_is_known_with_its_family(case: str, tmp_path: Path) -> None:
    shapes, family, problem = LORAS[case]
    found = detect(write(tmp_path / "x.safetensors", header_of(shapes)))
    assert (found.kind, found.family, found.usable) == ("lora", family, not problem), found
    assert problem in found.problem
    assert found.files == (str(tmp_path / "x.safetensors"),)


@pytest.mark.parametrize(
    ("kind", "word", "rank"),
    [
        ("lora", "LoRA", 8), ("dora", "DoRA", 8), ("loha", "LoHa", 8), ("lokr", "LoKr", 8), ("lokr whole", "LoKr", 0),
        ("ia3", "(IA)3", 0), ("oft", "OFT", 8), ("boft", "BOFT", 8), ("glora", "GLoRA", 8),
    ],
)  # fmt: skip
def test_every_kind_is_usable_and_named_with_its_rank(kind: str, word: str, rank: int, tmp_path: Path) -> None:
    shapes = {**of_kind(kind), **of_kind(kind, TE, 768, 768)}
    metadata = {"__metadata__": {"ss_base_model_version": "sd_v1"}}
    found = detect(write(tmp_path / "x.safetensors", metadata | header_of(shapes)))
    assert (found.usable, found.lora_kind, found.rank) == (True, kind.split()[0], rank), found
    assert found.detail.startswith(f"{word} for Stable Diffusion 1.x") and found.detail.endswith("with text encoder")
    assert found.parts == ("unet", "text_encoder")


def test_convolutions_make_a_locon(tmp_path: Path) -> None:
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    shapes = {**lora(KOHYA, 768), f"{conv}.lora_down.weight": (8, 320, 3, 3), f"{conv}.lora_up.weight": (320, 8, 1, 1)}
    found = detect(write(tmp_path / "x.safetensors", header_of(shapes)))
    assert (found.lora_kind, found.detail) == ("lora", "LoCon for Stable Diffusion 1.x, rank 8, without text encoder")


def test_several_kinds_in_one_file_are_all_named(tmp_path: Path) -> None:
    shapes = {**of_kind("loha"), **of_kind("lokr", TE, 768, 768)}
    found = detect(write(tmp_path / "x.safetensors", header_of(shapes)))
    assert found.usable and set(found.lora_kind.split("+")) == {"loha", "lokr"} and "LoHa + LoKr" in found.detail


@pytest.mark.parametrize(
    ("shapes", "metadata", "family"),
    [
        (of_kind("ia3"), "sd_v2_v", "sd2"), (of_kind("ia3"), "sdxl_base_v1-0", "sdxl"),
        (of_kind("oft", rows=64), "sd_v1", "sd-small"), (of_kind("oft", SGM), "", "sdxl"),
        (of_kind("oft", TE, 1024), "", "sd2"), (of_kind("boft", TE, 768), "", "sd1"),
        (of_kind("lokr", columns=2048), "sd_v1", "sdxl"),
    ],
)  # fmt: skip
def test_the_family_is_told_by_shapes_and_else_by_what_the_file_says(
    shapes: Shapes, metadata: str, family: str, tmp_path: Path
) -> None:
    header = {"__metadata__": {"ss_base_model_version": metadata}} | header_of(shapes)
    assert detect(write(tmp_path / "x.safetensors", header)).family == family


# --- Bases in one file: key and shape lists of the real classes at full size -------------------------------------


@cache
def full_size(family: str) -> Shapes:
    """Keys and shapes of a published base in the original layout."""
    parts = {name: published.part(family, name) for name in published.PARTS[family]}
    return {key: tuple(value.shape) for key, value in whole_state(family, parts).items()}


FIRST = "model.diffusion_model.input_blocks.0.0.weight"
SINGLE_FILES = {
    "SD 1.5": ("sd1", lambda s: s, {}, "sd1", "", ""),
    "SD 1.5 that says v": ("sd1", lambda s: s, {"modelspec.prediction_type": "v"}, "sd1", "", "v_prediction"),
    "SD 2": ("sd2", lambda s: s, {}, "sd2", "", ""),
    "SD 2 with 768": (
        "sd2",
        lambda s: s,
        {"modelspec.architecture": "stable-diffusion-v2-768-v"},
        "sd2",
        "",
        "v_prediction",
    ),
    "SDXL": ("sdxl", lambda s: s, {"modelspec.prediction_type": "epsilon"}, "sdxl", "", "epsilon"),
    "NoobAI v-pred": ("sdxl", lambda s: {**s, "v_pred": (0,), "ztsnr": (0,)}, {}, "sdxl", "", "v_prediction"),
    "inpainting": ("sd1", lambda s: {**s, FIRST: (320, 9, 3, 3)}, {}, "sd1", "inpainting model", ""),
    "SDXL inpainting": ("sdxl", lambda s: {**s, FIRST: (320, 9, 3, 3)}, {}, "sdxl", "inpainting model", ""),
    "instruct-pix2pix": ("sd1", lambda s: {**s, FIRST: (320, 8, 3, 3)}, {}, "sd1", "instruct-pix2pix", ""),
    "depth": ("sd2", lambda s: {**s, FIRST: (320, 5, 3, 3)}, {}, "sd2", "depth model", ""),
    "refiner": (
        "sdxl",
        lambda s: {k.replace("embedders.1.", "embedders.0."): v for k, v in s.items() if "embedders.0." not in k},
        {},
        "sdxl",
        "refiner",
        "",
    ),
    "Playground 2.5": ("sdxl", lambda s: {**s, "edm_mean": (1, 4, 1, 1)}, {}, "sdxl", "EDM", ""),
    "SD 1.5 without VAE": (
        "sd1",
        lambda s: {k: v for k, v in s.items() if not k.startswith("first")},
        {},
        "sd1",
        "lacks the VAE",
        "",
    ),
    "network alone": (
        "sd1",
        lambda s: {k: v for k, v in s.items() if k.startswith("model.")},
        {},
        "sd1",
        "lacks the text encoder and the VAE",
        "",
    ),
    "SDXL without its second text encoder": (
        "sdxl",
        lambda s: {k: v for k, v in s.items() if "embedders.1" not in k},
        {},
        "sdxl",
        "label_emb",
        "",
    ),
    "shrunken SDXL": (
        "sdxl",
        lambda s: {k: v for k, v in s.items() if not k.startswith("model.diffusion_model.middle_block.1.")},
        {},
        "sdxl",
        "shrunken",
        "",
    ),
    "unCLIP": (
        "sd2",
        lambda s: {**s, "model.diffusion_model.label_emb.0.0.weight": (1280, 1536)},
        {},
        "sd2",
        "label_emb",
        "",
    ),
    "video": (
        "sd2",
        lambda s: {**s, "model.diffusion_model.input_blocks.1.0.time_stack.x": (1,)},
        {},
        "unknown",
        "Video",
        "",
    ),
}


@pytest.mark.parametrize("case", SINGLE_FILES)
def test_a_base_in_one_file_is_known(case: str, tmp_path: Path) -> None:
    source, change, metadata, family, problem, prediction = SINGLE_FILES[case]
    header = header_of(change(dict(full_size(source))))
    found = detect(write(tmp_path / "x.safetensors", {"__metadata__": metadata} | header))
    assert (found.kind, found.family, found.usable) == ("base", family, not problem), found
    assert problem in found.problem and (problem or found.prediction == prediction)


def test_what_sd2_does_not_tell_is_said(tmp_path: Path) -> None:
    found = detect(write(tmp_path / "x.safetensors", header_of(full_size("sd2"))))
    assert found.prediction == "" and "does not tell whether it predicts v (768) or epsilon" in found.detail


def only(family: str, prefix: str) -> Shapes:
    return {name.removeprefix(prefix): shape for name, shape in full_size(family).items() if name.startswith(prefix)}


OTHERS = {
    "VAE": (lambda: only("sd1", "first_stage_model."), "vae", "VAE alone"),
    "VAE with its prefix": (
        lambda: {k: v for k, v in full_size("sd1").items() if k.startswith("first_stage_model.")},
        "vae",
        "VAE alone",
    ),
    "VAE in diffusers' layout": (
        lambda: {k: tuple(v.shape) for k, v in published.part("sd1", "vae").state_dict().items()},
        "vae",
        "VAE alone",
    ),
    "VAE of FLUX": (
        lambda: {**only("sd1", "first_stage_model."), "decoder.conv_in.weight": (512, 16, 3, 3)},
        "vae",
        "16 latent",
    ),
    "VAE of another make": (
        lambda: {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)},
        "vae",
        "lacks",
    ),
    "CLIP-L": (lambda: only("sd1", "cond_stage_model.transformer."), "text_encoder", "text encoder alone"),
    "OpenCLIP": (lambda: only("sd2", "cond_stage_model.model."), "text_encoder", "text encoder alone"),
    "T5": (lambda: {"encoder.block.0.layer.0.SelfAttention.q.weight": (64, 64)}, "text_encoder", "text encoder alone"),
    "UNet": (lambda: only("sd1", "model.diffusion_model."), "unet", "UNet alone"),
    "UNet in diffusers' layout": (
        lambda: {k: tuple(v.shape) for k, v in published.part("sd1", "unet").state_dict().items()},
        "unet",
        "UNet alone",
    ),
    "embedding": (lambda: {"emb_params": (8, 768)}, "textual_inversion", "textual inversion"),
    "embedding of SDXL": (lambda: {"clip_l": (8, 768), "clip_g": (8, 1280)}, "textual_inversion", "textual inversion"),
    "embedding of diffusers": (lambda: {"<zorbi>": (768,)}, "textual_inversion", "textual inversion"),
    "ControlNet": (lambda: {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "controlnet", "ControlNet"),
    "ControlNet of diffusers": (
        lambda: {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), "down_blocks.0.x": (1,)},
        "controlnet",
        "ControlNet",
    ),
    "IP-Adapter": (
        lambda: {"ip_adapter.1.to_k_ip.weight": (320, 768), "image_proj.norm.weight": (768,)},
        "controlnet",
        "IP-Adapter",
    ),
    "FLUX": (lambda: {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}, "base", "FLUX models are not supported"),
    "SD 3": (
        lambda: {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)},
        "base",
        "Stable Diffusion 3",
    ),
    "PixArt": (lambda: {"adaln_single.linear.weight": (6912, 1152)}, "base", "PixArt"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_base_is_recognised_and_refused(case: str, tmp_path: Path) -> None:
    shapes, kind, problem = OTHERS[case]
    found = detect(write(tmp_path / "x.safetensors", header_of(shapes())))
    assert found.kind == kind and problem in found.problem and not found.usable, found


# --- Folders ----------------------------------------------------------------------------------------------------


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
        (lambda f: change(f / "model_index.json", _class_name="StableDiffusionXLPipeline"), "text_encoder_2"),
        (lambda f: change(f / "model_index.json", _class_name="StableDiffusionInpaintPipeline"), "cannot be trained"),
        (lambda f: change(f / "unet/config.json", in_channels=9), "inpainting"),
        (lambda f: change(f / "unet/config.json", cross_attention_dim=True), "missing or damaged"),
        (lambda f: change(f / "scheduler/scheduler_config.json", _class_name="EDMEulerScheduler"), "EDM"),
        (lambda f: change(f / "scheduler/scheduler_config.json", prediction_type="flow_prediction"), "flow"),
        (lambda f: change(f / "scheduler/scheduler_config.json", prediction_type="dreams"), "dreams"),
        (lambda f: (f / "model_index.json").write_text('{"_class_name": "Evil"}'), "Evil"),
    ],
)  # fmt: skip
def test_a_broken_model_folder_says_what_is_wrong(harm, reason: str, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(base, folder)
    harm(folder)
    found = detect(folder)
    assert not found.usable and reason in found.problem


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def copied(base: Path, tmp_path: Path) -> Path:
    """A base folder to be changed."""
    return Path(shutil.copytree(base, tmp_path / "copy"))


def test_an_sdxl_folder_has_two_text_encoders(copied: Path) -> None:
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(copied / name, copied / f"{name}_2")
    change(copied / "model_index.json", _class_name="StableDiffusionXLPipeline")
    found = detect(copied)
    assert (found.family, found.usable, len(found.files)) == ("sdxl", True, 4), found
    change(copied / "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline", text_encoder=[None, None])
    assert "refiner" in detect(copied).problem
    shutil.rmtree(copied / "tokenizer_2")
    assert not detect(copied).usable


def test_a_folder_with_only_half_precision_is_taken(copied: Path) -> None:
    for part in ("unet", "vae", "text_encoder"):
        [path] = (copied / part).glob("*.safetensors")
        shutil.copy(path, path.with_suffix(".fp16.safetensors"))
    assert not any("fp16" in name for name in detect(copied).files)
    for path in copied.glob("*/*[a-z].safetensors"):
        if "fp16" not in path.name:
            path.unlink()
    found = detect(copied)
    assert found.usable and all("fp16" in name for name in found.files) and len(found.files) == 3


def test_weights_in_pieces_are_taken_when_all_are_there(copied: Path) -> None:
    [path] = (copied / "unet").glob("*.safetensors")
    pieces = [path.with_name(f"diffusion_pytorch_model-0000{n}-of-00002.safetensors") for n in (1, 2)]
    for piece in pieces:
        shutil.copy(path, piece)
    path.unlink()
    assert "without the index" in detect(copied).problem
    index = copied / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": pieces[0].name, "b": pieces[1].name}}))
    assert detect(copied).usable and len(detect(copied).files) == 4
    pieces[1].unlink()
    assert f"lacks {pieces[1].name}" in detect(copied).problem


@pytest.mark.parametrize("name", ["../../secret.safetensors", "x.bin", "C:\\x.safetensors", 3])
def test_an_index_cannot_point_elsewhere(name: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "odd file" in weight_files(tmp_path)[1]


def test_one_part_of_a_base_is_no_base(base: Path) -> None:
    found = detect(base / "vae")
    assert (found.kind, found.usable) == ("vae", False) and len(found.files) == 1


def test_the_prediction_of_a_folder_is_told(base: Path, epsilon_base: Path) -> None:
    assert (detect(base).prediction, detect(epsilon_base).prediction) == ("v_prediction", "epsilon")


def test_an_empty_folder_and_one_with_a_lone_file_are_no_models(tmp_path: Path) -> None:
    assert "not a model" in detect(tmp_path).problem
    (tmp_path / "lora.safetensors").write_bytes(b"")
    assert "did you mean the file lora.safetensors" in detect(tmp_path).problem
