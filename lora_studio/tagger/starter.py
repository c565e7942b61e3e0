"""A tagger trained for its tags: an open_clip model with a tag head, as the one that ships.

The folder holds `open_clip_config.json` and `open_clip_model.safetensors` as open_clip writes them,
`bpe_simple_vocab.txt.gz` (merges of its SimpleTokenizer), `tag_head.safetensors` (weight (T, D), bias (T,)) and
`vocabulary.json`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from lora_studio.tagger.clip import Clip, fill, open_clip_model
from lora_studio.tagger.models import HEAD, TAGS
from lora_studio.tagger.scoring import Floats, Prepared
from lora_studio.tagger.vocabulary import Vocabulary, load_vocabulary


class Tagger(Prepared):
    """Embeddings of pictures and words in one space, and the probability of each tag."""

    def __init__(self, clip: Clip, vocabulary: Vocabulary, tag_scores: Callable[[Floats], Floats]) -> None:
        """`tag_scores`: (B, D) embeddings of pictures -> (B, T) probabilities, in the vocabulary's order."""
        self.vocabulary = vocabulary
        self.device = clip.device
        self.prepare, self.draft = clip.prepare, clip.draft
        self.embed_images = clip.embed_images
        self.embed_prepared = clip.embed_prepared
        self.embed_texts = clip.embed_texts
        self.tag_scores = tag_scores

    def score_prepared(self, batch: Sequence[Floats]) -> Floats:
        """B prepared pictures -> (B, T) probabilities, in the vocabulary's order."""
        return self.tag_scores(self.embed_prepared(batch))


def load_tagger(folder: Path, device: str | None = None, half: bool | None = None) -> Tagger:
    """The tagger in `folder`, which `models.folder_kind` has called `open_clip`.

    Raises UserError naming the file that is wrong, and the way out.
    """
    clip = open_clip_model(folder, device, half)
    vocabulary = load_vocabulary(folder / TAGS)
    head = torch.nn.Linear(clip.size, len(vocabulary))
    fill(head, folder / HEAD)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()

    def tag_scores(embeddings: Floats) -> Floats:
        logits = torch.from_numpy(np.asarray(embeddings, np.float32) @ weight.T + bias)
        return logits.sigmoid().numpy()

    return Tagger(clip, vocabulary, tag_scores)
