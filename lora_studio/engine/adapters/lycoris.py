"""LoHa, LoKr, GLoRA, OFT and BOFT in LyCORIS' parameters, and (IA)3.

LyCORIS decides the shapes, the first values and the names in the file. Its forward is not used: with a base in bf16 it
rounds W + change to bf16 before it takes W off again, which loses half and more of a small change (measured: 48 % of
LoHa's and 85 % of LoKr's for a change of a half per cent of W); it leaves `dropout` out for LoHa and LoKr; and
its (IA)3 cannot be created at all (KeyError in its table of kinds).
"""

import importlib
import logging
from collections.abc import Mapping
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lora_studio.core.errors import UserError
from lora_studio.engine.adapters import formulas
from lora_studio.engine.adapters.layer import (
    Chance,
    Layer,
    base_weight,
    channel_axis,
    exactly,
    like,
    operate,
    spread,
    weight_shape,
    wide,
    without_bias,
)
from lora_studio.engine.adapters.plan import IA3_IN, Size
from lora_studio.engine.config import AdapterConfig

CLASSES = {
    "loha": ("loha", "LohaModule"),
    "lokr": ("lokr", "LokrModule"),
    "glora": ("glora", "GLoRAModule"),
    "oft": ("diag_oft", "DiagOFTModule"),
    "boft": ("boft", "ButterflyOFTModule"),
}
FIRST_ZEROS = {"loha": ("hada_w2_a",), "lokr": ("lokr_w2", "lokr_w2_b"), "glora": ("a2.weight", "b2.weight")}


class Wrapped(Layer, nn.Module):
    """A frozen layer with trained tensors by file ending, in the place of the layer."""

    def __init__(self, base: nn.Module, tensors: Mapping[str, Tensor], alpha: float, scale: float) -> None:
        super().__init__()
        self.base_layer = base
        self.endings = tuple(tensors)
        for ending, tensor in tensors.items():
            self.register_parameter(place(ending), nn.Parameter(tensor.to(base.weight.device)))
        self.alpha, self.scale = alpha, scale
        self.train(base.training)

    def trained(self) -> dict[str, nn.Parameter]:
        return {ending: getattr(self, place(ending)) for ending in self.endings}

    @property
    def weight(self) -> Tensor:
        """The frozen layer's, for whoever asks a layer for its number format."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's."""
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """As the frozen layer, with the adapter's change added."""
        result = self.base_layer(x)
        chance = self.chance if self.training else None
        if not self.on or (chance is not None and chance.skips()):
            return result
        change = self.change(x, result, chance)
        if chance is not None:
            change = chance.thin_ranks(change, channel_axis(self.base_layer))
        return result + change.to(result.dtype)

    def change(self, x: Tensor, result: Tensor, chance: Chance | None) -> Tensor:
        """What the adapter adds to the `result` of the frozen layer for its input x."""
        raise NotImplementedError

    def together(self) -> dict[str, Tensor]:
        """The trained tensors in numbers wide enough to compute with."""
        return {ending: wide(tensor) for ending, tensor in self.trained().items()}


def place(ending: str) -> str:
    """The attribute that holds a tensor: module attributes have no dots."""
    return "trained_" + ending.replace(".", "_")


class Rebuilt(Wrapped):
    """The change of the weight is built whole, in wide numbers, and is applied to the input."""

    kind: str

    def change(self, x: Tensor, result: Tensor, chance: Chance | None) -> Tensor:
        x = x if chance is None else chance.thin(x)
        with exactly(x):
            weight = self.weight_change()
        return operate(self.base_layer, x, *like(x, weight))

    def weight_change(self) -> Tensor:
        """In the shape of the frozen weight."""
        shape, tensors = weight_shape(self.base_layer), self.together()
        if self.kind == "loha":
            return formulas.loha(tensors, self.scale).reshape(shape)
        if self.kind == "lokr":
            return formulas.lokr(tensors, shape, self.scale)
        base = wide(base_weight(self.base_layer))
        if self.kind == "glora":
            return formulas.glora(tensors, base, self.scale)
        turns = formulas.rotation(tensors["oft_blocks"])
        if self.kind == "oft":
            return formulas.turn(base.flatten(1), turns).reshape(shape)
        # its stages each keep a weight for the gradient; computed again there, they do not
        return checkpoint(formulas.butterfly, base.flatten(1), turns, use_reentrant=False).reshape(shape)


class GLoRALinear(Rebuilt):
    """GLoRA in a linear layer: W a1 a2 + b1 b2 are two thin factors, [W a1, b1] and [a2; b2]."""

    def change(self, x: Tensor, result: Tensor, chance: Chance | None) -> Tensor:
        x = x if chance is None else chance.thin(x)
        w = self.together()
        with exactly(x):
            up = torch.cat([wide(base_weight(self.base_layer)) @ w["a1.weight"], w["b1.weight"]], dim=1) * self.scale
        down = torch.cat([w["a2.weight"], w["b2.weight"]])
        down, up = like(x, down, up)
        return F.linear(F.linear(x, down), up)


class IA3(Wrapped):
    """(IA)3 (Liu et al. 2022): W' = W (1 + weight), by output channel or by input channel."""

    on_input = False

    def file(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**values, "on_input": torch.tensor(int(self.on_input))}

    def change(self, x: Tensor, result: Tensor, chance: Chance | None) -> Tensor:
        (scales,) = self.trained().values()
        if not self.on_input:
            return without_bias(self.base_layer, result) * spread(self.base_layer, scales).to(result.dtype)
        x = x * scales.to(x.dtype)
        return operate(self.base_layer, x, *like(x, base_weight(self.base_layer)))


def inject(
    network: nn.Module, sizes: Mapping[str, Size], config: AdapterConfig, chance: Chance | None
) -> dict[str, Wrapped]:
    """Put layers of config.kind in the places of the named modules. Returns them by name."""
    layers = {}
    for name, size in sizes.items():
        layer = make_layer(name, network.get_submodule(name), size, config)
        layer.chance = chance
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, layer)
        layers[name] = layer
    return layers


def make_layer(name: str, base: nn.Module, size: Size, config: AdapterConfig) -> Wrapped:
    """The layer around `base`, changing nothing yet."""
    if config.kind == "ia3":
        on_input = name.endswith(IA3_IN)
        out, inside = weight_shape(base)
        layer = IA3(base, {"weight": torch.zeros(inside if on_input else out)}, alpha=0.0, scale=1.0)
        layer.on_input = on_input
        return layer
    if config.kind in ("oft", "boft"):
        tensors, _, _ = parameters(name, base, config, block_size(config, name, base), alpha=0.0)
        layer = Rebuilt(base, tensors, alpha=0.0, scale=1.0)
    else:
        thin = config.kind == "glora" and isinstance(base, nn.Linear)
        layer = (GLoRALinear if thin else Rebuilt)(base, *parameters(name, base, config, size.rank, size.alpha))
        layer.zeros = tuple(ending for ending in FIRST_ZEROS[config.kind] if ending in layer.endings)
    layer.kind = config.kind
    return layer


def parameters(
    name: str, base: nn.Module, config: AdapterConfig, rank: int, alpha: float
) -> tuple[dict[str, Tensor], float, float]:
    """LyCORIS' tensors of one layer by file ending with their first values, alpha, and the scale it comes to."""
    file, class_name = CLASSES[config.kind]
    # constraint 0: the blocks are free to turn as far as they learn to; LyCORIS keeps it where others have alpha
    made: Any = getattr(lycoris_modules(file), class_name)(
        name, base, lora_dim=rank, alpha=alpha, factor=config.factor, constraint=0
    )
    tensors = {ending: parameter.detach() for ending, parameter in made.named_parameters()}
    return tensors, float(made.alpha), float(getattr(made, "scale", 1.0))


def block_size(config: AdapterConfig, name: str, base: nn.Module) -> int:
    """The size of a block to ask LyCORIS for. BOFT's stages want blocks that go into the layer a power of two times,
    so where the rank is none of these the next larger one is taken. Raises UserError for a layer that has none."""
    out = weight_shape(base)[0]
    even = out & -out
    smallest = 2 * (out // even)  # twice the odd part
    if config.kind == "boft":
        if out % 2:
            raise UserError(
                f"BOFT cannot take {name}: its {out} outputs are an odd number.", "Choose oft, or leave it out."
            )
        return max(config.rank, smallest)
    if config.rank < 2:
        raise UserError(f"adapter.rank {config.rank}: a block of one cannot turn.", "Choose a rank of 4 or more.")
    return config.rank


def lycoris_modules(file: str) -> Any:
    """A module of LyCORIS, which would else write about each layer on the standard output."""
    module = importlib.import_module(f"lycoris.modules.{file}")
    logging.getLogger("LyCORIS").setLevel(logging.CRITICAL)
    return module
