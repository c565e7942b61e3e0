"""Tags from any open_clip or SigLIP model, by comparing pictures with words. No tag was trained for.

How near a picture is to a word says little by itself: some words are near to everything, and each model has a scale of
its own. So every word is measured against others, the *bank*: words of the list itself and some everyday ones.

1. A word is the mean of its templates. The direction of the bank's mean is taken out of it: what all texts have in
   common, and vague words most of all. The rest gets length 1, so that all words have one scale.
2. For each picture the bank says what is usual: the median of its nearness to all of these words, and their spread
   (1.4826 times the median distance from it, which is the standard deviation where they are normally distributed; the
   few words that are right do not move it).
3. z = (nearness - median) / spread is the same measure for every word, and the probability is a logistic function of
   it: 0.5 at z = 2, better than 98 of 100 of the bank's words; 0.8 at z = 2.8, better than 997 of 1,000.
4. The longer the list, the more words reach a level by chance. The level from which a word is believed is the one that
   about five words of the list reach so.

Measured with the starter's model, whose tags and words were trained together, on the 84 pictures of the samples, 42
tags, against its head, with the bank of the studio's list: mean average precision 0.971 (0.949 with the mean taken away
as it is, 1.000 for the bare nearness), 0.989 over all tags at once. No larger model was at hand: that 0.5 means the
same for each word of a CLIP trained on the web follows from the above, but is not measured.
"""

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from statistics import NormalDist
from zipfile import BadZipFile

import numpy as np

from lora_studio.core import paths, tags
from lora_studio.core.errors import UserError
from lora_studio.core.files import write_bytes
from lora_studio.core.progress import Phase, Progress
from lora_studio.tagger.clip import Clip, open_clip_model
from lora_studio.tagger.models import CLIP_CONFIG, CLIP_WEIGHTS, OPEN_CLIP
from lora_studio.tagger.scoring import Floats, Report, silent
from lora_studio.tagger.starter import Tagger
from lora_studio.tagger.vocabulary import Vocabulary, load_word_list

TEMPLATES = ("{}", "a picture of {}")
THINGS = """
dog cat car tree house street mountain beach forest room kitchen table chair book phone computer ship plane bird flower
fruit meal bottle cup shoe hat dress shirt man woman child crowd face hand eye sign letter map logo pattern texture sky
cloud sunset night storm fire lake river bridge tower castle church statue painting sketch photo cartoon diagram
screenshot poster toy doll robot weapon tool machine
"""
EVERYDAY = tuple(f"a {word}" for word in THINGS.split())
BANK = 512
"""At most so many words of the list are in the bank, evenly taken."""
HALF_AT, SLOPE = 2.0, 1.8
BY_CHANCE, LEAST_Z = 5, 1.5
SKIPPED = ("quality", "text")
"""Kinds of our list that are no sight: praise, and what is written about a picture."""
METHOD = "words-1"
"""Part of the cache's key; count up when the embeddings come about otherwise."""
BATCH = 64


@dataclass(frozen=True)
class Words:
    """What pictures are compared with."""

    directions: Floats
    """(T, D) of the tags, each of length 1."""
    bank: Floats
    """(N, D) of the bank, each of length 1."""

    def score(self, embeddings: Floats) -> Floats:
        """(B, D) embeddings of pictures, each of length 1 -> (B, T) probabilities."""
        usual = embeddings @ self.bank.T
        middle = np.median(usual, axis=1, keepdims=True)
        spread = 1.4826 * np.median(np.abs(usual - middle), axis=1, keepdims=True)
        z = (embeddings @ self.directions.T - middle) / np.maximum(spread, 1e-6)
        return (1 / (1 + np.exp(-SLOPE * np.clip(z - HALF_AT, -20, 20)))).astype(np.float32)


def words_of(tags: Floats, bank: Floats) -> Words:
    """(T, D) and (N, D) embeddings of texts -> the same without what all of the bank have in common."""
    common = _unit(bank.mean(axis=0, keepdims=True))
    tags, bank = (rows - rows @ common.T @ common for rows in (tags, bank))
    return Words(_unit(tags), _unit(bank))


def level_for(num_words: int) -> float:
    """The probability that about `BY_CHANCE` words of a list reach without being right."""
    z = NormalDist().inv_cdf(1 - min(0.5, BY_CHANCE / num_words))
    return 1 / (1 + exp(-SLOPE * (max(z, LEAST_Z) - HALF_AT)))


def _unit(rows: Floats) -> Floats:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)).astype(np.float32)


def own_vocabulary() -> Vocabulary:
    """The studio's list of tags, without those that cannot be seen or are faces drawn with letters."""
    book = tags.book().tags
    names = [name for name, kind in book.items() if kind not in SKIPPED and re.search("[a-z]{3}", name)]
    return Vocabulary(tuple(names), tuple(book[name] for name in names), (0.5,) * len(names))  # see level_for


def load_scorer(
    folder: Path,
    vocabulary: Path | None = None,
    report: Report = silent,
    device: str | None = None,
    half: bool | None = None,
) -> Tagger:
    """The model in `folder`, which `models.folder_kind` has called `zero_shot`, with a list of words (see
    `load_word_list`) or the studio's own. Raises UserError naming the file at fault."""
    known = own_vocabulary() if vocabulary is None else load_word_list(vocabulary, tags.categoriser())
    clip = open_clip_model(folder, device, half)
    picked = np.unique(np.linspace(0, len(known) - 1, min(BANK, len(known))).astype(int))
    bank = [*(known.names[place] for place in picked), *EVERYDAY]
    words = words_of(*_embedded(clip, folder, known.names, bank, report))
    level = round(level_for(len(known)), 3)
    return Tagger(clip, replace(known, thresholds=(level,) * len(known)), words.score)


def _embedded(
    clip: Clip, folder: Path, names: Sequence[str], bank: Sequence[str], report: Report
) -> tuple[Floats, ...]:
    """(T, D) of the names and (N, D) of the bank; from the cache where this model has read these words before."""
    path = paths.cache() / "words" / f"{_key(folder, names, bank)}.npz"
    try:
        with path.open("rb") as file, np.load(file) as kept:
            return kept["tags"], kept["bank"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass  # not there, or damaged: computed anew
    report(Phase("words", f"Reading {len(names)} words, once for this model"))
    texts = list(dict.fromkeys([*names, *bank]))
    rows = np.concatenate(list(_read(clip, texts, report)))
    place = {text: number for number, text in enumerate(texts)}
    found = tuple(rows[[place[text] for text in part]] for part in (names, bank))
    buffer = io.BytesIO()
    np.savez(buffer, tags=found[0], bank=found[1])
    write_bytes(path, buffer.getvalue())
    return found


def _read(clip: Clip, texts: Sequence[str], report: Report) -> Iterator[Floats]:
    """(n, D) for n texts at a time: the mean of all templates."""
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        yield sum(clip.embed_texts([template.format(text) for text in part]) for template in TEMPLATES) / len(TEMPLATES)  # type: ignore[misc]
        report(Progress(min(start + BATCH, len(texts)), len(texts), "words"))


def _key(folder: Path, names: Sequence[str], bank: Sequence[str]) -> str:
    """Changes with the model's files (by place, size and time), the words and the method."""
    files = [(folder / name).resolve() for name in (CLIP_CONFIG, CLIP_WEIGHTS)]
    stamps = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    parts = [METHOD, *TEMPLATES, *stamps, *names, "", *bank]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def repository(name: str) -> str:
    """The name on the hub of a checkpoint written `ARCHITECTURE:CHECKPOINT`, as open_clip knows it.

    Raises UserError when it knows no such checkpoint, or has it in no form that can be opened safely.
    """
    from open_clip import pretrained

    match = OPEN_CLIP.fullmatch(name.strip())
    assert match is not None, name
    known = pretrained.list_pretrained_tags_by_model(match[1])
    if match[2] not in known:
        listed = f"It has {', '.join(known)}." if known else "It has none; choose another architecture."
        raise UserError(f"open_clip knows no checkpoint {match[2]} of {match[1]}.", listed)
    repo, _, file = (pretrained.get_pretrained_cfg(match[1], match[2]).get("hf_hub") or "").rpartition("/")
    if not repo or (file and not file.endswith(".safetensors")):
        raise UserError(
            f"{name} is published as a pickle only, which could run code and is never opened.",
            "Choose another checkpoint.",
        )
    return repo
