"""Prompts as tokens, and as many pieces of 75 tokens as a long text needs.

A text encoder of the CLIP kind reads 77 tokens, begin and end among them, so a long text is read in pieces of 75 and
their states are put one behind the other. How weights are written says `engine.brackets`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lora_studio.engine.brackets import parse_weights
from lora_studio.engine.tokens import CHUNK


def tokenize(tokenizer: Any, texts: Sequence[str], weighted: bool) -> list[list[tuple[int, float]]]:
    """Tokens of each text with their weights, without begin and end. Unless `weighted`, brackets are plain text."""
    pieces = [parse_weights(text) if weighted else [(text, 1.0)] for text in texts]
    # Half of a surrogate pair is no text that a tokenizer takes. Special tokens are split, for `!` is padding and an
    # ordinary word at once to OpenCLIP, which learned captions with the word (diffusers 0.42 reads it as padding).
    flat = [piece.encode("utf-8", "replace").decode("utf-8") for row in pieces for piece, _ in row]
    plain = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    ids = iter(tokenizer(flat, **plain).input_ids if flat else [])
    return [[(token, weight) for _, weight in row for token in next(ids)] for row in pieces]


def chunks_for(num_tokens: int) -> int:
    """How many pieces of 75 a text of so many tokens needs; an empty one needs one too."""
    return max(1, -(-num_tokens // CHUNK))


def chunk_tokens(
    tokens: Sequence[tuple[int, float]], chunks: int, begin: int, end: int, pad: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Tokens with weights -> `chunks` rows of 77 token numbers and as many weights.

    Each row is begin, up to 75 tokens, end, padding; missing rows are those of the empty text, what is too much is
    cut off.
    """
    ids, weights = [], []
    for start in range(0, chunks * CHUNK, CHUNK):
        piece = tokens[start : start + CHUNK]
        rest = CHUNK - len(piece)
        ids.append([begin, *(token for token, _ in piece), end, *[pad] * rest])
        weights.append([1.0, *(weight for _, weight in piece), 1.0, *[1.0] * rest])
    return ids, weights


def token_rows(tokenizer: Any, texts: Sequence[str], chunks: int, weighted: bool) -> tuple[Tensor, Tensor]:
    """Token numbers and weights, each (B * chunks, 77): the pieces of a text stand one below the other."""
    ids: list[list[int]] = []
    weights: list[list[float]] = []
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    for tokens in tokenize(tokenizer, texts, weighted):
        rows, strengths = chunk_tokens(tokens, chunks, *special)
        ids += rows
        weights += strengths
    return torch.tensor(ids), torch.tensor(weights)


def apply_weights(states: Tensor, weights: Tensor) -> Tensor:
    """States (N, 77, width) times weights (N, 77), with each row's mean brought back, as the web UI does.

    Rows whose weights are all 1 come back unchanged to the bit. Where weighting turns the mean's sign, bringing it
    back would turn all states around; there it is left.
    """
    touched = (weights != 1).any(dim=1)
    if not touched.any():
        return states
    scaled = states * weights.unsqueeze(-1).to(states.dtype)
    before, after = states.float().mean(dim=(1, 2)), scaled.float().mean(dim=(1, 2))
    ratio = torch.where(before * after > 0, before / after, torch.ones_like(after))
    return torch.where(touched.view(-1, 1, 1), scaled * ratio.view(-1, 1, 1).to(states.dtype), states)
