"""Captions as the text encoders of a base read them, without loading the base: tokens, their number, the cut. No torch.

The tokenizers are those of the CLIP kind that training builds (`families.parts.load_tokenizer`), made from the same
files by the `tokenizers` library, so that what is counted here is what is trained: tests hold both together.
"""

import gzip
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tokenizers import Encoding, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from lora_studio.core.errors import UserError
from lora_studio.engine.brackets import Piece, read_weights
from lora_studio.engine.headers import HeaderError, read_header
from lora_studio.engine.layouts import LayoutError, Part, read_layout

CHUNK = 75  # tokens that one piece of a text encoder of the CLIP kind holds, without begin and end
CLIP_TOKENS = 49408
WORDS_FILE = "bpe_simple_vocab_16e6.txt.gz"  # CLIP's word pieces, shipped by open_clip
WORD_END = "</w>"  # of a token that ends a word
# CLIP's rule: its signs, English endings, runs of letters, single digits, runs of other signs (Radford et al. 2021)
WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
KEPT = 200_000  # words whose number of tokens is remembered
ENCODERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
REMEDY = "Choose another base (base.model), or get this one anew."


@dataclass(frozen=True)
class Token:
    """One token of a text."""

    id: int
    text: str
    """The letters it stands for; empty for a part of a letter (bytes of an emoji) that a later token completes."""
    start: int
    end: int
    """Where it lies in the text, in characters, as Python counts them."""
    weight: float = 1.0


@dataclass(frozen=True)
class Cut:
    """What one text encoder reads of a text."""

    count: int
    """Its tokens, without begin and end."""
    limit: int
    kept_chars: int
    """Characters (as Python counts them) that are read; a letter read in half counts as not read."""
    pieces: tuple[int, ...]
    """The character with which each further piece of 75 tokens begins, as far as it is read."""

    @property
    def over(self) -> int:
        """Tokens that are cut off."""
        return max(0, self.count - self.limit)


class Counter:
    """The tokenizers of a base."""

    def __init__(self, words: Mapping[str, Tokenizer], weighted: bool = False) -> None:
        """`words` by the name of the text encoder; `weighted` reads (word:1.2) as weights, as
        data.weighted_captions."""
        self.encoders = tuple(words)
        self.weighted = weighted
        self._words = dict(words)
        self._lengths: dict[int, tuple[Tokenizer, dict[str, int]]] = {id(one): (one, {}) for one in words.values()}

    @classmethod
    def open(cls, base: Path, weighted: bool = False) -> Self:
        """The tokenizers of the base at `base`, a folder or a single file. Raises UserError when there are none, or
        they cannot be read."""
        return cls(_of_file(base) if base.is_file() else _of_folder(base), weighted)

    def count(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokens of each text for each encoder, without begin and end."""
        # no token reaches over a blank, so each word is read once, and encoders often share their words
        rows = [[word for piece in self._pieces(text) for word in piece.text.split(" ")] for text in texts]
        for words, lengths in self._lengths.values():
            if len(lengths) > KEPT:
                lengths.clear()
            new = list({word for row in rows for word in row} - lengths.keys())
            found = words.encode_batch_fast([_readable(word) for word in new], add_special_tokens=False)
            lengths.update(zip(new, map(len, found), strict=True))
        counted = {
            key: [sum(map(lengths.__getitem__, row)) for row in rows] for key, (_, lengths) in self._lengths.items()
        }
        return list(zip(*(counted[id(words)] for words in self._words.values()), strict=True))

    def tokens(self, text: str) -> dict[str, list[Token]]:
        """All tokens of a text by encoder."""
        pieces = self._pieces(text)
        found: dict[int, list[Token]] = {}
        for words in self._words.values():
            if id(words) not in found:
                found[id(words)] = [token for piece in pieces for token in _tokens(words, piece)]
        return {name: found[id(words)] for name, words in self._words.items()}

    def ids(self, text: str) -> dict[str, list[int]]:
        """Token numbers of a text by encoder."""
        return {name: [token.id for token in tokens] for name, tokens in self.tokens(text).items()}

    def cut(self, text: str, limit: int) -> dict[str, Cut]:
        """What each encoder reads of a text when it may have `limit` tokens (data.max_tokens)."""
        return {name: _cut(text, tokens, limit) for name, tokens in self.tokens(text).items()}

    def is_word(self, word: str) -> bool:
        """Whether the word is one whole token of every encoder."""
        return all(len(tokens) == 1 for tokens in self.tokens(word).values())

    def _pieces(self, text: str) -> list[Piece]:
        return read_weights(text) if self.weighted else [Piece(text, 1.0, ((0, 0),))]


def _readable(text: str) -> str:
    """Half of a surrogate pair is no text that a tokenizer takes; it is read as a question mark, as in training."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _tokens(words: Tokenizer, piece: Piece) -> list[Token]:
    encoding: Encoding = words.encode(_readable(piece.text), add_special_tokens=False)
    found = []
    before = 0
    for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        shown = piece.text[max(start, before) : end]
        found.append(Token(number, shown, piece.place(start), piece.place(end - 1) + 1, piece.weight))
        before = end
    return found


def _cut(text: str, tokens: Sequence[Token], limit: int) -> Cut:
    kept = len(text)
    if len(tokens) > limit:
        kept = min(tokens[limit - 1].end, tokens[limit].start)
    pieces = tuple(tokens[index].start for index in range(CHUNK, min(len(tokens), limit), CHUNK))
    return Cut(len(tokens), limit, kept, pieces)


# --- the words of a base ----------------------------------------------------------------------------------------------


def _of_folder(folder: Path) -> dict[str, Tokenizer]:
    found: dict[str, Tokenizer] = {}
    alike: dict[bytes, Tokenizer] = {}
    for name, encoder in ENCODERS.items():
        if not (folder / encoder).is_dir():
            continue
        try:
            vocabulary, merges, extra = _words_of(folder / name)
            content = json.dumps([vocabulary, merges, extra]).encode()
            if content not in alike:
                alike[content] = clip_words(vocabulary, merges, extra)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"The words of {folder.name}/{name} cannot be read ({error}).", REMEDY) from error
        found[encoder] = alike[content]
    if not found:
        raise UserError(f"{folder.name} has no text encoder.", REMEDY)
    return found


def _words_of(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[str]]:
    """Vocabulary, merges and added words of a tokenizer's folder; tokenizer.json goes before the older files, as in
    transformers."""
    if (folder / "tokenizer.json").is_file():
        whole = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        vocabulary, merges = dict(whole["model"]["vocab"]), list(whole["model"]["merges"])
    else:
        vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
        lines = (folder / "merges.txt").read_text("utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges]
    return vocabulary, pairs, []  # type: ignore[return-value]


def _of_file(file: Path) -> dict[str, Tokenizer]:
    try:
        parts = read_layout(read_header(file)[0]).parts
    except (HeaderError, LayoutError, OSError) as error:
        raise UserError(f"The model {file.name} cannot be opened: {error}.", REMEDY) from error
    encoders = [name for name in ENCODERS.values() if name in parts]
    for name in encoders:
        check_vocabulary(file, parts[name])
    vocabulary, merges = clip_vocabulary()
    words = clip_words(vocabulary, [tuple(merge.split(" ")) for merge in merges], [])  # type: ignore[misc]
    return dict.fromkeys(encoders, words)


def check_vocabulary(file: Path, encoder: Part) -> None:
    """Raises UserError when the text encoder of a single file has another vocabulary than CLIP's."""
    if encoder.config["vocab_size"] != CLIP_TOKENS:
        raise UserError(
            f"{file.name} reads {encoder.config['vocab_size']} word pieces where CLIP has {CLIP_TOKENS}.",
            "Use this model as a folder (diffusers layout), with its own tokenizer.",
        )


def clip_words(vocabulary: dict[str, int], merges: list[tuple[str, str]], extra: Sequence[str]) -> Tokenizer:
    """A tokenizer of the CLIP kind: lower case, words by CLIP's rule, then pairs of bytes joined by rank. The names of
    special tokens are letters like any other."""
    model = BPE(vocabulary, merges, end_of_word_suffix=WORD_END, unk_token="<|endoftext|>")
    words = Tokenizer(model)
    words.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    words.add_tokens(list(extra))
    return words


def byte_characters() -> list[str]:
    """CLIP's printable stand-ins for the 256 bytes: those that print stand for themselves and come first."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + index) for index in range(len(others))]


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's 49,408 word pieces by number, and its merges in order of rank.

    The file is looked for without importing its package, which would load much else.
    """
    spec = importlib.util.find_spec("open_clip")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    if folder is None or not (folder / WORDS_FILE).exists():
        raise UserError(
            f"CLIP's word pieces ({WORDS_FILE}) are not installed.",
            "Install open-clip-torch, or repair the installation.",
        )
    with gzip.open(folder / WORDS_FILE, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    letters = byte_characters()
    merges = lines[1 : 1 + CLIP_TOKENS - 2 * len(letters) - 2]  # the first line is a title; the file holds spares
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens = [*words, "<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, merges
