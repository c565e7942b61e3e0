"""What is this file or folder? Answered from names and shapes in the headers alone: no weight is read, no torch.

Every "no" carries its reason in `Detected.problem`. Pickles are refused by their content, whatever their name.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lora_studio.engine.headers import HeaderError, is_pickle, prediction, read_header
from lora_studio.engine.layouts import UNET_PREFIX, LayoutError, Shapes, family_by_width, read_layout, read_vae
from lora_studio.engine.lora_files import read_lora

Kind = Literal[
    "base", "lora", "vae", "text_encoder", "unet", "controlnet", "textual_inversion", "pickle", "unknown"
]  # fmt: skip
TRAINABLE = ("sd1", "sd2", "sd-small", "sdxl")
FAMILY_NAMES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sd-small": "small Stable Diffusion (starter size)",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX",
    "unknown": "unknown",
}
PICKLE_REASON = (
    "it is a pickle (.ckpt, .pt or .bin), which can run any program when it is opened; get the .safetensors version"
)


@dataclass(frozen=True)
class Detected:
    """What a path is."""

    kind: Kind
    family: str = "unknown"
    """A key of FAMILY_NAMES."""
    detail: str = ""
    """In words, e.g. `LoRA for Stable Diffusion 1.x, rank 8, with text encoder`."""
    problem: str = ""
    """Why it cannot be used; empty when it can."""
    files: tuple[str, ...] = ()
    """The files that make it up."""
    lora_kind: str = ""
    """Of a LoRA: lora (LoCon too), dora, loha, lokr, ia3, oft, boft, glora; several are joined by `+`."""
    rank: int = 0
    """Of a LoRA: the rank of its first layer, or the size of a block; 0 where the kind has none."""
    prediction: str = ""
    """Of a base: epsilon or v_prediction; empty when it does not say."""
    parts: tuple[str, ...] = ()
    """Of a LoRA: which of unet, text_encoder and text_encoder_2 it changes."""

    @property
    def usable(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.problem


def detect(path: str | Path) -> Detected:
    """Say what a file or folder is. Never raises for what it finds there."""
    path = Path(path)
    try:
        if path.is_dir():
            return _detect_folder(path)
        if not path.exists():
            return Detected("unknown", problem=f"there is no file or folder {path}")
        return _detect_file(path)
    except OSError as error:
        return Detected("unknown", problem=f"it cannot be read ({error.strerror or error})")


def _detect_file(path: Path) -> Detected:
    files = (str(path),)
    if is_pickle(path):
        return Detected("pickle", problem=PICKLE_REASON, files=files)
    try:
        shapes, metadata = read_header(path)
    except HeaderError as error:
        return Detected("unknown", problem=f"{path.name}: {error}", files=files)
    if not shapes:
        return Detected("unknown", problem=f"{path.name} holds no weights", files=files)
    for judge in (_as_lora, _foreign, _as_base, _as_part):
        found = judge(shapes, metadata)
        if found is not None:
            return replace(found, files=files)
    some = ", ".join(list(shapes)[:3])
    return Detected(
        "unknown", problem=f"its {len(shapes)} weights fit nothing known here (they begin {some})", files=files
    )


# --- Single files -----------------------------------------------------------------------------------------------


def _as_lora(shapes: Shapes, metadata: Mapping[str, str]) -> Detected | None:
    found = read_lora(shapes, metadata)
    if found is None:
        return None
    text = {(): "without text encoder", ("text_encoder_2",): "with the second text encoder"}
    reach = text.get(tuple(part for part in found.parts if part != "unet"), "with text encoder")
    if {"text_encoder", "text_encoder_2"} <= set(found.parts):
        reach = "with both text encoders"
    size = f", rank {found.rank}" if found.rank else ""
    return Detected(
        "lora",
        found.family,
        f"{found.words} for {FAMILY_NAMES[found.family]}{size}, {reach}",
        found.problem,
        lora_kind="+".join(found.kinds) or "lora",
        rank=found.rank,
        parts=found.parts,
    )


FOREIGN: tuple[tuple[str, str, str], ...] = (
    ("flux", "double_blocks.", "FLUX"),
    ("sd3", "joint_blocks.", "Stable Diffusion 3"),
    ("unknown", "noise_refiner.", "Lumina or Z-Image"),
    ("unknown", "double_layers.", "AuraFlow"),
    ("unknown", "adaln_single.", "PixArt"),
    ("unknown", "transformer_blocks.0.attn.add_q_proj", "Qwen-Image or another transformer"),
    ("unknown", "text_embedding.0.weight", "Wan"),
    ("unknown", "time_stack.", "Stable Video Diffusion"),
    ("unknown", "motion_modules.", "AnimateDiff motion module"),
    ("unknown", "clf.", "Stable Cascade"),
)
"""Family, a piece of a key that only such models have, and their name."""
CHANNELS = {
    9: "an inpainting model (its network reads a mask and a masked picture too)",
    8: "an instruct-pix2pix model (its network reads a second picture too)",
    7: "an upscaler (its network reads a small picture too)",
    5: "a depth model (its network reads a depth map too)",
}
"""Inputs of the first convolution beyond the 4 of a latent -> what the model is for."""


def _foreign(shapes: Shapes, metadata: Mapping[str, str]) -> Detected | None:
    """Models of other families, by a piece of their keys."""
    if any(
        name.startswith(("lora_controlnet", "control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks."))
        for name in shapes
    ):
        return Detected("controlnet", detail="ControlNet", problem="it is a ControlNet, not a base model")
    if any(name.startswith("ip_adapter.") for name in shapes):
        return Detected("controlnet", detail="IP-Adapter", problem="it is an IP-Adapter, not a base model")
    for family, mark, name in FOREIGN:
        if any(mark in key for key in shapes):
            return _unsupported(family, name)
    return None


def _as_base(shapes: Shapes, metadata: Mapping[str, str]) -> Detected | None:
    if not any(name.startswith(UNET_PREFIX) for name in shapes):
        return None
    first = shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight", ())
    said = prediction(shapes, metadata)
    family, problem = "unknown", ""
    try:
        layout = read_layout(shapes)
        family = layout.family
    except LayoutError as error:
        problem = str(error)
        width = next(
            (s for n, s in shapes.items() if n.startswith(UNET_PREFIX) and n.endswith("attn2.to_k.weight")), ()
        )
        family = "sdxl" if width == () else family_by_width(width[-1])
    if any(name.startswith("conditioner.embedders.0.model.") for name in shapes):
        family, problem = "sdxl", REFINER_PROBLEM
    elif len(first) == 4 and first[1] in CHANNELS:
        problem = f"it is {CHANNELS[first[1]]}, which cannot be trained here; use the ordinary model of the same name"
    elif any(name.startswith(("edm_", "edm.")) for name in shapes):
        problem = EDM_PROBLEM
    elif not problem and family not in TRAINABLE:
        problem = "the width of its text fits no known base"
    detail = f"{FAMILY_NAMES[family]} base model in one file{_prediction_words(family, said)}"
    return Detected("base", family, detail, problem, prediction=said)


REFINER_PROBLEM = "it is the SDXL refiner, which only finishes pictures; use the SDXL base model"
EDM_PROBLEM = "it was made with the EDM noise schedule (as Playground 2.5), which is not supported"


def _prediction_words(family: str, said: str) -> str:
    if said:
        return {"v_prediction": ", v-prediction", "epsilon": ", epsilon-prediction"}.get(said, f", {said}-prediction")
    if family == "sd2":
        return "; the file does not tell whether it predicts v (768) or epsilon (512 base)"
    return ""


def _unsupported(family: str, name: str = "") -> Detected:
    name = name or FAMILY_NAMES[family]
    return Detected(
        "base",
        family,
        f"{name} model",
        f"{name} models are not supported; use a Stable Diffusion 1.x, 2.x or XL base or the starter",
    )


def _as_part(shapes: Shapes, metadata: Mapping[str, str]) -> Detected | None:
    names = [name.removeprefix("first_stage_model.").removeprefix("text_model.") for name in shapes]
    starts: Callable[[str], bool] = lambda prefix: any(name.startswith(prefix) for name in names)  # noqa: E731
    if starts("encoder.conv_in") and starts("decoder.conv_in"):
        return _as_vae(shapes)
    if (
        starts("embeddings.token_embedding")
        or starts("token_embedding")
        or starts("encoder.block.0.layer.0.SelfAttention")
    ):
        kind = "T5" if starts("encoder.block.") else "CLIP"
        return Detected(
            "text_encoder",
            detail=f"{kind} text encoder",
            problem="it is a text encoder alone, not a base model",
        )
    if (starts("down_blocks.") and starts("up_blocks.")) or (starts("input_blocks.") and starts("output_blocks.")):
        return Detected(
            "unet",
            detail="UNet",
            problem="it is a UNet alone; a base needs text encoder, tokenizer and VAE beside it",
        )
    is_table = all(len(shape) in (1, 2) and shape[-1] in EMBEDDING_WIDTHS for shape in shapes.values() if shape)
    if "emb_params" in shapes or "clip_l" in shapes or "clip_g" in shapes or (len(shapes) <= 2 and is_table):
        return Detected(
            "textual_inversion",
            detail="textual inversion (embedding)",
            problem="it is a textual inversion (embedding), not a base model or a LoRA",
        )
    return None


EMBEDDING_WIDTHS = (768, 1024, 1280)


def _as_vae(shapes: Shapes) -> Detected:
    try:
        config = read_vae(shapes).parts["vae"].config
    except LayoutError as error:
        return Detected("vae", detail="VAE", problem=f"it is a VAE of an unknown make: {error}")
    if config["latent_channels"] != 4:
        why = f"it is a VAE with {config['latent_channels']} latent channels, made for another family"
        return Detected("vae", detail="VAE", problem=why)
    return Detected(
        "vae",
        detail="VAE (turns pictures into latents and back)",
        problem="it is a VAE alone, not a base model; name it as base.vae",
    )


# --- Folders ----------------------------------------------------------------------------------------------------

PIPELINES = {
    "StableDiffusionPipeline": ("unet", "vae", "text_encoder"),
    "StableDiffusionImg2ImgPipeline": ("unet", "vae", "text_encoder"),
    "StableDiffusionXLPipeline": ("unet", "vae", "text_encoder", "text_encoder_2"),
    "StableDiffusionXLImg2ImgPipeline": ("unet", "vae", "text_encoder", "text_encoder_2"),
}
"""What a folder of these classes holds. Others are refused by their name."""


def _detect_folder(folder: Path) -> Detected:
    index = _json(folder / "model_index.json")
    if index is None:
        if (folder / "adapter_config.json").exists():
            return Detected("unknown", problem="it is a bare PEFT adapter folder; use the exported .safetensors file")
        if (folder / "config.json").exists() and _json(folder / "config.json") is not None:
            return _part_folder(folder)
        inner = sorted(folder.glob("*.safetensors"))
        hint = f"; did you mean the file {inner[0].name} in it?" if inner else ""
        return Detected(
            "unknown", problem=f"the folder {folder.name} has no readable model_index.json, so it is not a model{hint}"
        )
    name = str(index.get("_class_name", ""))
    for mark, family in (("Flux", "flux"), ("Diffusion3", "sd3")):
        if mark in name:
            return _unsupported(family)
    unet = _json(folder / "unet" / "config.json")
    if "Inpaint" in name or "Pix2Pix" in name or "Upscale" in name or "Depth" in name:
        family = "sdxl" if "XL" in name else "unknown"
        return Detected(
            "base", family, f"{name} folder", f"{name} models cannot be trained here; use the ordinary model"
        )
    if name not in PIPELINES:
        return Detected("base", problem=f"bases of the kind {name or 'unnamed'} are not supported")
    width = (unet or {}).get("cross_attention_dim")
    if type(width) is not int:
        return Detected("base", problem=f"{folder.name}/unet/config.json is missing or damaged")
    family = "sdxl" if "XL" in name else family_by_width(width)
    return _whole_folder(folder, family, name, unet or {}, index)


def _whole_folder(folder: Path, family: str, name: str, unet: dict[str, Any], index: dict[str, Any]) -> Detected:
    """A folder of a known kind: are all of its parts there, and is it one that can be trained?"""
    problem, files = _check_parts(folder, PIPELINES[name])
    scheduler = _json(folder / "scheduler" / "scheduler_config.json") or {}
    said = str(scheduler.get("prediction_type", "epsilon"))
    channels = unet.get("in_channels", 4)
    if family == "sdxl" and index.get("text_encoder") == [None, None]:
        problem = REFINER_PROBLEM
    elif channels in CHANNELS:
        problem = f"it is {CHANNELS[channels]}, which cannot be trained here; use the ordinary model of the same name"
    elif not problem:
        problem = _schedule_problem(scheduler)
    if not problem and family not in TRAINABLE:
        problem = f"a text width of {unet.get('cross_attention_dim')} fits no known base"
    detail = f"{FAMILY_NAMES[family]} base model folder{_prediction_words(family, said if said != 'epsilon' else '')}"
    if family == "sd2":
        detail = f"{FAMILY_NAMES[family]} base model folder{_prediction_words(family, said)}"
    return Detected("base", family, detail, problem, tuple(files), prediction=said)


def _schedule_problem(scheduler: Mapping[str, Any]) -> str:
    name = str(scheduler.get("_class_name", ""))
    if name.startswith("EDM"):
        return EDM_PROBLEM
    if name.startswith("Flow") or scheduler.get("prediction_type") == "flow_prediction":
        return "it was made with flow matching, which is not supported for this family"
    said = scheduler.get("prediction_type", "epsilon")
    return "" if said in ("epsilon", "v_prediction", "sample") else f"its scheduler predicts {said}, which is unknown"


def _part_folder(folder: Path) -> Detected:
    """A folder with one network, as `vae` in a base."""
    name = str((_json(folder / "config.json") or {}).get("_class_name", ""))
    files, problem = weight_files(folder)
    kinds: dict[str, Kind] = {"AutoencoderKL": "vae", "UNet2DConditionModel": "unet", "ControlNetModel": "controlnet"}
    kind = kinds.get(name, "unknown")
    problem = problem or f"it is {name or 'one part'} alone, not a base model"
    return Detected(kind, detail=name, problem=problem, files=tuple(str(path) for path in files))


def weight_files(folder: Path) -> tuple[list[Path], str]:
    """The .safetensors files of one part of a model folder, and what is wrong with them (empty when nothing).

    One whole file, or the pieces that an index names; where only a variant lies there (`.fp16.safetensors`), that.
    """
    for index in sorted(folder.glob("*.safetensors.index*.json"), key=lambda path: ("fp16" in path.name, path.name)):
        table = (_json(index) or {}).get("weight_map")
        if not isinstance(table, dict) or not table:
            return [], f"{index.name} is damaged"
        names = sorted({str(name) for name in table.values()})
        odd = next((name for name in names if "/" in name or "\\" in name or not name.endswith(".safetensors")), None)
        if odd is not None:
            return [], f"{index.name} names the odd file {odd[:80]}"
        missing = next((name for name in names if not (folder / name).is_file()), None)
        return [folder / name for name in names], f"lacks {missing}" if missing else ""
    found = sorted(folder.glob("*.safetensors"))
    plain = [path for path in found if path.stem.count(".") == 0]
    wanted = [path for path in plain or found if not re.search(r"-\d{5}-of-\d{5}", path.name)]
    if wanted:
        return wanted[:1], ""
    if found:
        return [], f"has pieces ({found[0].name}) without the index that joins them"
    pickles = sorted([*folder.glob("*.bin"), *folder.glob("*.ckpt"), *folder.glob("*.pt")])
    return [], f"holds only {pickles[0].name}: {PICKLE_REASON}" if pickles else "has no .safetensors file"


def _check_parts(folder: Path, parts: tuple[str, ...]) -> tuple[str, list[str]]:
    """The first thing that keeps a folder from loading (empty if none), and its weight files."""
    files: list[str] = []
    for part in parts:
        if _json(folder / part / "config.json") is None:
            return f"{folder.name}/{part}/config.json is missing or damaged", files
        weights, problem = weight_files(folder / part)
        if problem:
            return f"{folder.name}/{part} {problem}", files
        for path in weights:
            try:
                read_header(path)
            except HeaderError as error:
                return f"{folder.name}/{part}/{path.name}: {error}", files
            files.append(str(path))
    for part in parts:
        words = folder / part.replace("text_encoder", "tokenizer")
        if part.startswith("text") and not (words / "tokenizer.json").exists():
            for wanted in ("vocab.json", "merges.txt"):
                if not (words / wanted).exists():
                    return f"{folder.name}/{words.name}/{wanted} is missing", files
    if _json(folder / "scheduler" / "scheduler_config.json") is None:
        return f"{folder.name}/scheduler/scheduler_config.json is missing or damaged", files
    return "", files


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
