"""What each kind of adapter does, as functions of its tensors by their ending in the file.

Formulas of the LyCORIS paper (Yeh et al. 2024) and its library's file layout: LoHa, LoKr, (IA)3, Diag-OFT, BOFT, GLoRA.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

MARKS = {
    "lora_up.weight": "lora",
    "hada_w1_a": "loha",
    "lokr_w1": "lokr",
    "lokr_w1_a": "lokr",
    "on_input": "ia3",
    "oft_blocks": "oft",
    "a1.weight": "glora",
    "diff": "full",
}
"""The ending by which a kind is told; DoRA and BOFT are told by what else is there."""
ZEROS = ("lora_up.weight", "hada_w2_a", "lokr_w2", "lokr_w2_b", "oft_blocks", "a2.weight", "b2.weight", "diff")
"""Endings of the tensors that are zero before training."""


def kind_of(tensors: Tensors) -> str:
    """The kind of one module's tensors; empty when it is none known here."""
    kind = next((kind for mark, kind in MARKS.items() if mark in tensors), "")
    if kind == "lora" and "dora_scale" in tensors:
        return "dora"
    if kind == "oft" and tensors["oft_blocks"].dim() == 4:
        return "boft"
    return kind


def low_rank(up: Tensor, down: Tensor) -> Tensor:
    """(out, r, ...) and (r, in, ...) -> (out, in * ...)."""
    return up.flatten(1) @ down.flatten(1)


def loha(w: Tensors, scale: float) -> Tensor:
    """(w1_a w1_b) * (w2_a w2_b) * scale, (out, in * k * k)."""
    return (w["hada_w1_a"] @ w["hada_w1_b"]) * (w["hada_w2_a"] @ w["hada_w2_b"]) * scale


def lokr(w: Tensors, shape: torch.Size, scale: float) -> Tensor:
    """kron(w1, w2) * scale, each given whole or as a product, in the layer's `shape` (out, in, ...)."""
    w1 = w["lokr_w1"] if "lokr_w1" in w else w["lokr_w1_a"] @ w["lokr_w1_b"]
    w2 = w["lokr_w2"] if "lokr_w2" in w else w["lokr_w2_a"] @ w["lokr_w2_b"].flatten(1)
    kernel = shape[2:]
    w2 = w2.reshape(w2.shape[0], -1, *kernel)
    return torch.kron(w1.view(*w1.shape, *[1] * len(kernel)), w2.contiguous()) * scale


def glora(w: Tensors, base: Tensor, scale: float) -> Tensor:
    """(W a1 a2 + b1 b2) * scale, in the shape of the frozen weight W; A acts on each point of a kernel alike."""
    inner = torch.einsum("oi...,ir->or...", base, w["a1.weight"].flatten(1))
    by_base = torch.einsum("or...,rj->oj...", inner, w["a2.weight"].flatten(1))
    return (by_base + low_rank(w["b1.weight"], w["b2.weight"]).reshape(base.shape)) * scale


def rotation(blocks: Tensor, limit: float = 0.0) -> Tensor:
    """(..., b, b) -> R - 1 of the same shape by Cayley's transform: R = (1 + Q) (1 - Q)^-1, Q the skew part.

    R - 1 = 2 (1 - Q)^-1 Q, which does not lose a small Q beside the 1. With a `limit`, Q is kept to that length.
    """
    skew = blocks - blocks.transpose(-1, -2)
    if limit > 0:
        length = torch.linalg.vector_norm(skew) + 1e-8
        skew = skew * (limit / length).clamp(max=1.0)
    one = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
    return 2 * torch.linalg.solve(one - skew, skew)


def turn(rows: Tensor, turns: Tensor) -> Tensor:
    """OFT: (out, n) -> what (blocks, b, b) `turns` = R - 1 add to the rows. LyCORIS has R transposed."""
    return (turns.transpose(1, 2) @ rows.unflatten(0, turns.shape[:2])).flatten(0, 1)


def butterfly(rows: Tensor, turns: Tensor) -> Tensor:
    """BOFT: (out, n) -> what the stages of (stages, blocks, b, b) `turns` = R - 1 add to the rows.

    Stage i turns blocks whose members lie 2^i * b / 2 apart.
    """
    change = torch.zeros_like(rows)
    for stage, stage_turns in enumerate(turns):
        size = stage_turns.shape[-1]
        apart = 2**stage * size // 2
        mixed = (rows + change).unflatten(0, (-1, 2, apart)).transpose(1, 2).flatten(0, 2)
        turned = (stage_turns @ mixed.unflatten(0, (-1, size))).flatten(0, 1)
        change = change + turned.unflatten(0, (-1, apart, 2)).transpose(1, 2).flatten(0, 2)
    return change
