"""The words: a trimmed CLIP tokenizer, and a small text encoder that is taught what tags are before any picture.

    python -m tools.starter.text

The encoder learns alone, in minutes, to say which tags a caption holds and which tag each word completes. So the
UNet starts with a clean dictionary, and need not find out from noise that "blue" and "hair" belong together.
"""

import gzip
import json
import os
import random
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from .common import start
from .config import CONFIG, WORK
from .data import load, tags_of, vocabulary

SOT, EOT = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
COMMA = ",</w>"


def full_merges() -> list[tuple[str, str]]:
    """OpenAI's CLIP merges, from the file that open_clip ships (MIT)."""
    import open_clip

    path = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    return [tuple(line.split()) for line in lines]  # type: ignore[misc]


def split_word(word: str, ranks: dict[tuple[str, str], int]) -> tuple[list[str], set[tuple[str, str]]]:
    """Byte pair encoding of one ASCII word: its pieces, and the merges that made them."""
    pieces, used = [*word[:-1], word[-1] + "</w>"], set()
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, 10**9))
        if best not in ranks:
            break
        used.add(best)
        index = next(i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) == best)
        pieces[index : index + 2] = ["".join(best)]
    return pieces, used


def trimmed_merges(words: Sequence[str], keep: int) -> list[tuple[str, str]]:
    """The first `keep` merges and every one that `words` need, in CLIP's order."""
    merges = full_merges()
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    needed = set(merges[:keep])
    for word in words:
        needed |= split_word(word, ranks)[1]
    return [pair for pair in merges if pair in needed]


def byte_symbols() -> list[str]:
    """CLIP's printable stand-ins for the 256 bytes, in its order."""
    from open_clip.tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


def write_tokenizer(folder: Path) -> Any:
    """Save a CLIPTokenizer with vocab.json and merges.txt; returns it."""
    from transformers import CLIPTokenizer

    words = sorted({word for tag, _ in vocabulary() for word in tag.split()})
    merges = trimmed_merges(words, CONFIG.num_merges)
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(pair) for pair in merges] + [SOT, EOT]
    ids = {token: index for index, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(
        vocab=ids, merges=merges, unk_token=EOT, bos_token=SOT, eos_token=EOT, pad_token=EOT, model_max_length=LENGTH
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    lines = "\n".join(" ".join(pair) for pair in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}\n")
    with gzip.GzipFile(folder / "bpe_simple_vocab.txt.gz", "wb", mtime=0) as packed:  # for open_clip, same ids
        packed.write(f"#version: 0.2\n{lines}".encode())
    return tokenizer


def load_tokenizer() -> Any:
    """The tokenizer written by `main`."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(WORK / "tokenizer")


class Captions:
    """Turns lists of tags into token ids, with shuffling, dropping and unknown words."""

    def __init__(self, tokenizer: Any) -> None:
        ids = tokenizer.get_vocab()
        self.sot, self.eot, self.comma = ids[SOT], ids[EOT], ids[COMMA]
        self.tags = [tag for tag, _ in vocabulary()]
        self.index = {tag: number for number, tag in enumerate(self.tags)}
        self.pieces = {tag: tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in self.tags}
        self.middles = [n for t, n in ids.items() if t.isalpha() and t.islower()]
        self.ends = [n for t, n in ids.items() if t.endswith("</w>") and t[:-4].isalpha() and t.isascii()]

    def unknown(self, rng: random.Random) -> list[int]:
        """A word of random pieces, as a user's trigger word is to this model."""
        return [*rng.choices(self.middles, k=rng.randint(0, 2)), rng.choice(self.ends)]

    def encode(self, tags: Sequence[str], rng: random.Random | None = None) -> tuple[list[int], list[int]]:
        """Token ids (77) and for each token the number of the tag that it completes, or -1.

        With `rng`: shuffled after the style, some tags dropped, sometimes an unknown word among them.
        """
        chosen: list[str | None] = list(tags)
        if rng is not None:
            chosen = [tag for tag in chosen if rng.random() >= CONFIG.tag_drop]
            if rng.random() < 0.5:
                rng.shuffle(chosen)
            if rng.random() < 0.15:
                chosen.insert(rng.randint(0, len(chosen)), None)
        ids, labels = [self.sot], [-1]
        for number, tag in enumerate(chosen):
            if number:
                ids.append(self.comma)
                labels.append(-1)
            pieces = self.unknown(rng) if tag is None and rng is not None else self.pieces[tag or ""]
            ids += pieces
            labels += [-1] * (len(pieces) - 1) + [self.index.get(tag or "", -1)]
        ids, labels = ids[: LENGTH - 1], labels[: LENGTH - 1]
        padding = LENGTH - len(ids)
        return ids + [self.eot] * padding, labels + [-1] * padding

    def batch(self, many: Sequence[Sequence[str]], rng: random.Random | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 77) ids and labels."""
        ids, labels = zip(*(self.encode(tags, rng) for tags in many), strict=True)
        return torch.tensor(ids), torch.tensor(labels)


def build(tokenizer: Any) -> torch.nn.Module:
    """An untrained CLIPTextModel."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=CONFIG.text_width, intermediate_size=4 * CONFIG.text_width,
            num_hidden_layers=CONFIG.text_layers, num_attention_heads=4, max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id, projection_dim=CONFIG.text_width,
        )
    )  # fmt: skip


def train(tokenizer: Any) -> torch.nn.Module:
    """Teach the encoder to hold a caption's tags in its last state, and a tag in the word that completes it."""
    began = start()
    rng = random.Random(CONFIG.seed)
    captions = Captions(tokenizer)
    every = [tags_of(attributes) for attributes in load("train")[1]]
    model = build(tokenizer).to(CONFIG.device).train()
    heads = torch.nn.ModuleDict(
        {name: torch.nn.Linear(CONFIG.text_width, len(captions.tags)) for name in ("pooled", "token")}
    ).to(CONFIG.device)
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=2e-3, weight_decay=0.01)
    budget = float(os.environ.get("STARTER_SECONDS", CONFIG.text_seconds))
    step = 0
    while (share := (time.monotonic() - began) / budget) < 1:
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50, (1 - share) / 0.4)
        ids, labels = (x.to(CONFIG.device) for x in captions.batch(rng.choices(every, k=CONFIG.text_batch), rng))
        used = int((ids != captions.eot).sum(1).max()) + 4  # the rest is padding that nobody has to learn ...
        used = LENGTH if step % 4 == 0 else min(used, LENGTH)  # ... except that it must stay harmless
        ids, labels = ids[:, :used], labels[:, :used]
        states = model(ids).last_hidden_state
        wanted = torch.zeros(len(ids), len(captions.tags), device=ids.device)
        rows, columns = (labels >= 0).nonzero(as_tuple=True)
        wanted[rows, labels[rows, columns]] = 1
        padding = (ids == captions.eot).float().unsqueeze(-1)
        pooled = (states * padding).sum(1) / padding.sum(1)
        of_all = F.binary_cross_entropy_with_logits(heads["pooled"](pooled), wanted)
        of_tokens = F.cross_entropy(heads["token"](states[rows, columns]), labels[rows, columns])
        loss = 10 * of_all + of_tokens
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            with torch.no_grad():
                exact = ((heads["pooled"](pooled) > 0) == (wanted > 0)).all(1).float().mean()
                right = (heads["token"](states[rows, columns]).argmax(1) == labels[rows, columns]).float().mean()
            print(f"{step} loss {loss:.4f} all tags right {exact:.3f} token right {right:.3f}", flush=True)
    return model.eval()


def main() -> None:
    """Write the tokenizer, train and save the encoder."""
    tokenizer = write_tokenizer(WORK / "tokenizer")
    print("tokens", len(tokenizer), tokenizer.tokenize("zorbi, blue hair, eyepatch"))
    train(tokenizer).save_pretrained(WORK / "text_encoder")


if __name__ == "__main__":
    main()
