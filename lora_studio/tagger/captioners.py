"""Models that write sentences: CoCa of open_clip, and any image-text-to-text model that transformers knows.

Weights come from .safetensors files only. Models that bring code of their own are refused unless transformers has its
own class for them: nothing of a model's folder is ever run.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from lora_studio.core.errors import UserError
from lora_studio.core.progress import Phase
from lora_studio.tagger.config import PROMPT
from lora_studio.tagger.scoring import Describer, Report, best_device, silent

CLIP_CONFIG, CLIP_WEIGHTS, CONFIG = "open_clip_config.json", "open_clip_model.safetensors", "config.json"
BEAMS = 4
"""Sentences that CoCa keeps in mind while it writes; open_clip's own search keeps six in three groups."""
MIN_TOKENS = 5
"""A sentence of CoCa is not shorter; open_clip's own number."""
SIDE = 1280
"""Pixels of the longer side that a describer is shown: the processors shrink far below, and memory stays bounded."""
OWN_PROMPTS = {
    "blip": "",
    "blip-2": "",
    "git": "",
    "vision-encoder-decoder": "",
    "florence2": "<DETAILED_CAPTION>",
    "paligemma": "caption en",
}
"""What models that cannot chat are asked while the prompt is not changed: their own words, or nothing."""
REMEDY = "Choose another model, or fetch this one anew."


def load(
    folder: Path,
    report: Report = silent,
    device: str | None = None,
    half: bool | None = None,
) -> Describer:
    """The describer in a folder, on the GPU in half precision where there is one.

    Raises UserError naming what is missing or wrong, and the way out.
    """
    report(Phase("load", f"Loading {folder.name}"))
    device = best_device(device)
    half = device != "cpu" if half is None else half
    if (folder / CLIP_CONFIG).is_file():
        return _load_coca(folder, device, half)
    return _load_chat(folder, device, half)


# --- CoCa -----------------------------------------------------------------------------------------------------------


class CoCa:
    """Contrastive captioner (Yu et al. 2022, arXiv 2205.01917) in open_clip's form. It cannot be asked anything."""

    draft = 0

    def __init__(self, model: open_clip.CoCa, preprocess: PreprocessCfg, device: str, half: bool) -> None:
        self.device = device
        self._dtype = torch.float16 if half else torch.float32
        self._model = model.eval().requires_grad_(False).to(device, self._dtype)
        self._tokenizer = open_clip.SimpleTokenizer()
        self._transform = image_transform_v2(preprocess, is_train=False)

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """One RGB picture -> (3, H, W) as the model was trained on."""
        return self._transform(image).numpy()

    def describe(self, images: Sequence[Image.Image], prompt: str = PROMPT, max_tokens: int = 120) -> list[str]:
        """B RGB pictures -> B sentences."""
        return self.describe_prepared([self.prepare(image) for image in images], prompt, max_tokens)

    @torch.inference_mode()
    def describe_prepared(
        self, batch: Sequence[NDArray[np.float32]], prompt: str = PROMPT, max_tokens: int = 120
    ) -> list[str]:
        """B times (3, H, W) -> B sentences, by beam search."""
        if not batch:
            return []
        pixels = torch.from_numpy(np.stack(batch)).to(self.device, self._dtype)
        sentences = []
        for tokens in self._search(pixels, min(max_tokens, self._model.context_length - 1)):
            end = self._tokenizer.eot_token_id
            own = tokens[1 : tokens.index(end)] if end in tokens else tokens[1:]
            sentences.append(" ".join(self._tokenizer.decode(own).split()))
        return sentences

    def _search(self, pixels: torch.Tensor, most: int) -> list[list[int]]:
        """(B, 3, H, W) -> the tokens of the B likeliest sentences, by the mean log probability of their tokens."""
        count, start, end, pad = len(pixels), self._tokenizer.sot_token_id, self._tokenizer.eot_token_id, 0
        seen = self._model(pixels)
        latent, embeddings = (seen[name].repeat_interleave(BEAMS, 0) for name in ("image_features", "image_embs"))
        tokens = torch.full((count * BEAMS, 1), start, device=pixels.device)
        sums = torch.full((count, BEAMS), -torch.inf, device=pixels.device)
        sums[:, 0] = 0  # all beams begin alike: the first step takes the best words of one of them
        lengths = torch.zeros(count, BEAMS, device=pixels.device)
        ended = torch.zeros(count, BEAMS, dtype=torch.bool, device=pixels.device)
        rows = torch.arange(count, device=pixels.device)[:, None]
        for step in range(most):
            logits = self._model(None, tokens, latent, embeddings, output_labels=False)["logits"][:, -1]
            chances = logits.float().log_softmax(-1).view(count, BEAMS, -1)
            if step < MIN_TOKENS:
                chances[..., end] = -torch.inf
            chances[ended] = -torch.inf
            chances[..., pad] = torch.where(ended, 0.0, -torch.inf)  # what has ended stays as it is
            words = chances.shape[-1]
            sums, places = (sums[..., None] + chances).view(count, -1).topk(BEAMS)
            parents, chosen = places // words, places % words
            tokens = tokens.view(count, BEAMS, -1)[rows, parents].flatten(0, 1)
            tokens = torch.cat([tokens, chosen.view(-1, 1)], dim=1)
            ended = ended[rows, parents]
            lengths = lengths[rows, parents] + (~ended).float()
            ended = ended | (chosen == end)
            if bool(ended.all()):
                break
        best = (sums / lengths.clamp(min=1)).argmax(1)
        return tokens.view(count, BEAMS, -1)[rows[:, 0], best].tolist()


def _load_coca(folder: Path, device: str, half: bool) -> CoCa:
    try:
        config = json.loads((folder / CLIP_CONFIG).read_text("utf-8"))
        settings = {name: value for name, value in config["model_cfg"].items() if name != "custom_text"}
        if settings["text_cfg"].get("hf_tokenizer_name") or settings["text_cfg"].get("hf_model_name"):
            raise ValueError("its words are those of another model")
        model = open_clip.CoCa(**settings)
        size = settings["vision_cfg"].get("image_size", 224)
        preprocess = PreprocessCfg(**config.get("preprocess_cfg", {"size": size}))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{folder / CLIP_CONFIG} describes no CoCa model known here ({error}).", REMEDY) from error
    path = folder / CLIP_WEIGHTS
    try:
        state: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is missing, damaged or no safetensors file ({error}).", REMEDY) from error
    state = {name: value for name, value in state.items() if not name.endswith(("attn_mask", "position_ids"))}
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise UserError(f"{path} holds values that are not numbers.", REMEDY)
    try:
        model.load_state_dict({name: value.float() for name, value in state.items()})
    except RuntimeError as error:
        raise UserError(f"{path} does not fit {CLIP_CONFIG} ({' '.join(str(error).split())[:200]}).", REMEDY) from error
    return CoCa(model, preprocess, device, half)


# --- transformers ---------------------------------------------------------------------------------------------------


class Chat:
    """An image-text-to-text model of transformers: asked with the prompt by its chat template, or with its own words
    where it has none (see OWN_PROMPTS)."""

    draft = 0

    def __init__(self, model: Any, processor: Any, device: str) -> None:
        self.device = device
        self._model = model.eval().requires_grad_(False).to(device)
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._tokenizer.padding_side = "left"  # the answer follows the last token
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def prepare(self, image: Image.Image) -> Image.Image:
        """One RGB picture, its longer side at most SIDE."""
        small = image.copy()
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
        return small

    def describe(self, images: Sequence[Image.Image], prompt: str = PROMPT, max_tokens: int = 120) -> list[str]:
        """B RGB pictures -> B texts."""
        return self.describe_prepared([self.prepare(image) for image in images], prompt, max_tokens)

    @torch.inference_mode()
    def describe_prepared(self, batch: Sequence[Image.Image], prompt: str = PROMPT, max_tokens: int = 120) -> list[str]:
        """B pictures -> B texts, always the likeliest next word."""
        if not batch:
            return []
        inputs = self._inputs(batch, prompt).to(self.device)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[name] = value.to(self._model.dtype)
        made = self._model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False, num_beams=1)
        asked = inputs.get("input_ids")
        if asked is not None and made.shape[1] >= asked.shape[1] and bool((made[:, : asked.shape[1]] == asked).all()):
            made = made[:, asked.shape[1] :]
        return [_tidy(text) for text in self._processor.batch_decode(made, skip_special_tokens=True)]

    def _inputs(self, batch: Sequence[Image.Image], prompt: str) -> Any:
        make = {"return_tensors": "pt", "padding": True}
        if getattr(self._processor, "chat_template", None) or getattr(self._tokenizer, "chat_template", None):
            said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
            text = self._processor.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
            return self._processor(images=[[image] for image in batch], text=[text] * len(batch), **make)
        own = OWN_PROMPTS.get(self._model.config.model_type)
        text = prompt if own is None or prompt != PROMPT else own
        if not text:
            return self._processor(images=list(batch), return_tensors="pt")
        return self._processor(images=list(batch), text=[text] * len(batch), **make)


def _tidy(text: str) -> str:
    """One line, without what a model thought aloud before its answer."""
    return " ".join(re.sub(r"(?s)<think>.*?(</think>|$)", " ", text).split())


def _load_chat(folder: Path, device: str, half: bool) -> Chat:
    from transformers import (
        AutoModelForImageTextToText,
        AutoProcessor,
    )  # here: it takes seconds, and taggers need it not

    numbers = torch.float32
    if half:  # most are trained in bfloat16, and some overflow in float16
        numbers = torch.bfloat16 if device != "cuda" or torch.cuda.is_bf16_supported() else torch.float16
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(folder, **safe)
        model, told = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=numbers, use_safetensors=True, output_loading_info=True, **safe
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise UserError(f"{folder} cannot be used to describe pictures: {_reason(error)}", REMEDY) from error
    except SafetensorError as error:
        raise UserError(f"The weights in {folder} are damaged or cut off ({error}).", REMEDY) from error
    missing = sorted(told["missing_keys"])
    if missing:
        raise UserError(f"The weights in {folder} lack {len(missing)} parts, {missing[0]} the first.", REMEDY)
    return Chat(model, processor, device)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in text:
        return "it needs code of its own to run, which the studio never does."
    if "Unrecognized configuration class" in text or "does not recognize this architecture" in text:
        return "transformers knows no such image-text-to-text model, or its version here is too old."
    return f"{text[:300]}."
