"""The adapter: a peft LoRA in the network and, if wanted, in the text encoder, and its weights by kohya names."""

from collections.abc import Iterator, Mapping

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora_studio.engine.config import AdapterConfig
from lora_studio.engine.families.base import Family

NAME = "lora"


class Adapter:
    """What is trained. Only its own parameters ask for gradients."""

    def __init__(self, family: Family, config: AdapterConfig, text_encoder: bool, seed: int) -> None:
        """Inject fresh layers: down by Kaiming-uniform from `seed`, up zero, so that nothing changes at first."""
        self.config = config
        networks = {"unet": family.network}
        if text_encoder:
            networks["text_encoder"] = family.text_network
        self.layers: dict[str, LoraLayer] = {}
        self.groups: dict[str, list[nn.Parameter]] = {}
        names = family.adapter_layers(config.layers, list(networks))
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        for part, network in networks.items():
            inject_adapter_in_model(lora_config(config, names[part]), network, adapter_name=NAME)
            found = {n: m for n, m in network.named_modules() if isinstance(m, LoraLayer)}
            assert set(found) == set(names[part]), "peft adapted other modules than those asked for"
            self.layers |= {family.key_name(part, name): layer for name, layer in found.items()}
            self.groups[part] = []
            for layer in found.values():
                for matrix in (layer.lora_A[NAME], layer.lora_B[NAME]):
                    matrix.to(torch.float32)
                    self.groups[part].append(matrix.weight.requires_grad_(True))
        torch.set_rng_state(state)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters."""
        return [parameter for group in self.groups.values() for parameter in group]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by their key in a LoRA file."""
        for name, layer in self.layers.items():
            yield f"{name}.lora_down.weight", layer.lora_A[NAME].weight
            yield f"{name}.lora_up.weight", layer.lora_B[NAME].weight

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The adapter in kohya's layout: down, up and alpha of each module, on the CPU."""
        found = {name: p.detach().to("cpu", dtype).contiguous() for name, p in self.named_parameters()}
        return found | {f"{name}.alpha": torch.tensor(self.config.alpha, dtype=dtype) for name in self.layers}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights over, key by key. Raises KeyError or RuntimeError when they do not fit."""
        for name, parameter in self.named_parameters():
            parameter.copy_(tensors[name])


def lora_config(config: AdapterConfig, names: list[str]) -> LoraConfig:
    """peft's words for our settings; the names are whole paths, so nothing else can match."""
    return LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names)
