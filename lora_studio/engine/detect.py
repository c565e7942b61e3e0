"""What is this file or folder? Answered from names and shapes in the headers alone: no weight is read, no torch.

Every "no" carries its reason in `Detected.problem`. Pickles are refused by their content, whatever their name.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lora_studio.engine.headers import HeaderError, is_pickle, read_header

Kind = Literal["base", "lora", "vae", "text_encoder", "pickle", "unknown"]
TRAINABLE = ("sd1", "sd2", "sd-small")
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
Shapes = Mapping[str, tuple[int, ...]]


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
    for judge in (_as_lora, _as_base, _as_part):
        found = judge(shapes, metadata)
        if found is not None:
            return replace(found, files=files)
    some = ", ".join(list(shapes)[:3])
    return Detected(
        "unknown", problem=f"its {len(shapes)} weights fit nothing known here (they begin {some})", files=files
    )


# --- LoRA files -------------------------------------------------------------------------------------------------

LYCORIS_MARKS = {
    "hada_w1_a": "LoHa", "lokr_w1": "LoKr", "lokr_w1_a": "LoKr", "on_input": "(IA)3", "oft_blocks": "OFT",
    "a1.weight": "GLoRA", "diff": "full difference", "dora_scale": "DoRA",
}  # fmt: skip


PEFT_NAME = re.compile(r"(unet|text_encoder)\..+\.lora_[AB]\.weight$")


def _as_lora(shapes: Shapes, metadata: Mapping[str, str]) -> Detected | None:
    kohya = [name for name in shapes if name.startswith(("lora_unet_", "lora_te", "lycoris_"))]
    peft = [name for name in shapes if ".lora_A." in name or ".lora_B." in name or ".lora.down." in name]
    if not kohya and not peft:
        return None
    family = _lora_family(shapes)
    endings = {name.partition(".")[2] for name in kohya}
    special = {text for mark, text in LYCORIS_MARKS.items() if mark in endings}
    rank = next((s[0] for n, s in shapes.items() if n.endswith(("lora_down.weight", "lora_A.weight")) and s), 0)
    text = any(name.startswith(("lora_te", "text_encoder")) for name in shapes)
    name, reach = " + ".join(sorted(special)) or "LoRA", "with" if text else "without"
    detail = f"{name} for {FAMILY_NAMES[family]}, rank {rank}, {reach} text encoder"
    problem = ""
    if special:
        problem = f"{' + '.join(sorted(special))} files are not supported yet"
    elif family not in TRAINABLE:
        problem = f"LoRA files for {FAMILY_NAMES[family]} bases are not supported yet"
    elif not kohya and not all(PEFT_NAME.match(name) for name in shapes):
        odd = next(name for name in shapes if not PEFT_NAME.match(name))
        problem = f"its layout is not supported yet ({odd}); kohya's and diffusers' present one are"
    else:
        problem = _lora_problem(shapes)
    return Detected("lora", family, detail, problem)


def _lora_problem(shapes: Shapes) -> str:
    """Every module needs both of its tensors, and their ranks must agree; the first that does not, in words."""
    pairs = (
        (".lora_down.weight", ".lora_up.weight"),
        (".lora_A.weight", ".lora_B.weight"),
        (".lora.down.weight", ".lora.up.weight"),
    )
    for down, up in pairs:
        for name, shape in shapes.items():
            if name.endswith(up) and name.removesuffix(up) + down not in shapes:
                return f"{name} has no partner {down}"
            if name.endswith(down):
                other = shapes.get(name.removesuffix(down) + up)
                if other is None:
                    return f"{name} has no partner {up}"
                if len(shape) < 2 or len(other) < 2 or shape[0] != other[1]:
                    return f"{name} and its partner do not fit together"
    return ""


def _lora_family(shapes: Shapes) -> str:
    names = list(shapes)
    if any(
        re.match(
            r"lora_unet_(double|single)_blocks_|transformer\.(single_)?transformer_blocks\.\d+\.(attn|norm|proj)", n
        )
        for n in names
    ):
        return "sd3" if any("joint_blocks" in n or "pos_embed" in n for n in names) else "flux"
    if any("joint_blocks" in n for n in names):
        return "sd3"
    if any(n.startswith(("lora_te2_", "text_encoder_2.")) for n in names):
        return "sdxl"
    for name, shape in shapes.items():
        if re.search(r"attn2[._]to[._]k.*(lora_down|lora_A|lora\.down)", name) and len(shape) >= 2:
            return _by_width(shape[1])
    for name, shape in shapes.items():
        if re.search(r"(self_attn[._]k_proj).*(lora_down|lora_A|lora\.down)", name) and len(shape) >= 2:
            return _by_width(shape[1])
    return "unknown"


def _by_width(width: int) -> str:
    """Family by the width of the text states that the cross-attention reads."""
    return {768: "sd1", 1024: "sd2", 2048: "sdxl"}.get(width, "sd-small" if width < 768 else "unknown")


# --- Whole models in one file -----------------------------------------------------------------------------------


def _as_base(shapes: Shapes, metadata: Mapping[str, str]) -> Detected | None:
    unet = next(
        (
            shape
            for name, shape in shapes.items()
            if name.startswith("model.diffusion_model.") and name.endswith("attn2.to_k.weight")
        ),
        None,
    )
    if any("double_blocks." in name or "single_blocks." in name for name in shapes):
        return _unsupported("flux")
    if any("joint_blocks." in name for name in shapes):
        return _unsupported("sd3")
    if unet is None or len(unet) != 2:
        return None
    family = _by_width(unet[1])
    if family == "sdxl":
        return _unsupported("sdxl")
    missing = [
        part
        for part, prefix in (("text encoder", "cond_stage_model."), ("VAE", "first_stage_model."))
        if not any(name.startswith(prefix) for name in shapes)
    ]
    problem = "a base in one file cannot be opened yet; use the same model as a folder (diffusers layout)"
    if missing:
        problem = f"the file lacks the {' and the '.join(missing)}"
    return Detected("base", family, f"{FAMILY_NAMES[family]} base model in one file", problem)


def _unsupported(family: str) -> Detected:
    name = FAMILY_NAMES[family]
    return Detected(
        "base",
        family,
        f"{name} base model",
        f"{name} bases are not supported yet; use a Stable Diffusion 1.x base or the starter",
    )


def _as_part(shapes: Shapes, metadata: Mapping[str, str]) -> Detected | None:
    names = [name.removeprefix("first_stage_model.").removeprefix("text_model.") for name in shapes]
    starts: Callable[[str], bool] = lambda prefix: any(name.startswith(prefix) for name in names)  # noqa: E731
    if starts("encoder.conv_in") and starts("decoder.conv_in"):
        return Detected(
            "vae", detail="VAE (turns pictures into latents and back)", problem="it is a VAE alone, not a base model"
        )
    if starts("embeddings.token_embedding") and starts("encoder.layers."):
        return Detected(
            "text_encoder", detail="CLIP text encoder", problem="it is a text encoder alone, not a base model"
        )
    if starts("down_blocks.") and starts("up_blocks."):
        return Detected(
            "unknown",
            detail="UNet",
            problem="it is a UNet alone; a base needs text encoder, tokenizer and VAE beside it",
        )
    return None


# --- Folders ----------------------------------------------------------------------------------------------------

SD_PARTS = ("unet", "vae", "text_encoder")


def _detect_folder(folder: Path) -> Detected:
    index = _json(folder / "model_index.json")
    if index is None:
        if (folder / "adapter_config.json").exists():
            return Detected("unknown", problem="it is a bare PEFT adapter folder; use the exported .safetensors file")
        inner = sorted(folder.glob("*.safetensors"))
        hint = f"; did you mean the file {inner[0].name} in it?" if inner else ""
        return Detected(
            "unknown", problem=f"the folder {folder.name} has no readable model_index.json, so it is not a model{hint}"
        )
    name = str(index.get("_class_name", ""))
    if "XL" in name:
        return _unsupported("sdxl")
    if "Flux" in name:
        return _unsupported("flux")
    if "Diffusion3" in name:
        return _unsupported("sd3")
    if not name.startswith("StableDiffusion"):
        return Detected("base", problem=f"bases of the kind {name or 'unnamed'} are not supported yet")
    unet = _json(folder / "unet" / "config.json")
    width = (unet or {}).get("cross_attention_dim")
    if not isinstance(width, int):
        return Detected("base", problem=f"{folder.name}/unet/config.json is missing or damaged")
    family = _by_width(width)
    problem, files = _check_parts(folder)
    if not problem and family not in TRAINABLE:
        problem = f"a text width of {width} fits no known base"
    return Detected("base", family, f"{FAMILY_NAMES[family]} base model folder", problem, tuple(files))


def _check_parts(folder: Path) -> tuple[str, list[str]]:
    """The first thing that keeps an SD folder from loading (empty if none), and its weight files."""
    files: list[str] = []
    for part in SD_PARTS:
        weights = sorted((folder / part).glob("*.safetensors"))
        if _json(folder / part / "config.json") is None:
            return f"{folder.name}/{part}/config.json is missing or damaged", files
        if not weights:
            pickles = [*(folder / part).glob("*.bin"), *(folder / part).glob("*.ckpt")]
            why = f"holds only {pickles[0].name}: {PICKLE_REASON}" if pickles else "has no .safetensors file"
            return f"{folder.name}/{part} {why}", files
        for path in weights:
            try:
                read_header(path)
            except HeaderError as error:
                return f"{folder.name}/{part}/{path.name}: {error}", files
            files.append(str(path))
    for wanted in ("tokenizer/vocab.json", "tokenizer/merges.txt"):
        if not (folder / wanted).exists() and not (folder / "tokenizer/tokenizer.json").exists():
            return f"{folder.name}/{wanted} is missing", files
    if _json(folder / "scheduler" / "scheduler_config.json") is None:
        return f"{folder.name}/scheduler/scheduler_config.json is missing or damaged", files
    return "", files


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
