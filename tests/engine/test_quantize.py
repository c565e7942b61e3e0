import copy
import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
from peft import LoraConfig, inject_adapter_in_model

from lora_studio.core.errors import UserError
from lora_studio.engine.offload import frozen_tensors, nbytes
from lora_studio.engine.quantize import FP8_MAX, QuantizedLinear, quantize

HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
NF4 = pytest.param("nf4", marks=pytest.mark.skipif(not HAS_BITSANDBYTES, reason="needs bitsandbytes"))


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 32, bias=False), nn.Conv1d(3, 3, 1))
    return layers.requires_grad_(False).to(dtype)


def test_weights_are_off_by_no_more_than_half_a_code():
    weight = network()[0].weight
    widest = weight.abs().amax(1, keepdim=True)
    layers = {kind: QuantizedLinear(network()[0], kind) for kind in ("fp8", "int8")}
    assert ((layers["int8"].weight - weight).abs() <= widest / 127 / 2 * 1.001).all()
    # e4m3: three bits behind the point, and evenly spaced by 2^-9 below its least normal number
    bound = torch.maximum(weight.abs() * 2**-4, widest / FP8_MAX * 2**-10)
    assert ((layers["fp8"].weight - weight).abs() <= bound * 1.001).all()
    for layer in layers.values():
        assert torch.equal(layer.weight.abs().amax(1), widest[:, 0]) or layer.weight.abs().amax(1).allclose(
            widest[:, 0]
        )


def test_a_row_of_zeros_stays_zero():
    layer = nn.Linear(8, 2).requires_grad_(False)
    layer.weight[0] = 0
    for kind in ("fp8", "int8"):
        assert QuantizedLinear(layer, kind).weight[0].tolist() == [0.0] * 8


@pytest.mark.parametrize(("kind", "dtype", "share"), [("fp8", torch.float32, 4), ("int8", torch.bfloat16, 2)])
def test_only_frozen_linear_layers_are_quantised_and_they_shrink(kind, dtype, share):
    net = network(dtype)
    before = nbytes([net[0].weight, net[2].weight])
    assert quantize(net, kind) == 2 == sum(isinstance(module, QuantizedLinear) for module in net.modules())
    codes = [net[0].codes, net[2].codes]
    assert nbytes(codes) * share == before and nbytes([net[0].scales, net[2].scales]) == 4 * (128 + 32)
    assert type(net[3]) is nn.Conv1d and quantize(net, kind) == 0
    trained = nn.Sequential(nn.Linear(4, 4))
    assert quantize(trained, kind) == 0


@pytest.mark.parametrize("kind", ["fp8", "int8", NF4])
def test_gradients_are_those_of_the_whole_weight(kind):
    layer = QuantizedLinear(network(torch.float64)[0], kind)
    weight, x = layer.weight, torch.randn(3, 5, 64, dtype=torch.float64, requires_grad=True)
    assert weight.dtype == torch.float64
    answer = layer(x)
    (gradient,) = torch.autograd.grad(answer.square().sum(), x)
    expected = F.linear(x, weight, layer.bias)
    (right,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(answer, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(gradient, right, atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradcheck(layer, x)


def test_no_whole_weight_is_kept_for_the_backward_pass():
    layer = QuantizedLinear(network()[0], "fp8")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.dtype) or tensor, lambda t: t):
        layer(torch.randn(2, 64, requires_grad=True))
    assert sorted(kept, key=str) == [torch.float32, torch.uint8]  # scales and codes


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", ["fp8", "int8", NF4])
def test_an_adapter_on_top_learns_what_it_would_on_the_whole_weights(kind, dora):
    net = network()
    quantize(net, kind)
    whole = network()
    for index in (0, 2):
        whole[index].weight.data = net[index].weight.clone()
    x = torch.randn(4, 64)
    gradients = []
    for each in (net, whole):
        torch.manual_seed(1)
        inject_adapter_in_model(LoraConfig(r=4, target_modules=["0", "2"], use_dora=dora), each)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            trained = [p for p in each.parameters() if p.requires_grad]
            for parameter in trained:
                parameter.data += torch.randn_like(parameter) * 0.1
        assert {p.dtype for p in trained} == {torch.float32}
        each[2](each[1](each[0](x))).square().mean().backward()
        gradients.append([p.grad for p in trained])
    for ours, right in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, right, atol=1e-6, rtol=1e-5)


def test_autocast_computes_in_its_own_format():
    layer = QuantizedLinear(network()[0], "int8")
    x = torch.randn(2, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        answer = layer(x)
    answer.sum().backward()
    assert answer.dtype == torch.bfloat16 and x.grad.dtype == torch.float32


def test_a_quantised_network_can_be_copied_saved_and_cast():
    net = network()
    quantize(net, "fp8")
    before = net[0].weight
    assert torch.equal(copy.deepcopy(net)[0].weight, before)
    other = network()
    other[0].weight.data.zero_()
    quantize(other, "fp8")
    other.load_state_dict(net.state_dict())
    assert torch.equal(other[0].weight, before)
    net.to(torch.bfloat16)
    torch.testing.assert_close(net[0].weight, before, atol=0, rtol=0.01)
    net[0].weight = torch.ones(128, 64)
    assert net[0].weight.unique().tolist() == pytest.approx([1.0])


@pytest.mark.skipif(HAS_BITSANDBYTES, reason="bitsandbytes is here")
def test_nf4_without_its_package_names_what_to_install():
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        quantize(network(), "nf4")


def test_frozen_tensors_of_a_quantised_network_are_its_codes_and_scales():
    net = network()
    quantize(net, "fp8")
    names = {torch.uint8, torch.float32}
    assert {tensor.dtype for tensor in frozen_tensors(net)} == names and len(frozen_tensors(net)) == 4 + 1 + 2
