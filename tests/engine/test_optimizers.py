"""Optimizers: each learns, resumes bit for bit, and takes its settings; rounding by chance keeps small steps."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from lora_studio.core.errors import UserError
from lora_studio.engine.config import OptimizerConfig
from lora_studio.engine.optimizers import FACTORIES, SCHEDULE_FREE, ParamGroup, averaged, make_optimizer, set_rate
from lora_studio.engine.rounding import StochasticBF16, round_stochastically
from lora_studio.engine.state import newest_state, restore_optimizer, save_state
from tests import findings

KINDS = [kind for kind in FACTORIES if kind != "adamw8bit"]
PRODIGIES = ["prodigy", "schedulefree_prodigy"]
RATES = {"adamw": 1e-2, "stable_adamw": 1e-2, "muon": 1e-2, "lion": 3e-3, "adafactor": 1e-2, "came": 1e-2}
RATES |= {"prodigy": 1.0, "schedulefree_prodigy": 1.0, "schedulefree_adamw": 2e-2}


class Problem:
    """A low-rank adapter that shall become a given matrix, with a conv and a vector beside it."""

    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0, size: int = 24) -> None:
        chance = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=chance)  # noqa: E731
        self.target = draw(size, 4) @ draw(4, size) / size
        self.conv_target, self.vector_target = draw(4, 3, 3, 3) / 5, draw(7) / 5
        values = {
            "down": draw(4, size) / size**0.5,
            "up": torch.zeros(size, 4),  # the up matrix begins at zero: the down one has no gradient at first
            "conv": torch.zeros(4, 3, 3, 3),
            "scale": torch.zeros(7),
            "text.down": draw(4, size) / size**0.5,
            "text.up": torch.zeros(size, 4),
        }
        self.parameters = {name: nn.Parameter(value.to(dtype)) for name, value in values.items()}

    def groups(self, rate: float, text_rate: float | None = None) -> list[ParamGroup]:
        of = lambda text: [p for name, p in self.parameters.items() if name.startswith("text") == text]  # noqa: E731
        return [ParamGroup("unet", of(False), rate), ParamGroup("text_encoder", of(True), text_rate or rate)]

    def loss(self) -> Tensor:
        p = {name: parameter.float() for name, parameter in self.parameters.items()}
        parts = [p["up"] @ p["down"] - self.target, p["text.up"] @ p["text.down"] - self.target]
        parts += [p["conv"] - self.conv_target, p["scale"] - self.vector_target]
        return torch.stack([part.square().mean() for part in parts]).sum()

    def train(self, optimizer: Any, steps: range, noise: float = 1e-3) -> None:
        """Steps with gradient noise from a seeded sequence, at a rate that changes."""
        for step in steps:
            set_rate(optimizer, 1.0 if step < 5 else 0.8)
            self.loss().backward()
            chance = torch.Generator().manual_seed(step)
            for parameter in self.parameters.values():
                parameter.grad += noise * torch.randn(parameter.shape, generator=chance).to(parameter.dtype)
            optimizer.step()
            optimizer.zero_grad()

    def values(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}


def config(kind: str, **more: Any) -> OptimizerConfig:
    return OptimizerConfig(kind=kind, **more)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_kind_of_the_settings_is_there() -> None:
    assert set(FACTORIES) == set(get_args(OptimizerConfig.model_fields["kind"].annotation))


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_optimizer_lowers_the_loss(kind: str) -> None:
    problem = Problem()
    before = problem.loss().item()
    optimizer = make_optimizer(problem.groups(RATES[kind]), config(kind))
    for _ in range(200):
        set_rate(optimizer, 1.0)
        problem.loss().backward()
        optimizer.step()
        optimizer.zero_grad()
    with averaged(optimizer):
        after = problem.loss().item()
    findings.found("optimizers", kind, "loss falls to", f"{after / before:.1%}")
    assert after < 0.3 * before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_resuming_is_exact_to_the_bit(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    def start() -> tuple[Problem, Any]:
        problem = Problem(dtype)
        groups = problem.groups(RATES[kind], RATES[kind] / 2)
        return problem, make_optimizer(groups, config(kind, weight_decay=0.1), seed=3)

    whole, optimizer = start()
    whole.train(optimizer, range(12))
    first, optimizer = start()
    first.train(optimizer, range(7))
    assert not same(first.values(), Problem(dtype).values())
    save_state(tmp_path, 7, first.parameters, optimizer, {}, keep=1)

    second, fresh = start()
    state, damaged = newest_state(tmp_path)
    assert state is not None and not damaged
    with torch.no_grad():
        for name, parameter in second.parameters.items():
            parameter.copy_(state.weights[name])
    restore_optimizer(state, fresh, second.parameters)
    second.train(fresh, range(7, 12))
    assert same(whole.values(), second.values())
    column = "resumes exactly" if dtype == torch.float32 else "in bf16"
    findings.found("optimizers", kind, column, "yes")


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_are_alike_and_torchs_own_chance_is_left_alone(kind: str) -> None:
    ends = []
    for chance in (1, 2):
        torch.manual_seed(chance)
        before = torch.get_rng_state()
        problem = Problem(torch.bfloat16)
        problem.train(make_optimizer(problem.groups(RATES[kind]), config(kind), seed=3), range(4))
        assert torch.equal(before, torch.get_rng_state())
        ends.append(problem.values())
    assert same(*ends)


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_of_an_optimizer_is_known(kind: str) -> None:
    """Of rank 16 on a layer 640 x 640, which is like most of a real adapter."""
    down, up = nn.Parameter(torch.randn(16, 640) / 25), nn.Parameter(torch.randn(640, 16) / 25)
    optimizer = make_optimizer([ParamGroup("unet", [down, up], RATES[kind])], config(kind))
    for _ in range(2):
        down.grad, up.grad = torch.randn_like(down), torch.randn_like(up)
        optimizer.step()
    tensors = [value for entries in optimizer.state.values() for value in entries.values() if torch.is_tensor(value)]
    each = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / (down.numel() + up.numel())
    findings.found("optimizers", kind, "state bytes/parameter", f"{each:.2f}")
    most = {"adamw": 8, "stable_adamw": 8, "muon": 4, "lion": 4, "adafactor": 0.3, "came": 4.6}
    most |= {"prodigy": 16, "schedulefree_adamw": 8, "schedulefree_prodigy": 5}
    assert each <= most[kind] + 0.1


# --- being quiet ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["adamw", "adafactor", "came", "prodigy", "schedulefree_adamw", "schedulefree_prodigy"]
)
def test_only_the_chosen_package_is_imported_and_nothing_is_printed(kind: str) -> None:
    code = f"""
import sys
import torch
from torch import nn
from lora_studio.engine.config import OptimizerConfig
from lora_studio.engine.optimizers import ParamGroup, make_optimizer
packages = {{"pytorch_optimizer", "prodigyopt", "prodigyplus", "schedulefree", "bitsandbytes"}}
assert not packages & set(sys.modules)
before = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
          torch.get_float32_matmul_precision(), torch.get_num_threads())
p = nn.Parameter(torch.ones(4, 4))
optimizer = make_optimizer([ParamGroup("unet", [p], 1.0)], OptimizerConfig(kind={kind!r}, weight_decay=0.1))
p.grad = torch.ones(4, 4)
optimizer.step()
assert before == (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
                  torch.get_float32_matmul_precision(), torch.get_num_threads())
assert len(packages & set(sys.modules)) <= 1, packages & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_missing_package_is_named_with_the_way_out() -> None:
    code = """
import sys
sys.modules["prodigyplus"] = None  # as if it were not installed
from torch import nn, ones
from lora_studio.core.errors import UserError
from lora_studio.engine.config import OptimizerConfig
from lora_studio.engine.optimizers import ParamGroup, make_optimizer
try:
    make_optimizer([ParamGroup("unet", [nn.Parameter(ones(2))], 1.0)], OptimizerConfig(kind="schedulefree_prodigy"))
except UserError as error:
    print(error)
"""
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "optimizer.kind schedulefree_prodigy" in text and "pip install prodigy-plus-schedule-free" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_eight_bit_adamw_needs_a_gpu_and_says_what_to_take_instead() -> None:
    with pytest.raises(UserError, match=r"optimizer.kind adamw8bit.*Choose optimizer.kind adamw"):
        make_optimizer(Problem().groups(1e-3), config("adamw8bit"))


def test_eight_bit_memory_is_saved_and_restored_in_its_own_format(tmp_path: Path) -> None:
    """bitsandbytes itself also runs on the processor, which is enough to see that its state comes back."""
    bitsandbytes = pytest.importorskip("bitsandbytes")

    def start() -> tuple[nn.Parameter, Any]:
        parameter = nn.Parameter(torch.randn(128, 64, generator=torch.Generator().manual_seed(0)))
        optimizer = bitsandbytes.optim.AdamW8bit([{"params": [parameter], "lr": 1e-2, "name": "unet"}])
        optimizer.kind = "adamw8bit"
        return parameter, optimizer

    def steps(parameter: nn.Parameter, optimizer: Any, numbers: range) -> None:
        for number in numbers:
            parameter.grad = torch.randn(128, 64, generator=torch.Generator().manual_seed(number))
            optimizer.step()

    whole, optimizer = start()
    steps(whole, optimizer, range(9))
    part, optimizer = start()
    steps(part, optimizer, range(5))
    assert optimizer.state[part]["state1"].dtype == torch.uint8
    save_state(tmp_path, 5, {"w": part}, optimizer, {}, keep=1)
    rest, fresh = start()
    state, _ = newest_state(tmp_path)
    assert state is not None
    rest.data.copy_(state.weights["w"])
    restore_optimizer(state, fresh, {"w": rest})
    steps(rest, fresh, range(5, 9))
    assert torch.equal(whole, rest)


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in PRODIGIES])
def test_rates_are_the_full_ones_times_the_schedule(kind: str) -> None:
    problem = Problem()
    optimizer = make_optimizer(problem.groups(2e-3, 5e-4), config(kind))
    assert set_rate(optimizer, 0.5) == pytest.approx({"unet": 1e-3, "text_encoder": 2.5e-4})
    assert {group["name"] for group in optimizer.param_groups} == {"unet", "text_encoder"}
    assert all(group["lr"] == group["base_lr"] / 2 for group in optimizer.param_groups)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_half_the_rate_moves_half_as_far(kind: str) -> None:
    size, moved = 2.0 if kind in PRODIGIES else 0.02, {}
    one, other = (nn.Parameter(torch.ones(8, 8)) for _ in range(2))
    groups = [ParamGroup("unet", [one], size), ParamGroup("text_encoder", [other], size / 2)]
    optimizer = make_optimizer(groups, config(kind, weight_decay=0.0))
    for step in range(3):
        set_rate(optimizer, 1.0)
        one.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(step))
        other.grad = one.grad.clone()
        optimizer.step()
        moved = {"one": one.detach() - 1, "other": other.detach() - 1}
    # The first steps of Prodigy are of about 1e-6: what 1.000001 can hold.
    assert moved["one"].abs().max() > 0
    assert torch.allclose(moved["one"], 2 * moved["other"], rtol=0.02, atol=4e-7)


def test_groups_without_a_rate_are_left_out() -> None:
    problem = Problem()
    groups = [ParamGroup("unet", problem.groups(1.0)[0].params, 1.0), ParamGroup("text_encoder", [], 1.0)]
    groups.append(ParamGroup("text_encoder", problem.groups(1.0)[1].params, 0.0))
    before = problem.values()
    for kind in KINDS:
        optimizer = make_optimizer(groups, config(kind))
        problem.train(optimizer, range(2))
        assert [group["name"] for group in optimizer.param_groups if group["name"] != "unet"] == []
    assert torch.equal(before["text.down"], problem.parameters["text.down"])


@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_and_betas_take_effect(kind: str) -> None:
    ends = []
    for changes in ({}, {"weight_decay": 0.9}, {"betas": (0.5, 0.9)}):
        problem = Problem()
        settings = config(kind, **{"weight_decay": 0.0, **changes})
        problem.train(make_optimizer(problem.groups(RATES[kind]), settings), range(12))
        ends.append(problem.values())
    if kind == "adafactor":  # knows no betas: its memory grows with the steps
        assert same(ends[0], ends[2])
    else:
        assert not same(ends[0], ends[2])
    assert not same(ends[0], ends[1])


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    problem = Problem()
    optimizer = make_optimizer(problem.groups(1e-3), config("muon"))
    problem.train(optimizer, range(1))
    names = {id(parameter): name for name, parameter in problem.parameters.items()}
    by = {names[id(p)]: "momentum_buffer" in entries for p, entries in optimizer.state.items()}
    assert by == {"down": True, "up": True, "conv": False, "scale": False, "text.down": True, "text.up": True}


def test_muon_steps_are_as_long_as_those_of_adamw() -> None:
    lengths = {}
    for kind in ("muon", "adamw"):
        weight = nn.Parameter(torch.zeros(16, 640))
        optimizer = make_optimizer([ParamGroup("unet", [weight], 1e-3)], config(kind))
        weight.grad = torch.randn(16, 640, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        lengths[kind] = weight.detach().square().mean().sqrt().item()
    assert 0.1 < lengths["muon"] / lengths["adamw"] < 1.5  # 0.2 in theory; without the scaling 0.04


# --- Prodigy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_prodigy_of_equal_rates_is_the_package_itself(rate: float) -> None:
    from prodigyopt import Prodigy

    problem, plain = Problem(), Problem()
    ours = make_optimizer(problem.groups(rate), config("prodigy", d_coef=2.0, weight_decay=0.01))
    theirs = Prodigy(
        plain.parameters.values(), lr=rate, weight_decay=0.01, d_coef=2.0, use_bias_correction=True,
        safeguard_warmup=True, decouple=True,
    )  # fmt: skip
    for _ in range(40):
        for one, optimizer in ((problem, ours), (plain, theirs)):
            one.loss().backward()
            optimizer.step()
            optimizer.zero_grad()
    # The order of the parameters differs between one group and two, and with it the rounding of two sums.
    for name, value in problem.values().items():
        assert torch.allclose(value, plain.parameters[name], rtol=1e-4, atol=1e-6)
    assert set_rate(ours, 1.0)["unet"] == pytest.approx(theirs.param_groups[0]["d"] * rate, rel=1e-4)


def test_prodigy_of_unequal_rates_is_the_package_in_scaled_coordinates() -> None:
    """x = 4 u: what plain Prodigy does to u with the loss as a function of u is what ours does to x."""
    from prodigyopt import Prodigy

    problem, scaled = Problem(), Problem()
    ours = make_optimizer(problem.groups(1.0, 4.0), config("prodigy", weight_decay=0.02))
    text = [parameter for name, parameter in scaled.parameters.items() if name.startswith("text")]
    with torch.no_grad():
        for parameter in text:
            parameter.div_(4)
    theirs = Prodigy(
        list(scaled.parameters.values()), lr=1.0, weight_decay=0.02, use_bias_correction=True, safeguard_warmup=True
    )
    for _ in range(40):
        problem.loss().backward()
        ours.step()
        ours.zero_grad()
        with torch.no_grad():
            for parameter in text:
                parameter.mul_(4)
        scaled.loss().backward()
        with torch.no_grad():
            for parameter in text:
                parameter.div_(4)
                parameter.grad.mul_(4)
        theirs.step()
        theirs.zero_grad()
    for name, value in problem.values().items():
        factor = 4 if name.startswith("text") else 1
        assert torch.allclose(value, factor * scaled.parameters[name], rtol=1e-3, atol=1e-5)
    rates = set_rate(ours, 0.5)
    assert rates["text_encoder"] == pytest.approx(4 * rates["unet"])
    assert rates["unet"] == pytest.approx(0.5 * theirs.param_groups[0]["d"], rel=1e-3)


@pytest.mark.parametrize("kind", PRODIGIES)
def test_parts_share_one_found_rate_and_keep_the_ratio_of_the_settings(kind: str) -> None:
    problem = Problem()
    optimizer = make_optimizer(problem.groups(1.0, 0.25), config(kind))
    problem.train(optimizer, range(100), noise=0)
    rates = set_rate(optimizer, 1.0)
    assert rates["unet"] > 1e-4 and rates["text_encoder"] == pytest.approx(rates["unet"] / 4)


@pytest.mark.parametrize("kind", PRODIGIES)
def test_prodigy_tells_the_rate_it_found_and_d_coef_scales_it(kind: str) -> None:
    found = []
    for d_coef in (0.5, 2.0):
        problem = Problem()
        optimizer = make_optimizer(problem.groups(1.0), config(kind, d_coef=d_coef))
        assert set_rate(optimizer, 1.0)["unet"] < 1e-5
        problem.train(optimizer, range(120), noise=0)
        found.append(set_rate(optimizer, 1.0)["unet"])
    assert 1e-3 < found[0] < found[1] < 0.2


def test_prodigy_goes_on_calmly_when_the_rates_are_changed_between() -> None:
    """What it remembers is taken to the new coordinates: its found rate, which only grows, does not leap."""
    problem = Problem()
    optimizer = make_optimizer(problem.groups(1.0), config("prodigy"))
    problem.train(optimizer, range(60))
    before = set_rate(optimizer, 1.0)["unet"]
    for group in optimizer.param_groups[1:]:
        group["relative"], group["base_lr"] = 16.0, 16.0
    place = optimizer.state[problem.parameters["text.down"]]["p0"].clone()
    problem.train(optimizer, range(60, 62))
    assert torch.allclose(optimizer.state[problem.parameters["text.down"]]["p0"], place / 16)
    assert set_rate(optimizer, 1.0)["unet"] < 1.5 * before


# --- schedule-free ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_looking_at_the_averaged_weights_changes_nothing(kind: str, dtype: torch.dtype) -> None:
    ends = []
    for looks in (False, True):
        problem = Problem(dtype)
        optimizer = make_optimizer(problem.groups(RATES[kind]), config(kind))
        for step in range(8):
            problem.train(optimizer, range(step, step + 1))
            if looks:
                trained = problem.values()
                with averaged(optimizer), averaged(optimizer):
                    assert same(trained, problem.values()) == (kind not in SCHEDULE_FREE or step == 0) or step < 2
                assert same(trained, problem.values())
        ends.append(problem.values())
    assert same(*ends)


@pytest.mark.parametrize("kind", sorted(SCHEDULE_FREE))
def test_the_averaged_weights_are_the_mean_between_the_fast_and_the_slow(kind: str) -> None:
    """y = (1 - beta) z + beta x, so x = (y - (1 - beta) z) / beta (arXiv 2405.15682)."""
    problem = Problem()
    optimizer = make_optimizer(problem.groups(RATES[kind]), config(kind))
    problem.train(optimizer, range(30))
    weight = problem.parameters["up"]
    y, z = weight.detach().clone(), optimizer.state[weight]["z"]
    with averaged(optimizer):
        assert torch.allclose(weight, (y - 0.1 * z) / 0.9, atol=1e-6)
        assert not torch.equal(weight, y)


@pytest.mark.parametrize("kind", sorted(SCHEDULE_FREE))
def test_schedule_free_without_its_first_beta_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=r"optimizer\.betas"):
        make_optimizer(Problem().groups(1.0), config(kind, betas=(0.0, 0.9)))


# --- rounding by chance -----------------------------------------------------------------------------------------------


def test_the_mean_of_many_roundings_is_the_value() -> None:
    values = torch.randn(64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 64)
    chance = torch.Generator().manual_seed(1)
    rounded = torch.stack([round_stochastically(values, chance).double() for _ in range(4000)])
    gap = (values.abs() / 128).double()  # at most one unit in the last place of bfloat16
    assert torch.all((rounded.mean(0) - values).abs() < 5 * gap / 4000**0.5)
    below, above = rounded.min(0).values, rounded.max(0).values
    assert torch.all((below <= values) & (above >= values) & (above - below <= gap))


def test_what_bfloat16_holds_is_left_as_it_is() -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, float("inf"), float("-inf"), 1e38, 2.0**-130]).bfloat16()
    rounded = round_stochastically(values.float(), torch.Generator().manual_seed(0))
    assert torch.equal(rounded.view(torch.int16), values.view(torch.int16))
    every_nan = torch.tensor([0x7FC00000, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    assert round_stochastically(every_nan, torch.Generator()).isnan().all()


def test_steps_too_small_for_bfloat16_arrive_on_average() -> None:
    """A weight of 1 and steps of 1e-4: plain bfloat16 never leaves 1, as its next numbers are 0.996 and 1.008."""
    plain, kept = (nn.Parameter(torch.ones(4096, dtype=torch.bfloat16)) for _ in range(2))
    lossy = torch.optim.SGD([plain], lr=1e-4)
    sgd = torch.optim.SGD([{"params": [kept], "lr": 1e-4}])
    rounding = StochasticBF16(sgd, seed=0)
    for _ in range(100):
        for parameter, optimizer in ((plain, lossy), (kept, rounding)):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    assert torch.all(plain == 1)
    assert kept.float().mean().item() == pytest.approx(0.99, abs=5e-4)
    assert kept.float().std() < 0.01  # each weight has its own chance in each step: 0.006, else 0.06


def test_rounding_is_a_function_of_seed_and_step() -> None:
    ends = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        problem = Problem(torch.bfloat16)
        problem.train(make_optimizer(problem.groups(1e-3), config("adamw"), seed=seed), range(3))
        ends[name] = problem.values()
    assert same(ends["one"], ends["again"]) and not same(ends["one"], ends["other"])


def test_between_steps_nothing_but_the_optimizers_memory_is_in_32_bits() -> None:
    problem = Problem(torch.bfloat16)
    places = {name: parameter.data_ptr() for name, parameter in problem.parameters.items()}
    optimizer = make_optimizer(problem.groups(1e-2), config("adamw"))
    assert isinstance(optimizer, StochasticBF16)
    problem.train(optimizer, range(2))
    for name, parameter in problem.parameters.items():
        assert parameter.dtype == torch.bfloat16 and parameter.data_ptr() == places[name] and parameter.grad is None
        assert optimizer.state[parameter]["exp_avg"].dtype == torch.float32


def test_a_step_that_fails_leaves_the_parameters_in_16_bits() -> None:
    problem = Problem(torch.bfloat16)
    optimizer = make_optimizer(problem.groups(1e-2), config("adamw"))
    problem.loss().backward()
    optimizer.param_groups[0]["betas"] = None
    with pytest.raises(TypeError):
        optimizer.step()
    assert all(parameter.dtype == torch.bfloat16 for parameter in problem.parameters.values())
