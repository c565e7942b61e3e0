"""What the file of an adapter does to the frozen weights: the formula of each kind, by the file alone."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.engine.adapters import formulas
from lora_studio.engine.adapters.formulas import Tensors, kind_of

UNREAD = ("lora_mid.weight", "hada_t1", "hada_t2", "lokr_t1", "lokr_t2", "bm.weight", "diff_b", "bias")
"""Tucker factors and biases, which few programs write and this one does not read."""


def delta(tensors: Tensors, base: Tensor) -> Tensor:
    """W' - W in the shape of the frozen weight `base` (out, in) or (out, in, k, k), computed in its number format.

    `tensors` are those of one module by ending. Raises UserError for what is unknown or does not fit.
    """
    kind = kind_of(tensors)
    odd = [ending for ending in tensors if ending in UNREAD]
    if not kind or odd:
        raise UserError(
            f"The file holds {', '.join(odd or sorted(tensors))}, which is not understood here.", "Choose another file."
        )
    w = {ending: value.to(base.device, base.dtype) for ending, value in tensors.items() if ending != "on_input"}
    try:
        change = _change(kind, w, base, tensors).reshape(base.shape)
        return _decomposed(change, w["dora_scale"], base) if "dora_scale" in w else change
    except (RuntimeError, KeyError, ValueError) as error:
        text = " ".join(str(error).split())[:120]
        raise UserError(
            f"Its {kind} weights do not fit a layer of {tuple(base.shape)} ({text}).",
            "Use the base that it was trained on.",
        ) from error


def _change(kind: str, w: dict[str, Tensor], base: Tensor, tensors: Tensors) -> Tensor:
    if kind in ("lora", "dora"):
        down = w["lora_down.weight"]
        return formulas.low_rank(w["lora_up.weight"], down) * scale(w, down.shape[0])
    if kind == "loha":
        return formulas.loha(w, scale(w, w["hada_w1_b"].shape[0]))
    if kind == "lokr":
        return formulas.lokr(w, base.shape, lokr_scale(w))
    if kind == "glora":
        return formulas.glora(w, base, scale(w, w["a2.weight"].shape[0]))
    if kind == "ia3":
        return _ia3(w["weight"].flatten(), base, bool(tensors["on_input"].item()))
    if kind == "full":
        return w["diff"]
    return _turned(kind, w, base)


def scale(w: Tensors, rank: int) -> float:
    """alpha / rank; no alpha, or 0, is the rank itself."""
    alpha = float(w["alpha"]) if "alpha" in w else 0.0
    return (alpha or rank) / rank


def lokr_scale(w: Tensors) -> float:
    """alpha / rank where one of the two factors is a product; 1 where both are whole."""
    product = next((w[ending] for ending in ("lokr_w2_a", "lokr_w1_a") if ending in w), None)
    return 1.0 if product is None else scale(w, product.shape[1])


def _ia3(scales: Tensor, base: Tensor, on_input: bool) -> Tensor:
    shape = [1] * base.dim()
    shape[1 if on_input else 0] = -1
    return base * scales.view(shape)


def _turned(kind: str, w: dict[str, Tensor], base: Tensor) -> Tensor:
    """OFT and BOFT turn the rows of W as they would turn its outputs; `alpha` limits how far, `rescale` stretches."""
    out = base.shape[0]
    turns = formulas.rotation(w["oft_blocks"], float(w.get("alpha", 0.0)) * out)
    act = formulas.turn if kind == "oft" else formulas.butterfly
    rows = base.flatten(1)
    change = act(rows, turns)
    if "rescale" in w:
        change = w["rescale"].view(-1, 1) * (rows + change) - rows
    return change


def _decomposed(change: Tensor, lengths: Tensor, base: Tensor) -> Tensor:
    """DoRA: W + change brought to the `lengths`, of its rows (out, 1) or, in some writers' files, columns (1, in)."""
    whole = base + change
    axes = [axis for axis in range(base.dim()) if lengths.shape[axis] == 1] if lengths.dim() == base.dim() else []
    if not axes:
        raise ValueError(f"dora_scale of {tuple(lengths.shape)}")
    return whole * (lengths / torch.linalg.vector_norm(whole, dim=axes, keepdim=True)) - base


def by_module(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by ending, by module."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, ending = key.partition(".")
        found.setdefault(name, {})[ending] = tensor
    return found


def changes_something(tensors: Tensors) -> bool:
    """Whether one module's tensors do anything to a layer."""
    if kind_of(tensors) == "lora":  # a file with a start of its own (PiSSA) has zeros in neither factor
        return bool(formulas.low_rank(tensors["lora_up.weight"].float(), tensors["lora_down.weight"].float()).any())
    first = [value for ending, value in tensors.items() if ending in formulas.ZEROS]
    if not first and "on_input" in tensors:
        first = [tensors["weight"]]
    return any(bool(value.any()) for value in first)
