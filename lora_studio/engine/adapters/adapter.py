"""The adapter: layers of one kind in the network and, if wanted, in the text encoders, and their weights by the names
in the file."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import torch
from torch import Tensor, nn

from lora_studio.core.errors import UserError
from lora_studio.engine.adapters import lora, lycoris
from lora_studio.engine.adapters.delta import by_module
from lora_studio.engine.adapters.formulas import kind_of
from lora_studio.engine.adapters.layer import Chance, Layer, is_quantized
from lora_studio.engine.adapters.plan import make_plan
from lora_studio.engine.config import AdapterConfig
from lora_studio.engine.families.base import Family

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ALGORITHMS = {"dora": "lora", "oft": "diag-oft"}
"""LyCORIS' names for kinds where they differ from ours."""
EXACT = ("dora_scale",)
"""Never in half precision: rounding the length of a row of W changes more than a whole training may."""
Originals = Callable[[str, str], Tensor]
"""(part, module) -> its weight before it was quantised."""


class Adapter:
    """What is trained. Only its own parameters ask for gradients; the base's weights are never changed."""

    def __init__(
        self,
        family: Family,
        config: AdapterConfig,
        parts: list[str],
        seed: int,
        originals: Originals | None = None,
    ) -> None:
        """Put fresh layers into `parts` of the family, from `seed`, changing nothing at first; or go on from
        config.continue_from. `originals` is what LoftQ needs. Raises UserError when the settings leave no layer, or do
        not fit the file or the base."""
        self.config = config
        self.layers: dict[str, Layer] = {}
        """By their name in the file."""
        self.groups: dict[str, list[nn.Parameter]] = {}
        """Trained parameters by part."""
        self.module_names: dict[str, str] = {}
        """`unet.down_blocks...` by name in the file."""
        networks = {part: family.part(part) for part in parts}
        plan = make_plan(config, family.adapter_layers(config.layers, parts), networks)
        if config.init == "loftq":
            _check_quantized(networks, plan)
        chance = Chance.of(config)
        for network in networks.values():
            network.requires_grad_(False)
        with _seeded(seed):
            for part, sizes in plan.items():
                if config.kind in ("lora", "dora"):
                    layers = lora.inject(networks[part], sizes, config.kind, chance)
                else:
                    layers = lycoris.inject(networks[part], sizes, config, chance)
                for module, layer in layers.items():
                    if config.init != "default":
                        original = originals(part, module) if config.init == "loftq" and originals else None
                        lora.begin(layer, config.init, original)
                    self._take_in(part, module, layer, family.key_name(part, module))
        if config.continue_from:
            self._continue(Path(config.continue_from))

    def _take_in(self, part: str, module: str, layer: Layer, name: str) -> None:
        assert name not in self.layers, f"two layers are called {name}"
        self.layers[name] = layer
        self.module_names[name] = f"{part}.{module}"
        for ending, parameter in layer.trained().items():
            if ending not in EXACT:
                parameter.data = parameter.data.to(DTYPES[self.config.precision])
            self.groups.setdefault(part, []).append(parameter.requires_grad_(True))

    # --- the weights -----------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters."""
        return [parameter for group in self.groups.values() for parameter in group]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by their key in the file, in the order of the layers."""
        for name, layer in self.layers.items():
            for ending, parameter in layer.trained().items():
                yield f"{name}.{ending}", parameter

    def is_up(self, key: str) -> bool:
        """Whether the parameter is one that begins at zero opposite to another that does not (see LoRA+)."""
        name, _, ending = key.partition(".")
        return ending in self.layers[name].zeros

    @torch.no_grad()
    def tensors(self, dtype: torch.dtype, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The adapter as it stands in a file, on the CPU; for other `values` of the parameters if given (their moving
        average). What began inside the base (PiSSA) is told as the difference to the base as it is."""
        found = {}
        for name, layer in self.layers.items():
            own = {
                ending: (values[f"{name}.{ending}"] if values is not None else parameter).detach()
                for ending, parameter in layer.trained().items()
            }
            for ending, tensor in layer.file(own).items():
                plain = tensor.is_floating_point() and ending not in EXACT
                kept = tensor.to("cpu", dtype if plain else tensor.dtype)
                found[f"{name}.{ending}"] = kept.contiguous()
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take parameters over, key by key. Raises KeyError or RuntimeError when they do not fit."""
        for key, parameter in self.named_parameters():
            parameter.copy_(tensors[key])

    @torch.no_grad()
    def _continue(self, path: Path) -> None:
        """Take over a file of the same kind and size."""
        from lora_studio.engine.checkpoint import load_lora  # which asks this package what a file changes

        found, _ = load_lora(path)
        self._check_file(path, found)
        self.load(found)
        for name, layer in self.layers.items():
            # another alpha in the file is multiplied in, so that it acts as strongly as it did
            for ending in layer.zeros:
                alpha = float(found.get(f"{name}.alpha", 0.0)) or layer.alpha / layer.scale  # none given is the rank
                layer.trained()[ending].mul_(alpha / layer.alpha)

    def _check_file(self, path: Path, found: Mapping[str, Tensor]) -> None:
        remedy = "Choose the kind, rank and layers it was made with, or leave adapter.continue_from empty."
        wanted = dict(self.named_parameters())
        modules = by_module(found)
        kinds = {kind_of(tensors) for tensors in modules.values()}
        if kinds != {self.config.kind}:
            text = " and ".join(sorted(kinds - {""})) or "unknown"
            raise UserError(
                f"adapter.continue_from: {path.name} is of the kind {text}, adapter.kind is {self.config.kind}.", remedy
            )
        missing, more = sorted(set(self.layers) - set(modules)), sorted(set(modules) - set(self.layers))
        if missing or more:
            what = [f"lacks {len(missing)} of its layers ({missing[0]})"] if missing else []
            what += [f"has {len(more)} others ({more[0]})"] if more else []
            raise UserError(f"adapter.continue_from: {path.name} {' and '.join(what)}.", remedy)
        for key, parameter in wanted.items():
            shape = tuple(found[key].shape) if key in found else "none"
            if shape != tuple(parameter.shape):
                raise UserError(
                    f"adapter.continue_from: {key} is {shape} in {path.name} and {tuple(parameter.shape)} by "
                    f"adapter.rank {self.config.rank} and the layers of the base.",
                    remedy,
                )

    # --- switches --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def enabled(self, on: bool) -> Iterator[None]:
        """The adapter on or off inside."""
        before = [layer.on for layer in self.layers.values()]
        try:
            for layer in self.layers.values():
                layer.on = on
            yield
        finally:
            for layer, state in zip(self.layers.values(), before, strict=True):
                layer.on = state

    def off(self) -> contextlib.AbstractContextManager[None]:
        """The bare base inside."""
        return self.enabled(False)

    def drop(self, generator: torch.Generator) -> None:
        """Before each batch of training: what is switched off in it follows from the generator's seed. Draws nothing
        from the generator, and leaves torch's own chance alone where no dropout is set."""
        if Chance.of(self.config):
            torch.manual_seed(generator.initial_seed())

    # --- for the file's metadata -----------------------------------------------------------------------------------

    @property
    def network_module(self) -> str:
        """ss_network_module: the sd-scripts module that such a file could be trained with."""
        return "networks.lora" if self.config.kind == "lora" else "lycoris.kohya"

    @property
    def network_args(self) -> dict[str, str]:
        """ss_network_args."""
        config, found = self.config, {}
        if config.layers == "all" and config.kind not in ("ia3", "oft", "boft"):
            rank = config.conv_rank or config.rank
            found |= {"conv_dim": str(rank), "conv_alpha": str(config.conv_alpha or config.alpha / config.rank * rank)}
        if config.kind != "lora":
            found |= {"algo": ALGORITHMS.get(config.kind, config.kind)}
        if config.kind == "dora":
            found |= {"dora_wd": "True"}
        if config.kind == "lokr":
            found |= {"factor": str(config.factor)}
        if config.rs_lora:
            found |= {"rs_lora": "True"}
        for name in ("dropout", "rank_dropout", "module_dropout"):
            if getattr(config, name):
                found |= {name: str(getattr(config, name))}
        return found


def _check_quantized(networks: Mapping[str, nn.Module], plan: Mapping[str, Mapping[str, object]]) -> None:
    """LoftQ mends what quantisation has lost; without it there is nothing to mend."""
    for part, sizes in plan.items():
        if any(is_quantized(networks[part].get_submodule(name)) for name in sizes):
            return
    raise UserError(
        "adapter.init loftq mends a quantised base, and this one is not quantised.",
        "Choose run.quantize nf4, int8 or fp8, or adapter.init default or pissa.",
    )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's chance from `seed` inside, as it was after."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
