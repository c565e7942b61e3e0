"""LoRA files between kohya's and diffusers' layout: SD and SDXL, LoRA and DoRA, exact both ways."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_studio.core.errors import UserError
from lora_studio.engine.checkpoint import save_lora
from lora_studio.engine.convert import (
    ADAPTER_ENTRY,
    KOHYA_ENTRY,
    Raw,
    convert,
    read_raw,
    to_bytes,
    to_diffusers,
    to_kohya,
)
from lora_studio.engine.detect import detect
from lora_studio.engine.keys import kohya_name
from tests.engine import published
from tests.engine.original import tiny_parts
from tests.tiny import tokenizer as tiny_tokenizer

ENDS = ("to_q", "to_k", "to_out.0", "ff.net.0.proj", "proj_in", "conv1", "conv_shortcut", "q_proj", "fc1")
RANK = 4


def layers(parts: dict[str, nn.Module]) -> dict[tuple[str, str], nn.Module]:
    """Modules to adapt by part and path."""
    return {
        (part, path): module
        for part, network in parts.items()
        if part != "vae"
        for path, module in network.named_modules()
        if path.endswith(ENDS) and isinstance(module, nn.Linear | nn.Conv2d)
    }


def kohya_file(family: str, parts: dict[str, nn.Module], dora: bool, alpha: float = 2.0) -> dict[str, Tensor]:
    """A LoRA with random weights on these, as sd-scripts or LyCORIS would write it."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for number, ((part, path), module) in enumerate(layers(parts).items()):
        name = kohya_name(family, part, path)
        shape = module.weight.shape
        down, up = (RANK, *shape[1:]), (shape[0], RANK, *[1] * (len(shape) - 2))
        tensors[f"{name}.lora_down.weight"] = torch.randn(down, generator=generator).half() * 0.3
        tensors[f"{name}.lora_up.weight"] = torch.randn(up, generator=generator).half() * 0.3
        tensors[f"{name}.alpha"] = torch.tensor(alpha + number % 2, dtype=torch.float16)
        if dora:
            scale = torch.rand((shape[0], *[1] * (len(shape) - 1)), generator=generator) + 0.5
            tensors[f"{name}.dora_scale"] = scale.half()
    return tensors


def pipeline(family: str, parts: dict[str, Any]) -> Any:
    """A diffusers pipeline over tiny parts."""
    words = tiny_tokenizer()
    common = {"vae": parts["vae"], "text_encoder": parts["text_encoder"], "tokenizer": words, "unet": parts["unet"]}
    common["scheduler"] = DDIMScheduler()
    if family == "sdxl":
        return StableDiffusionXLPipeline(**common, text_encoder_2=parts["text_encoder_2"], tokenizer_2=words)
    return StableDiffusionPipeline(**common, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


CASES = [("sd", "sd1", False), ("sd", "sd1", True), ("sdxl", "sdxl", False), ("sdxl", "sdxl", True)]


@pytest.mark.parametrize(("spelling", "family", "dora"), CASES)
def test_there_and_back_is_exact(spelling: str, family: str, dora: bool, tmp_path: Path) -> None:
    tensors = kohya_file(spelling, tiny_parts(family, vocabulary=600), dora)
    metadata = {"ss_seed": "1", "ss_base_model_version": "sdxl_base_v1-0" if family == "sdxl" else "sd_v1"}
    source, middle, back = (tmp_path / f"{name}.safetensors" for name in ("k", "d", "k2"))
    source.write_bytes(to_bytes(*raw(tensors, metadata)))
    convert(source, middle, "diffusers")
    assert not any("lora_unet" in name or name.endswith("alpha") for name in load_file(middle))
    assert detect(middle).usable and detect(middle).lora_kind == ("dora" if dora else "lora")
    convert(middle, back, "kohya")
    assert source.read_bytes() == back.read_bytes()
    again = tmp_path / "d2.safetensors"
    convert(back, again, "diffusers")
    assert middle.read_bytes() == again.read_bytes()


def test_the_hashes_that_a_file_tells_are_true_in_either_layout(tmp_path: Path) -> None:
    shapes = {"lora_down.weight": (640, 768), "lora_up.weight": (320, 640), "alpha": ()}  # over 1 MiB
    tensors = {f"{KEY}.{ending}": torch.rand(shape).half() for ending, shape in shapes.items()}
    source, middle, back = (tmp_path / f"{name}.safetensors" for name in ("k", "d", "k2"))
    save_lora(source, tensors, {"ss_seed": "1", "modelspec.title": "zorbi"})
    convert(source, middle, "diffusers")
    convert(middle, back, "kohya")
    for path in (source, middle):
        data, (numbers, told) = path.read_bytes(), read_raw(path)
        weights = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
        plain = to_bytes(numbers, {name: text for name, text in told.items() if name.startswith("ss_")})
        assert told["sshs_model_hash"] == weights and told["modelspec.hash_sha256"] == f"0x{weights}"
        assert told["sshs_legacy_hash"] == hashlib.sha256(plain[0x100000:0x110000]).hexdigest()[:8] != EMPTY_HASH
    assert read_raw(back) == read_raw(source)
    assert read_raw(middle)[1]["sshs_model_hash"] != read_raw(source)[1]["sshs_model_hash"]


EMPTY_HASH = hashlib.sha256(b"").hexdigest()[:8]  # of a file that ends before the old hash begins


def raw(tensors: dict[str, Tensor], metadata: dict[str, str]) -> tuple[dict[str, Raw], dict[str, str]]:
    names = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64", torch.float64: "F64"}
    return {
        name: Raw(names[tensor.dtype], tuple(tensor.shape), tensor.contiguous().numpy().tobytes())
        for name, tensor in tensors.items()
    }, metadata


def weight_change(layer: LoraLayer, tensors: dict[str, Tensor], name: str) -> Tensor:
    """The weight that the LoRA or DoRA makes of a layer, by the papers' formulas."""
    down, up = tensors[f"{name}.lora_down.weight"].float(), tensors[f"{name}.lora_up.weight"].float()
    base = layer.base_layer.weight.detach()
    delta = (up.flatten(1) @ down.flatten(1)).view(base.shape) * (float(tensors[f"{name}.alpha"]) / RANK)
    whole = base + delta
    scale = tensors.get(f"{name}.dora_scale")
    if scale is None:
        return whole
    length = whole.flatten(1).norm(dim=1).view(-1, *[1] * (base.dim() - 1))
    return whole / length * scale.float()


@pytest.mark.parametrize(("spelling", "family", "dora"), CASES)
def test_diffusers_loads_every_layer_with_its_own_strength(
    spelling: str, family: str, dora: bool, tmp_path: Path
) -> None:
    """Through diffusers' public loader: each layer's merged weight is what the formula says."""
    parts = tiny_parts(family, vocabulary=600)
    tensors = kohya_file(spelling, parts, dora)
    expected = {kohya_name(spelling, part, path) for part, path in layers(parts)}
    save_file(tensors, tmp_path / "k.safetensors")
    convert(tmp_path / "k.safetensors", tmp_path / "d.safetensors", "diffusers")
    pipe = pipeline(family, parts)
    pipe.load_lora_weights(tmp_path, weight_name="d.safetensors")
    seen = set()
    for part in ("unet", "text_encoder", "text_encoder_2"):
        network = getattr(pipe, part, None)
        for path, layer in network.named_modules() if network is not None else ():
            if not isinstance(layer, LoraLayer):
                continue
            name = kohya_name(spelling, part, path)
            seen.add(name)
            wanted = weight_change(layer, tensors, name)
            merged = layer.base_layer.weight.detach().clone()
            layer.merge()
            assert torch.allclose(layer.base_layer.weight, wanted, atol=2e-3), name
            assert not torch.allclose(merged, wanted, atol=1e-2)
    assert seen == expected


@pytest.mark.parametrize("base", ["sd1", "sdxl"])
def test_every_name_of_the_published_bases_converts_back(base: str) -> None:
    spelling = "sdxl" if base == "sdxl" else "sd"
    tensor = Raw("F16", (1, 1), b"\0\0")
    kohya: dict[str, Raw] = {}
    parts = {name: published.part(base, name) for name in published.PARTS[base]}
    for index, (part, path) in enumerate(layers(parts)):
        name = kohya_name(spelling, part, path)
        kohya |= {f"{name}.lora_down.weight": tensor, f"{name}.lora_up.weight": tensor}
        kohya[f"{name}.alpha"] = Raw.of(index % 7 + 0.5, "F16")
    converted, metadata = to_diffusers(kohya, {"ss_seed": "1"})
    level = {"unet": "", "text_encoder": "text_model.", "text_encoder_2": "text_model."}
    assert {name.removesuffix(".lora_A.weight") for name in converted if name.endswith("lora_A.weight")} == {
        f"{part}.{level[part]}{path.removeprefix('text_model.')}" for part, path in layers(parts)
    }
    assert to_kohya(converted, metadata) == (kohya, {"ss_seed": "1"})


KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
PAIR = {f"{KEY}.lora_down.weight": torch.ones(2, 768).half(), f"{KEY}.lora_up.weight": torch.ones(320, 2).half()}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {f"{KEY}.alpha": torch.tensor(1.5, dtype=torch.float32)},
        {f"{KEY}.alpha": torch.tensor(3, dtype=torch.int64)},
        {f"{KEY}.alpha": torch.tensor([0.1], dtype=torch.float64)},
    ],
)
def test_odd_alphas_come_back_as_they_were(more: dict[str, Tensor]) -> None:
    kohya, metadata = raw(PAIR | more, {"a": "b"})
    converted, told = to_diffusers(kohya, metadata)
    assert KOHYA_ENTRY in told
    assert to_kohya(converted, told) == (kohya, metadata)


def test_sdxl_in_diffusers_spelling_comes_back_in_it() -> None:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{name}.lora_down.weight": torch.ones(2, 2048).half(),
        f"{name}.lora_up.weight": torch.ones(640, 2).half(),
    }
    kohya, _ = raw(tensors | {f"{name}.alpha": torch.tensor(1.0).half()}, {})
    converted, told = to_diffusers(kohya, {})
    assert "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight" in converted
    assert to_kohya(converted, told)[0] == kohya


PEFT = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
MODULE = PEFT.removeprefix("unet.")


@pytest.mark.parametrize(
    ("settings", "alpha"),
    [
        ({}, 2.0),
        ({"unet.lora_alpha": 8}, 8.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {MODULE: 1}}, 1.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_k": 3}}, 3.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"o_k": 3}}, 8.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 8 * 2**0.5),
        ({"unet.lora_alpha": "evil"}, 2.0),
        ({"unet.alpha_pattern": [1]}, 2.0),
        ("[", 2.0),
        ([1], 2.0),
    ],
)
def test_alpha_is_read_as_peft_means_it(settings: Any, alpha: float) -> None:
    text = settings if isinstance(settings, str) else json.dumps(settings)
    tensors, metadata = raw(
        {f"{PEFT}.lora_A.weight": torch.ones(2, 768), f"{PEFT}.lora_B.weight": torch.ones(320, 2)}, {}
    )
    found, _ = to_kohya(tensors, metadata | {ADAPTER_ENTRY: text})
    assert found[f"{KEY}.alpha"].scalar() == pytest.approx(alpha)


def test_files_of_peft_with_transformers_5_are_read() -> None:
    """There the text encoder's names lack the level `text_model.`."""
    both = []
    for level in ("", "text_model."):
        path = f"text_encoder.{level}encoder.layers.0.mlp.fc1"
        tensors, _ = raw(
            {f"{path}.lora_A.weight": torch.ones(2, 768), f"{path}.lora_B.weight": torch.ones(3072, 2)}, {}
        )
        both.append(to_kohya(tensors, {}))
    assert both[0] == both[1] and "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight" in both[0][0]


def test_dora_of_peft_is_read_with_and_without_its_ending() -> None:
    found = []
    for ending in ("", ".weight"):
        pair = {f"{PEFT}.lora_A.weight": torch.ones(2, 768), f"{PEFT}.lora_B.weight": torch.ones(320, 2)}
        tensors, _ = raw(pair | {f"{PEFT}.lora_magnitude_vector{ending}": torch.ones(320)}, {})
        found.append(to_kohya(tensors, {})[0])
    assert found[0] == found[1] and found[0][f"{KEY}.dora_scale"].shape == (320, 1)


def of(**endings: tuple[int, ...]) -> dict[str, Tensor]:
    return {f"{KEY}.{name.replace('__', '.')}": torch.ones(shape) for name, shape in endings.items()}


REFUSED = {
    "LoHa": (of(hada_w1_a=(320, 2), hada_w1_b=(2, 768), hada_w2_a=(320, 2), hada_w2_b=(2, 768)), "LoHa"),
    "LoKr": (of(lokr_w1=(4, 4), lokr_w2=(80, 192)), "LoKr"),
    "(IA)3": (of(weight=(320,), on_input=()), "(IA)3"),
    "OFT": (of(oft_blocks=(40, 8, 8)), "OFT"),
    "BOFT": (of(oft_blocks=(2, 40, 8, 8)), "BOFT"),
    "GLoRA": (of(a1__weight=(768, 2), a2__weight=(2, 768), b1__weight=(320, 2), b2__weight=(2, 768)), "GLoRA"),
    "Tucker": ({**PAIR, **of(lora_mid__weight=(2, 2, 3, 3))}, "Tucker LoCon"),
    "DoRA by input": ({**PAIR, **of(dora_scale=(1, 768))}, "by input"),
    "DoRA in some layers": (
        {**PAIR, **of(dora_scale=(320, 1)), **{k.replace("to_k", "to_v"): v for k, v in PAIR.items()}},
        "only some layers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_diffusers_cannot_load_is_refused_with_the_way_out(case: str, tmp_path: Path) -> None:
    tensors, words = REFUSED[case]
    source, target = tmp_path / "k.safetensors", tmp_path / "d.safetensors"
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, source, {"ss_base_model_version": "sd_v1"})
    with pytest.raises(UserError) as caught:
        convert(source, target, "diffusers")
    assert words in str(caught.value) and "kohya" in caught.value.remedy
    assert not target.exists()


def test_a_lycoris_file_is_copied_in_its_own_layout(tmp_path: Path) -> None:
    source, target = tmp_path / "k.safetensors", tmp_path / "copy.safetensors"
    save_file(REFUSED["LoHa"][0], source, {"ss_seed": "1"})
    convert(source, target, "kohya")
    assert read_raw(source) == read_raw(target)


def test_what_is_no_lora_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be converted"):
        convert(base, tmp_path / "x.safetensors", "kohya")
