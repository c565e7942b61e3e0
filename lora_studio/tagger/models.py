"""Which models can tag or describe pictures, and what lies behind a name. Imports no torch.

A name is `starter`, a folder, a name on the Hugging Face hub (`owner/model` or `owner/model@revision`), or a
checkpoint of open_clip written as `ARCHITECTURE:CHECKPOINT`.
"""

import importlib.util
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from lora_studio.core import hub, paths
from lora_studio.core.errors import UserError
from lora_studio.core.hub import RemoteFile
from lora_studio.tagger.vocabulary import load_tag_csv, load_vocabulary

Kind = Literal["starter", "open_clip", "zero_shot", "wd", "onnx", "captioner"]

CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = "open_clip_model.safetensors"
MERGES = "bpe_simple_vocab.txt.gz"
HEAD = "tag_head.safetensors"
TAGS = "vocabulary.json"
WITH_HEAD = (CLIP_CONFIG, CLIP_WEIGHTS, MERGES, HEAD, TAGS)
TAG_CSV = "selected_tags.csv"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ONNX = "model.onnx"
TOKENIZER = "tokenizer.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
KNOWN = "starter, a folder, owner/model of the Hugging Face hub, or ARCHITECTURE:CHECKPOINT of open_clip"
FORMS = (
    f"Known are folders with {CLIP_CONFIG} and {CLIP_WEIGHTS} (open_clip), with {CONFIG}, {WEIGHTS} and {TAG_CSV} "
    f"(WD v3), with {ONNX} and {TAG_CSV}, or with {CONFIG} and .safetensors files of a transformers model."
)
OPEN_CLIP = re.compile(r"([A-Za-z][\w.-]+):([\w.-]+)")


@dataclass(frozen=True)
class Card:
    """One model to choose."""

    name: str
    kind: Kind
    title: str
    about: str
    bytes: int
    """Of its weights; 0 when not known."""
    speed: str
    licence: str
    source: str
    """Where it comes from, for people."""
    answers: Literal["tags", "sentences"] = "tags"
    present: bool = False
    """Whether it is on this disk, so that nothing is fetched."""


HUB, SLOW, SLOWEST = "Hugging Face hub", "slow without a GPU", "very slow without a GPU"
WD_ABOUT = "Booru tags, characters and ratings, by SmilingWolf. The usual choice for drawn pictures."
WORDS = "Matches pictures against any list of words, for photos and drawings. Less sure than a tagger trained on tags."
SAYS = "Writes a sentence. Good where the base reads sentences."
CARDS = (
    Card("starter", "starter", "Starter", "Ships with the studio and knows the pictures of its samples: to try things "
         "out. Not for your own photos or drawings.", 3_056_086, "very fast", "CC0 1.0",
         "the studio itself"),
    Card("SmilingWolf/wd-eva02-large-tagger-v3", "wd", "WD EVA02 large v3", f"{WD_ABOUT} The surest of the five.",
         1_260_751_028, SLOWEST, "Apache-2.0", HUB),
    Card("SmilingWolf/wd-vit-large-tagger-v3", "wd", "WD ViT large v3", WD_ABOUT, 1_260_136_884,
         SLOWEST, "Apache-2.0", HUB),
    Card("SmilingWolf/wd-swinv2-tagger-v3", "wd", "WD SwinV2 v3", WD_ABOUT, 392_105_364, SLOW, "Apache-2.0",
         HUB),
    Card("SmilingWolf/wd-convnext-tagger-v3", "wd", "WD ConvNext v3", WD_ABOUT, 394_795_956, SLOW, "Apache-2.0",
         HUB),
    Card("SmilingWolf/wd-vit-tagger-v3", "wd", "WD ViT v3", f"{WD_ABOUT} The quickest of the five.", 378_403_252,
         SLOW, "Apache-2.0", HUB),
    Card("timm/ViT-B-16-SigLIP2", "zero_shot", "SigLIP 2 B/16", WORDS, 1_500_751_880, SLOW, "Apache-2.0", HUB),
    Card("timm/ViT-SO400M-14-SigLIP-384", "zero_shot", "SigLIP SO400M/14", f"{WORDS} The surest of these.",
         3_511_841_992, SLOWEST, "Apache-2.0", HUB),
    Card("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "zero_shot", "CLIP B/32", f"{WORDS} The quickest of these.",
         605_132_968, "fast", "MIT", HUB),
    Card("laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", "zero_shot", "CLIP L/14", WORDS, 1_710_489_768, SLOWEST,
         "MIT", HUB),
    Card("laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k", "captioner", "CoCa L/14",
         f"{SAYS} Short and plain; cannot be asked.", 2_553_847_528, SLOWEST, "MIT", HUB, "sentences"),
    Card("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "captioner", "SmolVLM2 2.2B", f"{SAYS} Follows your instructions; "
         "needs about 5 GB of GPU memory.", 0, "needs a GPU", "Apache-2.0", HUB, "sentences"),
    Card("Qwen/Qwen2.5-VL-7B-Instruct", "captioner", "Qwen2.5-VL 7B",
         f"{SAYS} Follows your instructions closely; needs about 18 GB of GPU memory.", 0, "needs a GPU", "Apache-2.0",
         HUB, "sentences"),
    Card("florence-community/Florence-2-base", "captioner", "Florence-2 base",
         f"{SAYS} Small; takes its own task words as instructions.", 0, SLOW, "MIT", HUB,
         "sentences"),
)  # fmt: skip
"""Sizes are counted from the architectures (timm with 10,861 tags, open_clip) in float32. What the models that are
asked need is about what their makers say."""


def cards() -> list[Card]:
    """What can be chosen without knowing a name; says of each whether it is on this disk. Asks nobody."""
    return [replace(card, present=on_disk(card.name) is not None) for card in CARDS]


def on_disk(name: str) -> Path | None:
    """The folder of a model that is here, whole; None when it would have to be fetched (or is none)."""
    if name == "starter":
        return starter()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return hub.local(name, _is_whole) if hub.is_name(name) else None
    return folder if _is_whole(folder) else None


def starter() -> Path:
    """Folder of the tagger that ships."""
    return paths.assets() / "starter" / "tagger"


def kind_of(name: str) -> Kind:
    """What a name stands for. A folder is judged by its files; a name on the hub by what is here, or else by the list
    of files that the hub gives.

    Raises UserError with the reason when it is nothing that can be used: not there, half there, made for other tags, or
    a pickle. Weights are not loaded.
    """
    name = name.strip()
    if name == "starter":
        return "starter"
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder_kind(folder)
    if folder.exists():
        raise UserError(f"{name} is a file; a tagger is a folder.", FORMS)
    known = next((card.kind for card in CARDS if card.name == name), None)
    if known is not None:
        return known
    if hub.is_name(name):
        present = on_disk(name)
        return folder_kind(present) if present else _remote_kind(hub.files_of(name), name)
    return _checkpoint_kind(name)


def _checkpoint_kind(name: str) -> Kind:
    """Of `ARCHITECTURE:CHECKPOINT`, by the list of architectures that open_clip brings along."""
    match = OPEN_CLIP.fullmatch(name)
    if match is None:
        raise UserError(f"There is no tagger at {name}.", f"Choose {KNOWN}.")
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / "model_configs" / f"{match[1]}.json"
    if not file.is_file():
        raise UserError(f"open_clip knows no architecture {match[1]}.", "Look at its list of checkpoints.")
    return "captioner" if "multimodal_cfg" in json.loads(file.read_text("utf-8")) else "zero_shot"


# --- Folders ----------------------------------------------------------------------------------------------------


def _is_whole(folder: Path) -> bool:
    try:
        folder_kind(folder)
    except UserError:
        return False
    return True


def folder_kind(folder: Path) -> Kind:
    """What a folder holds, by its files alone. Raises UserError naming what is missing or does not fit."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    if names & {HEAD, TAGS}:
        _need(folder, names, WITH_HEAD)
        _check_head(folder)
        return "open_clip"
    if names & {CLIP_CONFIG, CLIP_WEIGHTS}:
        _need(folder, names, (CLIP_CONFIG, CLIP_WEIGHTS))
        model = _clip_config(folder)
        if model["text_cfg"].get("hf_tokenizer_name") or model["text_cfg"].get("hf_model_name"):
            _need(folder, names, (TOKENIZER,))
        return "captioner" if "multimodal_cfg" in model else "zero_shot"
    if TAG_CSV in names and ONNX in names and WEIGHTS not in names:
        load_tag_csv(folder / TAG_CSV)
        return "onnx"
    if TAG_CSV in names:
        _need(folder, names, (CONFIG, WEIGHTS))
        _check_classes(folder)
        return "wd"
    if CONFIG in names and (names & {WEIGHTS, INDEX}):
        return _transformers(folder, names)
    if names & {CONFIG, ONNX, WEIGHTS}:
        _need(folder, names, (CONFIG, WEIGHTS, TAG_CSV))
    raise UserError(f"{folder} holds no tagger that is known here.{_pickles(names)}", FORMS)


def _need(folder: Path, names: Collection[str], files: Collection[str]) -> None:
    missing = [file for file in files if file not in names]
    if missing:
        raise UserError(
            f"The tagger at {folder} lacks {', '.join(missing)}.{_pickles(names)}",
            "Install the studio again."
            if folder == starter()
            else "Choose starter, or a folder with all of these files.",
        )


def _pickles(names: Collection[str]) -> str:
    found = sorted(name for name in names if name.endswith(PICKLES))
    return f" {found[0]} is a pickle, which could run code and is never opened." if found else ""


def read_json(file: Path) -> dict:
    """A file that holds one object. Raises UserError naming it when it does not."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}).", "Fetch or copy the model again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no settings of a model.", "Fetch or copy the model again.")
    return found


def _clip_config(folder: Path) -> dict:
    model = read_json(folder / CLIP_CONFIG).get("model_cfg")
    if not isinstance(model, dict) or not all(isinstance(model.get(part), dict) for part in ("vision_cfg", "text_cfg")):
        raise UserError(f"{folder / CLIP_CONFIG} describes no open_clip model known here.", FORMS)
    return model


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a .safetensors file. Raises UserError when it is damaged or cut off."""
    try:
        with safe_open(file, framework="numpy") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is damaged, cut off or no safetensors file ({error}).", "Fetch or copy the model again."
        ) from error


def _check_head(folder: Path) -> None:
    """That the tag head has a row for each tag of the vocabulary."""
    rows = shapes_of(folder / HEAD).get("weight", (0,))[0]
    tags = len(load_vocabulary(folder / TAGS))
    if rows != tags:
        raise UserError(
            f"{folder / HEAD} does not fit the model beside it ({rows} rows for {tags} tags of {TAGS}).",
            "Choose starter, or a folder with files that belong together.",
        )


def _check_classes(folder: Path) -> None:
    """That a WD model answers for as many tags as its list has."""
    config, tags = read_json(folder / CONFIG), len(load_tag_csv(folder / TAG_CSV))
    if not isinstance(config.get("architecture"), str):
        raise UserError(f"{folder / CONFIG} names no architecture of timm.", FORMS)
    classes = config.get("num_classes")
    if classes != tags:
        raise UserError(
            f"The model at {folder} answers for {classes} classes, but {TAG_CSV} has {tags} tags.",
            "Take the list from where the model comes from.",
        )
    shapes = shapes_of(folder / WEIGHTS)
    if not any(shape[:1] == (tags,) for shape in shapes.values()):
        raise UserError(
            f"{folder / WEIGHTS} has no layer for the {tags} tags of {TAG_CSV}.", "Fetch or copy the model again."
        )


def _transformers(folder: Path, names: Collection[str]) -> Kind:
    config = read_json(folder / CONFIG)
    if not config.get("model_type"):
        raise UserError(f"{folder / CONFIG} is of a model without tags and without words.", FORMS)
    if INDEX in names:
        pieces = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        _need(folder, names, pieces)
    return "captioner"


# --- The hub ----------------------------------------------------------------------------------------------------

WORD_FILES = re.compile(r"[^/]+\.(json|txt|model|jinja)|bpe_simple_vocab\.txt\.gz")
"""Settings and vocabularies; never code, never a pickle."""


def wanted(files: Collection[RemoteFile], name: str) -> list[RemoteFile]:
    """The files of a model on the hub that are needed. Raises UserError when it is nothing that can be used."""
    kind = _remote_kind(files, name)
    names = {file.name for file in files}
    if kind in ("wd", "onnx"):
        keep = {CONFIG, WEIGHTS, TAG_CSV} if kind == "wd" else {ONNX, TAG_CSV}
        return [file for file in files if file.name in keep]
    keep = {name for name in names if WORD_FILES.fullmatch(name)}
    if CLIP_CONFIG in names:
        keep |= {CLIP_WEIGHTS, HEAD} & names
    else:
        keep |= (
            {WEIGHTS} if WEIGHTS in names else {n for n in names if re.fullmatch(r"model-\d+-of-\d+\.safetensors", n)}
        )
    return [file for file in files if file.name in keep]


def _remote_kind(files: Collection[RemoteFile], name: str) -> Kind:
    names = {file.name for file in files}
    if CLIP_CONFIG in names and CLIP_WEIGHTS in names:
        return "open_clip" if {HEAD, TAGS} <= names else "zero_shot"
    if TAG_CSV in names and {CONFIG, WEIGHTS} <= names:
        return "wd"
    if TAG_CSV in names and ONNX in names:
        return "onnx"
    if CONFIG in names and names & {WEIGHTS, INDEX} and CLIP_CONFIG not in names and TAG_CSV not in names:
        return "captioner"
    raise UserError(f"{name} holds no tagger that is known here.{_pickles(names)}", FORMS)
