"""An open_clip model in a local folder: embeddings of pictures and of words. Nothing is fetched, no pickle opened."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import open_clip
import timm
import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from lora_studio.core.errors import UserError
from lora_studio.tagger.models import CLIP_CONFIG, CLIP_WEIGHTS, MERGES, TOKENIZER, starter
from lora_studio.tagger.scoring import Floats, best_device, number_type, stacked

OPTIONS = ("clean", "strip_sep_token", "language", "lower", "reduction_mask", "additional_special_tokens")
"""What a model's folder may tell its tokenizer. There are others that would have transformers run the folder's code."""

ENOUGH = 3
"""So many times the side that the model sees are left of a large picture before it is scaled with care: from there on
Pillow's docs call the result hardly told apart, and it takes a fraction of the time."""


class Clip:
    """Pictures and words in one space."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        preprocess: PreprocessCfg,
        size: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.device, self.dtype, self.size = device, dtype, size
        self.model = model.eval().requires_grad_(False).to(device, dtype)
        self.tokenizer = tokenizer
        self._transform = image_transform_v2(preprocess, is_train=False)
        side = preprocess.size if isinstance(preprocess.size, int) else max(preprocess.size)
        self.draft = ENOUGH * side

    def prepare(self, image: Image.Image) -> Floats:
        """An RGB picture of any size -> (3, H, W), cut, scaled and normalised as the model was trained. Any thread."""
        if (factor := min(image.size) // self.draft) > 1:
            image = image.reduce(factor)
        return self._transform(image).numpy()

    @torch.inference_mode()
    def embed_prepared(self, batch: Sequence[Floats]) -> Floats:
        """B prepared pictures -> (B, D), each of length 1."""
        pixels = stacked(batch, self.device, self.dtype)
        return _unit(self.model.encode_image(pixels))

    def embed_images(self, images: Sequence[Image.Image]) -> Floats:
        """B RGB pictures of any size -> (B, D), each of length 1."""
        return self.embed_prepared([self.prepare(image) for image in images])

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """M texts -> (M, D), each of length 1; what exceeds the model's context is cut off."""
        tokens = self.tokenizer(list(texts)).to(self.device)
        return _unit(self.model.encode_text(tokens))


def _unit(features: torch.Tensor) -> Floats:
    """Rows of length 1; computed in float32, as half precision rounds lengths to the third place."""
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def remedy_for(folder: Path) -> str:
    """The way out when a file of a model is wrong."""
    if folder == starter():
        return "Install the studio again."
    return "Fetch or copy the model again, or choose another one."


def open_clip_model(folder: Path, device: str | None = None, half: bool | None = None) -> Clip:
    """The model in a folder with `open_clip_config.json`, `open_clip_model.safetensors` and, where the config names a
    tokenizer of transformers, its `tokenizer.json`; else merges in the folder, or those that open_clip brings along.

    Raises UserError naming the file that is wrong, and the way out.
    """
    remedy = remedy_for(folder)
    try:
        config = json.loads((folder / CLIP_CONFIG).read_text("utf-8"))
        model, size = build(config["model_cfg"]), config["model_cfg"]["embed_dim"]
        cfg = {"size": config["model_cfg"]["vision_cfg"]["image_size"]} | config.get("preprocess_cfg", {})
        preprocess = PreprocessCfg(**cfg)
    except Exception as error:  # whatever a constructor raises for sizes that do not go together
        raise UserError(f"{folder / CLIP_CONFIG} describes no open_clip model known here ({error}).", remedy) from error
    fill(model, folder / CLIP_WEIGHTS)
    device = best_device(device)
    return Clip(model, _tokenizer(folder, config["model_cfg"]["text_cfg"]), preprocess, size, device,
                number_type(device, half))  # fmt: skip


def build(model_cfg: dict[str, Any]) -> torch.nn.Module:
    """An open_clip model with random weights by its `model_cfg`: the class that open_clip itself would take. No part of
    it is fetched. Raises what the class raises when the sizes do not go together."""
    cfg = json.loads(json.dumps(model_cfg))
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    if "timm_model_name" in vision:
        if not timm.is_model(vision["timm_model_name"]):  # a name could lead to another place as well
            raise ValueError(f"timm knows no {vision['timm_model_name']}")
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    custom = cfg.pop("custom_text", False) or "hf_model_name" in text
    kind = open_clip.CLIP if not custom else open_clip.CoCa if "multimodal_cfg" in cfg else open_clip.CustomTextCLIP
    return kind(**cfg)


def fill(module: torch.nn.Module, path: Path) -> None:
    """Load a .safetensors file that must fit exactly; half precision is widened, forms of older versions of open_clip
    are understood. Raises UserError naming the file."""
    remedy = remedy_for(path.parent)
    assert path.suffix == ".safetensors", path  # open_clip's function would open a pickle as well
    try:
        if isinstance(module, open_clip.CLIP | open_clip.CustomTextCLIP):
            open_clip.load_checkpoint(module, str(path))
        else:
            module.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file ({error}).", remedy) from error
    except (RuntimeError, KeyError, AttributeError, StopIteration) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit the model beside it ({reason}).", remedy) from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values()):
        raise UserError(f"{path} holds values that are not numbers.", remedy)


def _tokenizer(folder: Path, text_cfg: dict[str, Any]) -> Any:
    """The tokenizer of the text tower. Raises UserError when it is missing or belongs to another model."""
    remedy, length = remedy_for(folder), text_cfg.get("context_length", DEFAULT_CONTEXT_LENGTH)
    path = folder / (TOKENIZER if text_cfg.get("hf_tokenizer_name") else MERGES)
    options = {name: value for name, value in (text_cfg.get("tokenizer_kwargs") or {}).items() if name in OPTIONS}
    try:
        if path.name == TOKENIZER:
            tokenizer = HFTokenizer(
                str(folder),
                length,
                tokenizer_mode=text_cfg.get("tokenizer_mode"),
                local_files_only=True,
                trust_remote_code=False,
                **options,
            )
        else:
            merges = {"bpe_path": str(path)} if path.is_file() else {}
            tokenizer = SimpleTokenizer(context_length=length, **merges, **options)
    except Exception as error:  # transformers raises many kinds for a damaged file
        raise UserError(f"{path} cannot be read ({error}).", remedy) from error
    known = text_cfg.get("vocab_size", 0)
    tokens = 0 if path.name == TOKENIZER else max(tokenizer.encoder.values()) + 1  # others count some that never occur
    if "hf_model_name" not in text_cfg and tokens > known:
        raise UserError(f"{path} belongs to another model ({tokens} tokens, the model has {known}).", remedy)
    return tokenizer
