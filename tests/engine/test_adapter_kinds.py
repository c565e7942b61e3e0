"""Every kind of adapter, in SD and SDXL: begins as the base, learns, is saved as what it is, comes back the same."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lora_studio.engine.adapters import Adapter, formulas
from lora_studio.engine.adapters.apply import apply_file
from lora_studio.engine.adapters.delta import by_module, delta
from lora_studio.engine.adapters.layer import operate
from lora_studio.engine.config import AdapterConfig
from tests import findings
from tests.engine.tiny_family import TinyFamily

KINDS = ("lora", "dora", "loha", "lokr", "ia3", "oft", "boft", "glora")
CASES = [(kind, layers, name) for name in ("sd", "sdxl") for layers in ("attention", "all") for kind in KINDS]
case_table = pytest.mark.parametrize(("kind", "layers", "name"), CASES)


def stir(adapter: Adapter, size: float = 0.05) -> Adapter:
    """The adapter as after a training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return adapter


def make(family: TinyFamily, kind: str = "lora", **changes: Any) -> Adapter:
    config = AdapterConfig(**{"kind": kind, "rank": 4, "alpha": 2.0, "layers": "all", **changes})
    return Adapter(family, config, list(family.parts), seed=3)


@dataclass
class Case:
    """A trained adapter in float64."""

    family: TinyFamily
    adapter: Adapter
    bare: Tensor
    begun: Tensor
    """What the networks said with the fresh adapter."""
    trained: Tensor
    missed: list[str]
    """Parameters that got no gradient."""
    file: dict[str, Tensor]


@cache
def trained(kind: str, layers: str, name: str) -> Case:
    family = TinyFamily(name, dtype=torch.float64)
    bare = family.answer()
    adapter = make(family, kind, layers=layers)
    for part in family.parts.values():
        part.double()
    begun = family.answer()
    stir(adapter)
    answer = family.answer()
    answer.square().sum().backward()
    missed = [key for key, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
    return Case(family, adapter, bare, begun.detach(), answer.detach(), missed, adapter.tensors(torch.float64))


def probe(base: nn.Module, count: int = 3) -> Tensor:
    """An input for a layer."""
    generator = torch.Generator().manual_seed(2)
    if isinstance(base, nn.Conv2d):
        return torch.randn(count, base.in_channels, 6, 6, generator=generator, dtype=base.weight.dtype)
    return torch.randn(count, 5, base.in_features, generator=generator, dtype=base.weight.dtype)


def relative(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


# --- every kind in every place ----------------------------------------------------------------------------------------


@case_table
def test_it_begins_as_the_base_exactly(kind: str, layers: str, name: str) -> None:
    case = trained(kind, layers, name)
    assert torch.equal(case.begun, case.bare)
    assert relative(case.trained, case.bare) > 1e-3


@case_table
def test_gradients_reach_every_parameter_and_no_other(kind: str, layers: str, name: str) -> None:
    case = trained(kind, layers, name)
    assert case.missed == []
    asking = [p for part in case.family.parts.values() for p in part.parameters() if p.requires_grad]
    assert {id(p) for p in asking} == {id(p) for p in case.adapter.parameters}
    assert sum(map(len, case.adapter.groups.values())) == len(dict(case.adapter.named_parameters()))
    assert list(case.adapter.groups) == list(case.family.parts)


@case_table
def test_the_file_tells_the_difference_in_memory(kind: str, layers: str, name: str) -> None:
    case = trained(kind, layers, name)
    modules, worst = by_module(case.file), 0.0
    assert set(modules) == set(case.adapter.layers)
    for key, layer in case.adapter.layers.items():
        base = layer.base_layer
        with torch.no_grad():
            x = probe(base)
            in_memory = layer(x) - base(x)
            by_file = operate(base, x, delta(modules[key], base.weight))
        worst = max(worst, relative(by_file, in_memory))
    findings.found("error of the file's difference to the trained one", kind, f"{name} {layers}", f"{worst:.1e}")
    assert worst < 1e-10


@case_table
def test_a_fresh_adapter_that_loads_it_says_the_same(kind: str, layers: str, name: str) -> None:
    case = trained(kind, layers, name)
    family = TinyFamily(name, dtype=torch.float64)
    adapter = make(family, kind, layers=layers)
    for part in family.parts.values():
        part.double()
    adapter.load(case.file)
    assert torch.equal(family.answer(), case.trained)


@case_table
def test_the_file_on_a_fresh_base_acts_as_in_memory(kind: str, layers: str, name: str) -> None:
    case = trained(kind, layers, name)
    family = TinyFamily(name, dtype=torch.float64)
    applied = apply_file(family.parts, case.file, 1.0)
    assert relative(family.answer(), case.trained) < 1e-10
    applied.remove()
    assert torch.equal(family.answer(), case.bare)


@case_table
def test_switched_off_it_is_the_bare_base(kind: str, layers: str, name: str) -> None:
    case = trained(kind, layers, name)
    with case.adapter.off():
        assert torch.equal(case.family.answer(), case.bare)
        with case.adapter.enabled(True):
            assert torch.equal(case.family.answer(), case.trained)
    assert torch.equal(case.family.answer(), case.trained)


@pytest.mark.parametrize("kind", KINDS)
def test_half_the_strength_is_half_the_difference(kind: str) -> None:
    case = trained(kind, "all", "sd")
    name = next(name for name in case.adapter.layers if name.endswith("attn1_to_k"))
    one = {key: tensor for key, tensor in case.file.items() if key.startswith(name + ".")}
    family = TinyFamily("sd", dtype=torch.float64)
    layer = family.part("unet").get_submodule(case.adapter.module_names[name].removeprefix("unet."))
    x = probe(layer)
    with torch.no_grad():
        bare = layer(x)
        for strength in (0.5, 1.0, -2.0):
            applied = apply_file(family.parts, one, strength)
            change = operate(layer, x, strength * delta(by_module(one)[name], layer.weight))
            assert torch.allclose(layer(x) - bare, change, rtol=0, atol=1e-12)
            applied.remove()
    assert torch.equal(layer(x), bare)


# --- against formulas written out anew, and other libraries -----------------------------------------------------------


def loop_oft(blocks: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Diag-OFT by loops over blocks: rows of a block are mixed by R transposed."""
    changed, size = weight.copy(), blocks.shape[-1]
    for index, block in enumerate(blocks):
        skew = block - block.T
        turn = (np.eye(size) + skew) @ np.linalg.inv(np.eye(size) - skew)
        rows = slice(index * size, (index + 1) * size)
        changed[rows] = turn.T @ weight[rows]
    return changed - weight


def loop_boft(blocks: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """BOFT by loops: in stage i, rows lie together whose number modulo 2^i b is the same modulo 2^i b / 2."""
    changed, size = weight.copy(), blocks.shape[-1]
    for stage, stage_blocks in enumerate(blocks):
        apart = 2**stage * size // 2
        order = [g * 2 * apart + k + half * apart for g in range(len(weight) // (2 * apart))
                 for k in range(apart) for half in (0, 1)]  # fmt: skip
        for index, block in enumerate(stage_blocks):
            skew = block - block.T
            rows = order[index * size : (index + 1) * size]
            changed[rows] = (np.eye(size) + skew) @ np.linalg.inv(np.eye(size) - skew) @ changed[rows]
    return changed - weight


def by_hand(kind: str, w: dict[str, np.ndarray], base: np.ndarray) -> np.ndarray:
    """W' - W of one linear layer, as in the papers, in numpy."""
    scale = float(w.get("alpha", 0)) / 4
    if kind in ("lora", "dora"):
        change = scale * w["lora_up.weight"] @ w["lora_down.weight"]
        if kind == "lora":
            return change
        return (base + change) / np.linalg.norm(base + change, axis=1, keepdims=True) * w["dora_scale"] - base
    if kind == "loha":
        return scale * (w["hada_w1_a"] @ w["hada_w1_b"]) * (w["hada_w2_a"] @ w["hada_w2_b"])
    if kind == "lokr":
        if "lokr_w2" in w:
            return np.kron(w["lokr_w1"], w["lokr_w2"])
        return scale * np.kron(w["lokr_w1"], w["lokr_w2_a"] @ w["lokr_w2_b"])
    if kind == "glora":
        inner = base @ w["a1.weight"] @ w["a2.weight"]
        return scale * (inner + w["b1.weight"] @ w["b2.weight"])
    if kind == "ia3":
        return base * w["weight"] if w["on_input"] else base * w["weight"][:, None]
    return (loop_oft if kind == "oft" else loop_boft)(w["oft_blocks"], base)


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_is_the_published_one(kind: str) -> None:
    case = trained(kind, "all", "sd")
    linear = {key: layer.base_layer for key, layer in case.adapter.layers.items()}
    seen = 0
    for key, own in by_module(case.file).items():
        if isinstance(linear[key], nn.Linear):
            weight = linear[key].weight
            found = delta(own, weight).numpy()
            wanted = by_hand(kind, {ending: tensor.numpy() for ending, tensor in own.items()}, weight.numpy())
            assert np.abs(found - wanted).max() < 1e-12, key
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr", "oft", "boft", "glora"])
def test_lycoris_reads_the_file_as_the_same(kind: str) -> None:
    """(IA)3 files cannot be read by LyCORIS 3 and 4 (its loader is called with too many tensors)."""
    from lycoris import create_lycoris_from_weights

    case = trained(kind, "all", "sd")
    family = TinyFamily("sd")
    unet = family.part("unet")
    theirs = {
        "lycoris_" + key.removeprefix("lora_unet_"): tensor.float()
        for key, tensor in case.file.items()
        if key.startswith("lora_unet_")
    }
    modules = by_module(theirs)
    network, _ = create_lycoris_from_weights(1.0, "", unet, theirs)
    assert len(network.loras) == len(modules)
    for lora in network.loras:
        base = lora.org_module[0]
        merged = lora.get_merged_weight(1.0, base.weight.shape)[0].detach()
        wanted = base.weight + delta(modules[lora.lora_name], base.weight)
        scale = 1e-5 if kind in ("oft", "boft") else 2e-6
        if kind in ("loha", "lokr"):  # theirs multiplies the scale twice when merging, once in forward
            merged = base.weight + lora.get_weight(base.weight.shape).detach()
        assert (merged.reshape(base.weight.shape) - wanted).abs().max() < scale, lora.lora_name


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("layer", ["linear", "conv1", "conv3"])
def test_forward_and_gradients_are_peft_s(kind: str, layer: str) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    from lora_studio.engine.adapters.lora import NAME, inject
    from lora_studio.engine.adapters.plan import Size

    def network() -> nn.Module:
        torch.manual_seed(4)
        made = {"linear": nn.Linear(12, 9), "conv1": nn.Conv2d(12, 9, 1), "conv3": nn.Conv2d(12, 9, 3, 2, 1)}
        return nn.ModuleDict({"x": made[layer]}).requires_grad_(False)

    ours, theirs = network(), network()
    mine = inject(ours, {"x": Size(4, 3.0)}, kind, None)["x"]
    config = LoraConfig(r=4, lora_alpha=3.0, target_modules=["x"], use_dora=kind == "dora")
    inject_adapter_in_model(config, theirs, adapter_name=NAME)
    other = theirs["x"]
    with torch.no_grad():
        for matrix, same in ((mine.down, other.lora_A[NAME].weight), (mine.up, other.lora_B[NAME].weight)):
            matrix.normal_(std=0.3)
            same.copy_(matrix)
        if kind == "dora":
            length = other.lora_magnitude_vector[NAME].weight
            mine.dora_scale.mul_(1.1)
            length.copy_(mine.dora_scale.view(length.shape))
    x = probe(network()["x"]).requires_grad_()
    x_same = x.detach().clone().requires_grad_()
    answer, wanted = ours["x"](x), other(x_same)
    weights = torch.randn(answer.shape)
    (answer * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert torch.allclose(answer, wanted, rtol=0, atol=1e-6)
    assert torch.allclose(x.grad, x_same.grad, rtol=0, atol=2e-6)
    for parameter, same in ((mine.down, other.lora_A[NAME].weight), (mine.up, other.lora_B[NAME].weight)):
        assert torch.allclose(parameter.grad, same.grad, rtol=1e-5, atol=2e-6)
    if kind == "dora":
        assert torch.allclose(mine.dora_scale.grad.flatten(), length.grad.flatten(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dora"])
@pytest.mark.parametrize("place", ["linear", "conv"])
def test_gradients_are_those_of_the_forward(kind: str, place: str) -> None:
    """DoRA's are not by design: it takes the length as a constant; they are compared with peft's."""
    case = trained(kind, "all", "sd")
    wanted = nn.Conv2d if place == "conv" else nn.Linear
    layer = next(
        (one for one in case.adapter.layers.values()
         if isinstance(one.base_layer, wanted) and max(getattr(one.base_layer, "kernel_size", (3,))) == 3),
        None,
    )  # fmt: skip
    if layer is None:
        pytest.skip("(IA)3 takes no convolutions")
    names, values = zip(*layer.trained().items(), strict=True)
    x = probe(layer.base_layer, 1)[..., :4, :].clone().requires_grad_()

    def forward(x: Tensor, *tensors: Tensor) -> Tensor:
        named = {attribute(layer, value): tensor for value, tensor in zip(values, tensors, strict=True)}
        return torch.func.functional_call(layer, named, (x,), strict=False)[..., :3]

    assert len(names) == len(values)
    inputs = [value.detach().clone().requires_grad_() for value in values]
    assert torch.autograd.gradcheck(forward, (x, *inputs), fast_mode=True)


def attribute(layer: nn.Module, parameter: nn.Parameter) -> str:
    return next(name for name, own in layer._parameters.items() if own is parameter)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bf16_base_does_not_round_the_change_away(kind: str) -> None:
    """LyCORIS' own forward adds the change to the bf16 weight first, and loses half of it."""
    family = TinyFamily("sd", dtype=torch.bfloat16)
    adapter = stir(make(family, kind), 3e-3)
    for key, own in by_module(adapter.tensors(torch.float32)).items():
        base = adapter.layers[key].base_layer
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            x = probe(base)
            wanted = operate(base, x.float(), delta(own, base.weight.float()))
            found = change_alone(adapter.layers[key], x)
        assert relative(found.float(), wanted) < 0.03, key


def change_alone(layer: nn.Module, x: Tensor) -> Tensor:
    """What the adapter adds, before the sum with the base's answer rounds it to that one's places."""
    base, seen = layer.base_layer, []

    def without(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append(output)
        return output.double()

    handle = base.register_forward_hook(without)
    try:
        return layer(x) - seen[0].double()
    finally:
        handle.remove()


# --- the first values, and silence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_begins_the_same_and_leaves_chance_alone(kind: str) -> None:
    torch.manual_seed(11)
    first = make(TinyFamily(), kind).tensors(torch.float32)
    after = torch.rand(1)
    second = make(TinyFamily(), kind).tensors(torch.float32)
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(1), after)


def test_another_seed_begins_otherwise() -> None:
    tensors = [Adapter(TinyFamily(), AdapterConfig(), ["unet"], seed).tensors(torch.float32) for seed in (1, 2)]
    assert any(not torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])


def test_nothing_is_written_on_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        for kind in KINDS:
            make(TinyFamily(), kind, dropout=0.0 if kind == "ia3" else 0.1)
    captured = capfd.readouterr()
    assert out.getvalue() + captured.out + captured.err == ""


ENDINGS: dict[str, Callable[[int, int], dict[str, tuple[int, ...]]]] = {
    "lora": lambda o, i: {"lora_down.weight": (4, i), "lora_up.weight": (o, 4), "alpha": ()},
    "dora": lambda o, i: {"lora_down.weight": (4, i), "lora_up.weight": (o, 4), "alpha": (), "dora_scale": (o, 1)},
    "loha": lambda o, i: {
        "hada_w1_a": (o, 4), "hada_w1_b": (4, i), "hada_w2_a": (o, 4), "hada_w2_b": (4, i), "alpha": (),
    },
    "lokr": lambda o, i: {"lokr_w1": (4, 4), "lokr_w2": (o // 4, i // 4), "alpha": ()},
    "ia3": lambda o, i: {"weight": (o,), "on_input": ()},
    "oft": lambda o, i: {"oft_blocks": (o // 4, 4, 4), "alpha": ()},
    "boft": lambda o, i: {"oft_blocks": (3, o // 4, 4, 4), "alpha": ()},
    "glora": lambda o, i: {
        "a1.weight": (i, 4), "a2.weight": (4, i), "b1.weight": (o, 4), "b2.weight": (4, i), "alpha": (),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_has_the_published_endings_and_shapes(kind: str) -> None:
    own = by_module(trained(kind, "attention", "sd").file)
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
    assert {ending: tuple(tensor.shape) for ending, tensor in own[key].items()} == ENDINGS[kind](16, 16)
    assert formulas.kind_of(own[key]) == kind


def test_ia3_takes_keys_values_and_the_second_feed_forward_layer_by_input() -> None:
    adapter = trained("ia3", "all", "sdxl").adapter
    by_input = {name for name, layer in adapter.layers.items() if layer.on_input}
    assert all(name.endswith(("ff_net_2", "mlp_fc2")) for name in by_input) and by_input
    rest = set(adapter.layers) - by_input
    assert all(name.endswith(("to_k", "to_v", "k_proj", "v_proj")) for name in rest)


def test_boft_takes_the_next_larger_block_where_the_rank_does_not_fit() -> None:
    base = nn.Linear(8, 96)  # 6 * 16: blocks of 6, 12, 24 ...
    from lora_studio.engine.adapters.lycoris import make_layer
    from lora_studio.engine.adapters.plan import Size

    layer = make_layer("x", base, Size(4, 1.0), AdapterConfig(kind="boft", rank=4))
    assert layer.trained()["oft_blocks"].shape[-1] == 6
