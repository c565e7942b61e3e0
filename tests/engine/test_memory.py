import json
from collections import Counter

import pytest
import torch
from torch import nn

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from transformers import CLIPTextConfig, CLIPTextModel

from lora_studio.core.errors import UserError
from lora_studio.engine import memory
from lora_studio.engine.config import RunConfig, TrainConfig
from lora_studio.engine.config.checks import problems
from lora_studio.engine.memory import (
    BF16_FROM,
    Scaler,
    choose_precision,
    compile_network,
    describe,
    is_oom,
    largest,
    next_rung,
    prepare_network,
    release_memory,
    use_checkpointing,
)
from lora_studio.engine.quantize import quantize

CPU = torch.device("cpu")
STARTER = 7_450_000  # parameters of the starter's UNet
SD15 = 859_520_964
on_cpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="speaks of machines without a GPU")


def unet(dropout: float = 0.0) -> nn.Module:
    """A small true UNet of two sizes with LoRA, moved off its start."""
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).requires_grad_(False)  # fmt: skip
    config = LoraConfig(r=2, target_modules=["to_q", "to_v", "ff.net.2", "conv1"], lora_dropout=dropout)
    inject_adapter_in_model(config, network)
    torch.manual_seed(1)
    for parameter in trained(network):
        parameter.data += torch.randn_like(parameter) * 0.05
    return network.train()


def trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def step(network: nn.Module, side: int = 8) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of the adapter for one fixed batch of latents (2, 4, side, side)."""
    torch.manual_seed(2)
    noisy, text = torch.randn(2, 4, side, side), torch.randn(2, 77, 16)
    loss = network(noisy, torch.tensor([3, 500]), text).sample.square().mean()
    gradients = torch.autograd.grad(loss, trained(network))
    return loss.item(), list(gradients)


def same(found: tuple, right: tuple, tolerance: float = 0.0) -> None:
    assert found[0] == pytest.approx(right[0], rel=tolerance)
    for ours, theirs in zip(found[1], right[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


# --- precision --------------------------------------------------------------------------------------------------------


@on_cpu
@pytest.mark.parametrize(
    ("wish", "parameters", "abilities", "name"),
    [
        ("auto", STARTER, {"avx512_bf16"}, "fp32"),
        ("auto", BF16_FROM, {"avx512_bf16"}, "bf16"),
        ("auto", SD15, {"amx_bf16", "avx2"}, "bf16"),
        ("auto", SD15, {"avx2", "avx512f"}, "fp32"),
        ("bf16", STARTER, set(), "bf16"),
        ("fp32", SD15, {"avx512_bf16"}, "fp32"),
    ],
)
def test_a_cpu_takes_bf16_for_large_networks_where_it_multiplies_it(monkeypatch, wish, parameters, abilities, name):
    monkeypatch.setattr(memory, "cpu_abilities", lambda: abilities)  # another machine's processor
    precision = choose_precision(wish, parameters)
    assert precision == memory.Precision(CPU, memory.DTYPES[name], name)


@on_cpu
def test_fp16_without_a_gpu_is_refused():
    with pytest.raises(UserError, match=r"run\.precision fp16 needs a GPU"):
        choose_precision("fp16", STARTER)


def test_the_processors_abilities_are_read_without_torchs_list(monkeypatch):
    known = memory.cpu_abilities()
    memory.cpu_abilities.cache_clear()
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    read = memory.cpu_abilities()
    memory.cpu_abilities.cache_clear()
    names = {"avx2", "avx512_bf16", "amx_bf16"}
    assert read & names == known & names


def test_the_choice_is_told_in_words():
    precision = memory.Precision(CPU, torch.bfloat16, "bf16")
    assert describe(precision, ["compiled for each picture shape"]) == (
        "Computing in bf16 on CPU, compiled for each picture shape."
    )


# --- the scaler of fp16 -----------------------------------------------------------------------------------------------


def test_the_scaler_takes_off_what_it_put_on():
    scaler, weight = Scaler(torch.float16), nn.Parameter(torch.ones(3))
    scaler.scaled(weight.sum()).backward()
    assert weight.grad.tolist() == [2.0**16] * 3
    scaler.unscale([weight])
    assert weight.grad.tolist() == [1.0] * 3 and scaler.update(finite=True)


def test_the_scaler_shrinks_at_once_and_grows_after_a_good_while():
    scaler = Scaler(torch.float16)
    start = scaler.factor
    assert not scaler.update(finite=False) and scaler.factor == start / 2 and not scaler.exhausted
    for _ in range(Scaler.INTERVAL):
        assert scaler.update(finite=True)
    assert scaler.factor == start
    while not scaler.exhausted:
        scaler.update(finite=False)
    assert scaler.factor < 1


def test_a_resumed_scaler_goes_on_exactly():
    scaler = Scaler(torch.float16)
    for finite in (True, False, True, True):
        scaler.update(finite)
    other = Scaler(torch.float16)
    other.load(json.loads(json.dumps(scaler.state())))
    for _ in range(Scaler.INTERVAL):
        assert scaler.update(True) == other.update(True)
        assert scaler.state() == other.state()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_formats_are_not_scaled(dtype):
    scaler, loss = Scaler(dtype), torch.tensor(3.0)
    assert scaler.scaled(loss) is loss and not scaler.update(finite=False)
    assert scaler.exhausted and scaler.factor == 1


# --- checkpointing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_changes_neither_loss_nor_gradients(mode, dropout):
    right = step(unet(dropout))
    network = unet(dropout)
    assert prepare_network(network, RunConfig(gradient_checkpointing=mode), CPU)[0].startswith("gradient checkpointing")
    for _ in range(3):  # selective chooses in the first
        same(step(network), right)


def kept_bytes(network: nn.Module) -> int:
    """Bytes that wait for the backward pass."""
    sizes: dict[int, int] = {}
    frozen = {p.data_ptr() for p in network.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in frozen:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        answer = network(torch.randn(2, 4, 16, 16), torch.tensor([3, 500]), torch.randn(2, 77, 16))
    assert answer.sample.requires_grad
    return sum(sizes.values())


def test_selective_checkpointing_keeps_more_than_full_and_less_than_none():
    kept = {}
    for mode in ("off", "selective", "full"):
        network = unet()
        prepare_network(network, RunConfig(gradient_checkpointing=mode), CPU)
        kept_bytes(network)
        kept[mode] = kept_bytes(network)
    assert kept["full"] < 0.8 * kept["selective"] < 0.64 * kept["off"]


def test_selective_checkpointing_takes_the_large_blocks():
    network = unet()
    use_checkpointing(network, selective=True)
    with torch.no_grad():  # not a training pass: measures nothing
        network(torch.randn(2, 4, 16, 16), torch.tensor([3, 500]), torch.randn(2, 77, 16))
    units = {name: unit for name, unit in network.named_modules() if hasattr(unit, "gradient_checkpointing")}
    assert all(unit.gradient_checkpointing for unit in units.values())
    hooks = sum(len(module._forward_hooks) for module in network.modules())
    step(network, 16)
    chosen = {name for name, unit in units.items() if unit.gradient_checkpointing}
    assert "up_blocks.1.attentions.0" in chosen  # full size
    assert not chosen & {"mid_block", "down_blocks.1", "up_blocks.0"}  # half size
    assert hooks == 1 and not any(module._forward_hooks for module in network.modules())


def test_the_largest_are_the_fewest_that_hold_the_share():
    sizes = Counter({"a": 5, "b": 3, "c": 2})
    assert largest(sizes, 0.5) == {"a"} and largest(sizes, 0.6) == {"a", "b"} and largest(sizes, 1) == {"a", "b", "c"}


def test_a_text_encoder_is_checkpointed_too():
    def text_encoder() -> nn.Module:
        torch.manual_seed(0)
        size = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        return CLIPTextModel(CLIPTextConfig(num_hidden_layers=2, bos_token_id=28, eos_token_id=29, **size)).train()

    def gradients(network: nn.Module) -> list[torch.Tensor]:
        network(torch.arange(28)[None]).last_hidden_state.square().sum().backward()
        return [p.grad for p in network.parameters() if p.grad is not None]

    network = text_encoder()
    prepare_network(network, RunConfig(gradient_checkpointing="full"), CPU)
    for ours, right in zip(gradients(network), gradients(text_encoder()), strict=True):
        torch.testing.assert_close(ours, right, atol=1e-6, rtol=1e-5)


def test_a_network_that_cannot_be_checkpointed_is_named():
    with pytest.raises(UserError, match="Sequential"):
        use_checkpointing(nn.Sequential(nn.Linear(2, 2)), selective=False)


# --- compiling and offloading -----------------------------------------------------------------------------------------


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 3))


def small_step(network: nn.Module, side: int = 8) -> tuple[float, list[torch.Tensor]]:
    torch.manual_seed(2)
    loss = network(torch.randn(2, 4, side, side)).square().mean()
    return loss.item(), list(torch.autograd.grad(loss, list(network.parameters())))


def test_each_shape_is_compiled_once_and_learns_the_same():
    network, graphs, told = small(), [], []
    compile_network(network, told.append, lambda graph, inputs: graphs.append(graph) or graph)
    small_step(network)
    assert not graphs  # the first pass goes uncompiled
    for side, count in ((8, 1), (16, 2), (8, 2)):
        same(small_step(network, side), small_step(small(), side), 1e-6)
        assert len(graphs) == count
    with torch.no_grad():
        network(torch.randn(1, 4, 24, 24))
    assert len(graphs) == 2 and not told  # drawing does not compile


def test_where_compiling_fails_training_goes_on_and_it_is_told_once():
    def backend(graph: torch.fx.GraphModule, inputs: list) -> object:
        raise RuntimeError("no C++ compiler here")

    network, told = small(), []
    compile_network(network, told.append, backend)
    for _ in range(3):
        same(small_step(network), small_step(small()))
    assert len(told) == 1 and "no C++ compiler here" in told[0]


def test_compiling_does_not_hide_that_memory_ended():
    def run(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    network = small()
    compile_network(network, print, lambda graph, inputs: run)
    small_step(network)
    with pytest.raises(torch.OutOfMemoryError):
        small_step(network)


@pytest.mark.slow
def test_a_compiled_unet_with_selective_checkpointing_and_fp8_learns_the_same():
    network, plain, told = unet(), unet(), []
    for each in (network, plain):
        quantize(each, "fp8")
    prepare_network(network, RunConfig(gradient_checkpointing="selective"), CPU)
    compile_network(network, told.append, "eager")
    for _ in range(3):
        same(step(network), step(plain), 1e-6)
    assert not told


def test_a_cpu_has_nothing_to_offload_to():
    (words,) = prepare_network(unet(), RunConfig(offload_blocks=4), CPU)
    assert "no offloading" in words


# --- when memory ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_the_end_of_memory_is_told_from_other_errors(error, is_it):
    assert is_oom(error) is is_it


def test_a_real_end_of_memory_is_known():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**48)
    assert is_oom(caught.value)
    release_memory()


def test_the_ladder_goes_from_mild_to_strong_and_ends():
    config = TrainConfig().with_changes({"optimizer.text_encoder_lr": 0, "data.batch_size": 6})
    changes, names = [], []
    while (rung := next_rung(config)) is not None:
        config = config.with_changes(rung[0])  # every change is one that the settings take
        changes.append(rung[0])
        names.append(next(iter(rung[0])))
        assert rung[1]
    assert names == [
        "run.gradient_checkpointing", "run.gradient_checkpointing", "data.batch_size", "data.batch_size",
        "data.shuffle_tags", "optimizer.kind", *["run.offload_blocks"] * 4, "run.quantize",
    ]  # fmt: skip
    assert [c["run.gradient_accumulation"] for c in changes if "data.batch_size" in c] == [2, 6]
    assert config.data.batch_size == 1 and config.run.gradient_checkpointing == "full"


def test_with_several_cards_the_ladder_spreads_the_base_and_asks_for_nothing_that_goes_against_it():
    config = TrainConfig().with_changes({"run.devices": 2, "run.compile": True})
    names = []
    while (rung := next_rung(config)) is not None:
        config = config.with_changes(rung[0])
        names.append(next(iter(rung[0])))
    assert names[-1] == "run.shard" and config.run.shard and problems(config) == []


def test_the_ladder_leaves_out_what_does_not_fit_the_run():
    config = TrainConfig()  # trains the text encoder: its states cannot be kept
    names = set()
    while (rung := next_rung(config, "cpu")) is not None:
        config = config.with_changes(rung[0])
        names |= set(rung[0])
    assert not names & {"data.shuffle_tags", "optimizer.kind", "run.offload_blocks"}
    assert {"run.gradient_checkpointing", "data.batch_size", "run.quantize"} <= names
