"""LoRA and DoRA: peft's layers, injected by peft, with a lean forward.

peft's own forward looks through its tables of adapters and copies a half-precision input into fp32, only for autocast
to turn it back. Measured on the starter (84 layers, rank 8, one CPU thread, forward and backward): 6 to 11 % of a step.
"""

from collections.abc import Mapping

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Conv2d, Linear, LoraLayer
from torch import Tensor, nn

from lora_studio.engine.adapters.layer import (
    Chance,
    Layer,
    base_weight,
    channel_axis,
    exactly,
    like,
    spread,
    wide,
    without_bias,
)
from lora_studio.engine.adapters.plan import Size

NAME = "lora"
SVD_ROUNDS = 8  # of the subspace iteration: the first directions are then right to about 1e-4 on trained weights


class Lora(Layer):
    """y = W x + scale * up(down(x)); with `dora_scale` the rows of the sum are brought to that length.

    `down` (r, in) or (r, in, k, k), `up` (out, r) or (out, r, 1, 1), `dora_scale` (out, 1) or (out, 1, 1, 1).
    """

    down: nn.Parameter
    up: nn.Parameter
    dora_scale: nn.Parameter | None
    scale: float
    start_down: Tensor | None
    start_up: Tensor | None
    """Where a LoRA that does not begin from nothing began; see `factors`."""
    mends: bool
    """Whether the start belongs to the base, as what its quantisation has lost (LoftQ)."""
    zeros = ("lora_up.weight",)

    def trained(self) -> dict[str, nn.Parameter]:
        found = {"lora_down.weight": self.down, "lora_up.weight": self.up}
        return found if self.dora_scale is None else found | {"dora_scale": self.dora_scale}

    def file(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        down, up = self.since_start(wide(values["lora_down.weight"]), wide(values["lora_up.weight"]))
        return super().file({**values, "lora_down.weight": down, "lora_up.weight": up})

    @property
    def file_alpha(self) -> float:
        """For the factors that go into the file, whose rank may be twice the trained one's."""
        return self.alpha if self.start_down is None else 2 * self.alpha

    def since_start(self, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of up down - up0 down0 = (up - up0) down + up0 (down - down0), of twice the rank.

        Written so, the small difference is not lost in rounding, and it is exactly zero at the start.
        """
        if self.start_down is None or self.start_up is None:
            return down, up
        down0, up0 = self.start_down.to(down), self.start_up.to(up)
        return torch.cat([down, down - down0]), torch.cat([up - up0, up0], dim=1)

    def factors(self) -> tuple[Tensor, Tensor]:
        """What is added to the layer held in memory, as down and up."""
        return (self.down, self.up) if self.mends else self.since_start(self.down, self.up)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) -> (B, ..., out), or (B, in, h, w) -> (B, out, h, w)."""
        result = self.base_layer(x)
        chance = self.chance if self.training else None
        if not self.on or (chance is not None and chance.skips()):
            return self.bare(x, result)
        if self.start_down is None:
            down, up = like(x, self.down, self.up)
        else:
            down, up = like(x, *self.factors())
        if chance is not None:
            x = chance.thin(x)
        inner = self.inwards(x, down)
        if chance is not None:
            inner = chance.thin_ranks(inner, channel_axis(self.base_layer))
        change = self.outwards(inner, up).to(result.dtype)
        if self.dora_scale is None:
            return torch.add(result, change, alpha=self.scale)  # one pass less than + scale * change
        return self.stretched(result, change)

    def bare(self, x: Tensor, result: Tensor) -> Tensor:
        """The base's answer: the frozen layer's, mended where its quantisation is."""
        if not self.mends:
            return result
        down, up = like(x, self.start_down, self.start_up)
        return result + self.scale * self.outwards(self.inwards(x, down), up).to(result.dtype)

    def stretched(self, result: Tensor, change: Tensor) -> Tensor:
        """DoRA (Liu et al. 2024): W' = m (W + scale up down) / |W + scale up down|, the length of each row taken as a
        constant in the gradient (their section 4.3)."""
        ratio = wide(self.dora_scale) / self.lengths()
        more, scale = spread(self.base_layer, ratio - 1), spread(self.base_layer, ratio * self.scale)
        unbiased = without_bias(self.base_layer, result)
        return result + more.to(result.dtype) * unbiased + scale.to(result.dtype) * change

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """(out, 1) or (out, 1, 1, 1): lengths of the rows of W + scale up down."""
        weight = wide(base_weight(self.base_layer))
        with exactly(weight):
            change = wide(self.up).flatten(1) @ wide(self.down).flatten(1)
        whole = weight.flatten(1) + self.scale * change
        return torch.linalg.vector_norm(whole, dim=1).view(-1, *[1] * (weight.dim() - 1))


class LoraLinear(Lora, Linear):
    """In a linear layer."""

    @staticmethod
    def inwards(x: Tensor, down: Tensor) -> Tensor:
        return F.linear(x, down)

    outwards = inwards


class LoraConv(Lora, Conv2d):
    """In a convolution: down has its kernel, up looks at single points."""

    def inwards(self, x: Tensor, down: Tensor) -> Tensor:
        base = self.base_layer
        return F.conv2d(x, down, None, base.stride, base.padding, base.dilation)

    @staticmethod
    def outwards(inner: Tensor, up: Tensor) -> Tensor:
        return F.conv2d(inner, up)


def inject(network: nn.Module, sizes: Mapping[str, Size], kind: str, chance: Chance | None) -> dict[str, Lora]:
    """Put LoRA or DoRA layers around the named modules; down by Kaiming-uniform, up zero. Returns them by name."""
    inject_adapter_in_model(peft_config(sizes), network, adapter_name=NAME)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}
    assert set(layers) == set(sizes), "peft adapted other modules than those asked for"
    for name, layer in layers.items():
        size = sizes[name]
        layer.__class__ = LoraConv if isinstance(layer.base_layer, nn.Conv2d) else LoraLinear
        layer.down, layer.up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        layer.alpha, layer.scale, layer.chance = size.alpha, size.alpha / size.rank, chance
        layer.dora_scale, layer.mends = None, False
        for buffer in ("start_down", "start_up"):
            layer.register_buffer(buffer, None, persistent=False)
        layer.train(layer.base_layer.training)  # peft's layers begin in training
        for matrix in (layer.down, layer.up):
            matrix.data = matrix.data.float()
        if kind == "dora":
            layer.dora_scale = nn.Parameter(layer.lengths())
    return layers


def peft_config(sizes: Mapping[str, Size]) -> LoraConfig:
    """peft's words for our sizes; the names are whole paths, so nothing else can match."""
    ranks = [size.rank for size in sizes.values()]
    common = max(set(ranks), key=ranks.count)
    others = {name: size.rank for name, size in sizes.items() if size.rank != common}
    return LoraConfig(r=common, lora_alpha=common, rank_pattern=others, target_modules=list(sizes))


@torch.no_grad()
def begin(layer: Lora, init: str, original: Tensor | None = None) -> None:
    """Begin from the base's strongest directions (pissa), its QR parts (olora), or from what quantisation has taken
    from the `original` weight (loftq). What is added to the base is zero in all three."""
    weight = base_weight(layer.base_layer)
    matrix = wide(weight if original is None else original.to(weight.device)).flatten(1)
    if init == "loftq":
        matrix = matrix - wide(weight).flatten(1)
    rank = layer.down.shape[0]
    if init == "olora":  # Buyukakyuz 2024
        q, r = torch.linalg.qr(matrix)
        up, down = q[:, :rank], r[:rank]
    else:  # PiSSA, Meng et al. 2024; LoftQ, Li et al. 2023, with the quantised weight as it is
        u, s, v = torch.svd_lowrank(matrix, q=min(rank + 8, *matrix.shape), niter=SVD_ROUNDS)
        root = (s[:rank] / layer.scale).sqrt()
        up, down = u[:, :rank] * root, root[:, None] * v[:, :rank].T
    layer.up.copy_(up.reshape(layer.up.shape))
    layer.down.copy_(down.reshape(layer.down.shape))
    layer.start_up, layer.start_down = layer.up.detach().clone(), layer.down.detach().clone()
    layer.mends = init == "loftq"
