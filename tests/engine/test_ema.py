"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from lora_studio.core.errors import UserError
from lora_studio.engine.ema import MovingAverage


def walk(parameter: nn.Parameter, average: MovingAverage, steps: range) -> None:
    """Random steps, each taken in."""
    for step in steps:
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        average.update(step)


def test_the_average_follows_its_formula() -> None:
    """average = sum of the weights so far, each times 1 - k of its step and the k of all later ones."""
    parameter = nn.Parameter(torch.zeros(3))
    average = MovingAverage({"w": parameter}, decay=0.5)
    seen = [torch.zeros(3)]
    for step in range(1, 21):
        walk(parameter, average, range(step, step + 1))
        seen.append(parameter.detach().clone())
    decays = [min(0.5, (1 + step) / (10 + step)) for step in range(1, 21)]
    shares = [1.0]
    for decay in decays:
        shares = [share * decay for share in shares] + [1 - decay]
    assert sum(shares) == pytest.approx(1)
    wanted = sum(share * value for share, value in zip(shares, seen, strict=True))
    assert torch.allclose(average.tensors()["w"], wanted, atol=1e-6)


def test_a_short_run_is_not_half_its_beginning() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    average = MovingAverage({"w": parameter}, decay=0.999)
    parameter.data.fill_(1.0)
    for step in range(1, 31):
        average.update(step)
    assert average.tensors()["w"].item() > 0.999  # 0.03 without the warm-up of the decay


def test_it_is_kept_in_32_bits_and_apart_from_the_weights() -> None:
    parameter = nn.Parameter(torch.ones(256, dtype=torch.bfloat16))
    average = MovingAverage({"w": parameter}, decay=0.999)
    parameter.data.fill_(1.0078125)
    for step in range(20_000, 20_005):
        average.update(step)
    value = average.tensors()["w"]
    assert value.dtype == torch.float32 and torch.allclose(value, torch.full((256,), 1 + 0.0078125 * (1 - 0.999**5)))
    assert torch.all(parameter == 1.0078125)


def test_resuming_is_exact_to_the_bit() -> None:
    whole, part = nn.Parameter(torch.ones(5, 3)), nn.Parameter(torch.ones(5, 3))
    one, two = MovingAverage({"w": whole}, 0.9), MovingAverage({"w": part}, 0.9)
    walk(whole, one, range(1, 40))
    walk(part, two, range(1, 17))
    saved = {key: value.clone() for key, value in two.tensors().items()}
    rest = nn.Parameter(part.detach().clone())
    three = MovingAverage({"w": rest}, 0.9)
    three.load(saved)
    walk(part, two, range(17, 20))
    assert not torch.equal(saved["w"], two.tensors()["w"])
    walk(rest, three, range(17, 40))
    assert torch.equal(one.tensors()["w"], three.tensors()["w"]) and torch.equal(whole, rest)


@pytest.mark.parametrize("other", [{}, {"w": torch.zeros(4)}, {"v": torch.zeros(3)}])
def test_an_average_of_another_adapter_is_refused(other: dict[str, torch.Tensor]) -> None:
    average = MovingAverage({"w": nn.Parameter(torch.zeros(3))}, 0.9)
    with pytest.raises(UserError, match=r"adapter\.rank"):
        average.load(other)
