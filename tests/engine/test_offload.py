from collections.abc import Iterator

import pytest
import torch
from torch import nn

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model

from lora_studio.engine.memory import use_checkpointing
from lora_studio.engine.offload import big_blocks, frozen_tensors, nbytes, offload_blocks
from lora_studio.engine.quantize import quantize

CPU = torch.device("cpu")


def unet(quantized: bool = False) -> nn.Module:
    """A small true UNet with LoRA on attention and feed-forward layers, moved off its start."""
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).requires_grad_(False)  # fmt: skip
    if quantized:
        quantize(network, "fp8")
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q", "to_v", "to_out.0", "ff.net.2", "conv1"]), network)
    torch.manual_seed(1)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.05
    return network.train()


def step(network: nn.Module, seed: int = 2) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of the adapter."""
    torch.manual_seed(seed)
    noisy, text = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 16)
    loss = network(noisy, torch.tensor([3, 500]), text).sample.square().mean()
    loss.backward()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained]
    for parameter in trained:
        parameter.grad = None
    return loss.item(), gradients


def same(found: tuple, right: tuple) -> None:
    assert found[0] == right[0]
    for ours, theirs in zip(found[1], right[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=1e-6)


@pytest.mark.parametrize("quantized", [False, True], ids=["whole", "fp8"])
@pytest.mark.parametrize("checkpointing", ["off", "full", "selective"])
@pytest.mark.parametrize("count", [3, 64], ids=["some", "all"])
def test_loss_and_gradients_are_those_without_offloading(count, checkpointing, quantized):
    right = [step(unet(quantized), seed) for seed in (2, 3)]
    network = unet(quantized)
    if checkpointing != "off":
        use_checkpointing(network, selective=checkpointing == "selective")
    offload_blocks(network, count, CPU)
    for seed, expected in zip((2, 3), right, strict=True):
        same(step(network, seed), expected)
    with torch.no_grad():
        torch.manual_seed(2)
        answer = network(torch.randn(2, 4, 8, 8), torch.tensor([3, 500]), torch.randn(2, 77, 16)).sample
    assert answer.square().mean().item() == pytest.approx(right[0][0], rel=1e-6)


def test_at_most_two_blocks_are_on_the_device_and_each_comes_twice_a_step():
    network = unet()
    most = []
    offloaded = offload_blocks(network, 64, CPU)
    for module in big_blocks(network):
        module.register_forward_hook(lambda *_: most.append(sum(block.on_device for block in offloaded.blocks)))
    step(network)
    before, late = offloaded.fetches, offloaded.unforeseen
    step(network)
    blocks = len(offloaded.blocks)
    assert blocks == len(big_blocks(network)) == 12 and max(most) == 2
    # once on the way there and once on the way back, but for the ends, where the way turns
    assert offloaded.unforeseen == late  # each was sent for while its neighbour was computed
    assert 2 * blocks - 4 <= offloaded.fetches - before <= 2 * blocks


def test_what_is_trained_never_moves():
    network = unet()
    before = {name: p.data_ptr() for name, p in network.named_parameters() if p.requires_grad}
    offload_blocks(network, 64, CPU)
    step(network)
    after = {name: p.data_ptr() for name, p in network.named_parameters() if p.requires_grad}
    assert before == after and len(before) > 10


def test_the_largest_blocks_go_first_and_leave_nothing_behind():
    network = unet()
    sizes = sorted((nbytes(frozen_tensors(block)) for block in big_blocks(network)), reverse=True)
    offloaded = offload_blocks(network, 2, CPU)
    assert offloaded.bytes == sum(sizes[:2])
    step(network)
    offloaded.leave()
    held = [tensor for block in offloaded.blocks for tensor in block.tensors]
    assert sum(tensor.untyped_storage().nbytes() for tensor in held) < offloaded.bytes / 50
    assert all(tensor.isnan().all() for tensor in held)


def waiting(loss: torch.Tensor) -> Iterator[torch.Tensor]:
    """Tensors that the backward pass from `loss` will read."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        yield from (each for each in [*saved, *getattr(node, "saved_tensors", ())] if isinstance(each, torch.Tensor))


def test_no_weight_waits_on_the_device_for_the_backward_pass():
    network = unet()
    shapes = {p.shape for block in big_blocks(network) for p in frozen_tensors(block) if p.dim() >= 2}
    offloaded = offload_blocks(network, 64, CPU)
    answer = network(torch.randn(3, 4, 8, 8), torch.tensor(3), torch.randn(3, 77, 16)).sample
    offloaded.leave()
    others = {p.data_ptr() for p in network.parameters() if not p.isnan().any()}  # of no block
    found = [t for t in waiting(answer.sum()) if t.dim() >= 2 and t.data_ptr() not in others]
    weights = [t for t in found if t.shape in shapes or t.mT.shape in shapes]
    assert len(weights) > 20 and all(weight.isnan().all() for weight in weights)


def test_other_networks_offload_the_items_of_their_lists():
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.out = nn.Linear(4, 4)

    network = Transformer()
    assert big_blocks(network) == list(network.blocks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_the_same_with_less_memory():
    device = torch.device("cuda")

    def run(count: int) -> tuple[float, int]:
        torch.manual_seed(0)
        network = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(2048, 2048) for _ in range(16))}).requires_grad_(
            False
        )
        network.to(device)
        network.forward = lambda x: torch.nn.Sequential(*network["blocks"])(x)
        if count:
            offload_blocks(network, count, device)
        torch.cuda.reset_peak_memory_stats()
        x = torch.randn(8, 2048, device=device, requires_grad=True)
        network(x).square().sum().backward()
        return x.grad.sum().item(), torch.cuda.max_memory_allocated()

    (plain, much), (ours, little) = run(0), run(16)
    assert ours == plain and little < much / 3
