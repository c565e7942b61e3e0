"""A tagger: an open_clip model with a tag head, loaded from a local folder.

The folder holds `open_clip_config.json` and `open_clip_model.safetensors` as open_clip writes them,
`bpe_simple_vocab.txt.gz` (merges of its SimpleTokenizer), `tag_head.safetensors` (weight (T, D), bias (T,)) and
`vocabulary.json`. Nothing is fetched, and nothing that could run code on loading is opened.
"""

import json
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

from lora_studio.core import paths
from lora_studio.core.errors import UserError
from lora_studio.tagger.vocabulary import Vocabulary, load_vocabulary

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
MERGES = "bpe_simple_vocab.txt.gz"
HEAD = "tag_head.safetensors"
TAGS = "vocabulary.json"
FILES = (CONFIG, WEIGHTS, MERGES, HEAD, TAGS)

Floats = NDArray[np.float32]


class Tagger:
    """Embeddings of pictures and words in one space, and the probability of each tag."""

    def __init__(
        self,
        model: open_clip.CLIP,
        head: torch.nn.Linear,
        tokenizer: open_clip.SimpleTokenizer,
        preprocess: PreprocessCfg,
        vocabulary: Vocabulary,
        device: str,
    ) -> None:
        self.vocabulary = vocabulary
        self.device = device
        self._model = model.eval().requires_grad_(False).to(device)
        self._head = head.eval().requires_grad_(False).to(device)
        self._tokenizer = tokenizer
        self._transform = image_transform_v2(preprocess, is_train=False)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> Floats:
        """B RGB pictures of any size -> (B, D), each of length 1."""
        pixels = torch.stack([self._transform(image) for image in images]).to(self.device)
        return self._model.encode_image(pixels, normalize=True).float().cpu().numpy()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """M texts -> (M, D), each of length 1; what exceeds the model's context is cut off."""
        tokens = self._tokenizer(list(texts)).to(self.device)
        return self._model.encode_text(tokens, normalize=True).float().cpu().numpy()

    @torch.inference_mode()
    def tag_scores(self, embeddings: Floats) -> Floats:
        """(B, D) embeddings of pictures -> (B, T) probabilities, in the vocabulary's order."""
        return self._head(torch.from_numpy(np.asarray(embeddings, np.float32)).to(self.device)).sigmoid().cpu().numpy()

    def score(self, images: Sequence[Image.Image]) -> Floats:
        """B RGB pictures -> (B, T) probabilities, in the vocabulary's order."""
        return self.tag_scores(self.embed_images(images))


def load_model(name: str = "starter", device: str | None = None) -> Tagger:
    """The tagger in the folder `name`, or the one that ships for `starter`.

    Raises UserError naming the file that is missing or wrong, and the way out.
    """
    folder = paths.assets() / "starter" / "tagger" if name == "starter" else Path(name).expanduser()
    remedy = (
        "Install the studio again." if name == "starter" else "Choose starter, or a folder with all of these files."
    )
    _check_files(folder, name, remedy)
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        model = open_clip.CLIP(**config["model_cfg"])
        preprocess = PreprocessCfg(
            **config.get("preprocess_cfg", {"size": config["model_cfg"]["vision_cfg"]["image_size"]})
        )
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{folder / CONFIG} describes no open_clip model known here ({error}).", remedy) from error
    _fill(model, folder / WEIGHTS, remedy)
    vocabulary = load_vocabulary(folder / TAGS)
    head = torch.nn.Linear(config["model_cfg"]["embed_dim"], len(vocabulary))
    _fill(head, folder / HEAD, remedy)
    tokenizer = _tokenizer(folder / MERGES, config["model_cfg"]["text_cfg"], remedy)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Tagger(model, head, tokenizer, preprocess, vocabulary, chosen)


def _check_files(folder: Path, name: str, remedy: str) -> None:
    if not folder.is_dir():
        raise UserError(f"There is no tagger at {folder if name == 'starter' else name}.", remedy)
    missing = [file for file in FILES if not (folder / file).is_file()]
    if not missing:
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
    note = f" {pickles[0]} is a pickle, which could run code and is never opened." if pickles else ""
    raise UserError(f"The tagger at {folder} lacks {', '.join(missing)}.{note}", remedy)


def _fill(module: torch.nn.Module, path: Path, remedy: str) -> None:
    """Load weights that must fit exactly; half precision is widened."""
    try:
        state: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file ({error}).", remedy) from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise UserError(f"{path} holds values that are not numbers.", remedy)
    try:
        module.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit the model beside it ({reason}).", remedy) from error


def _tokenizer(path: Path, text_cfg: dict[str, Any], remedy: str) -> open_clip.SimpleTokenizer:
    try:
        tokenizer = open_clip.SimpleTokenizer(bpe_path=str(path), context_length=text_cfg["context_length"])
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}).", remedy) from error
    tokens = max(tokenizer.encoder.values()) + 1
    if tokens > text_cfg["vocab_size"]:
        sizes = f"{tokens} tokens, the model has {text_cfg['vocab_size']}"
        raise UserError(f"{path} belongs to another model ({sizes}).", remedy)
    return tokenizer
