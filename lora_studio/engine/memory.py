"""What the machine can do and what a run takes of it: device and number format, saved memory, and the way out when
memory ends."""

import functools
import gc
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lora_studio.core.errors import UserError
from lora_studio.engine.config import RunConfig, TrainConfig
from lora_studio.engine.offload import big_blocks, offload_blocks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# From so many parameters a step is reliably faster in bf16 on a CPU that multiplies it. Measured on an EPYC with
# AVX512-BF16, one thread, time of bf16 over fp32: starter (7.5 M, its own shapes) 1.10 to 1.20; 10 M 0.83, 37 M 0.85,
# 82 M 0.79, 142 M 0.72, 220 M 0.69, SD 1.5 (860 M) 0.53. Below, what is won is not worth the rounding.
BF16_FROM = 30_000_000
# Of all activations, the share that selective checkpointing does not keep: half of them take 34 % of the forward pass
# of SD 1.5 to compute again, 50 % of SDXL's (counted with torch.utils.flop_counter at 512 and 1024 px).
SELECTIVE_SHARE = 0.5
COMPILED_SHAPES = 64  # torch compiles for 8 shapes of one function unless told otherwise
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "out_of_memory")
OUT_OF_MEMORY += ("memoryerror",)  # as the words of another process's error begin


# --- device and number format -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Precision:
    """Where and in which number format the frozen base is kept and computed."""

    device: torch.device
    dtype: torch.dtype
    name: str
    """`fp32`, `bf16` or `fp16`."""


def choose_precision(wish: str, num_parameters: int) -> Precision:
    """Device and number format for a network of `num_parameters`. Raises UserError for what the device cannot do."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    bf16 = knows_bf16(device)
    if device.type == "cpu":
        best = "bf16" if bf16 and num_parameters >= BF16_FROM else "fp32"
    elif device.type == "cuda":
        best = "bf16" if bf16 else "fp16"
    else:  # not measured: half precision only where it is sure to hold
        best = "bf16" if bf16 and device.type == "xpu" else "fp32"
    name = best if wish == "auto" else wish
    if name == "fp16" and device.type == "cpu":
        raise UserError("run.precision fp16 needs a GPU; there is none here.", "Choose auto, fp32 or bf16.")
    if name == "bf16" and not bf16 and device.type != "cpu":  # a CPU computes it in any case, some of them slowly
        raise UserError("run.precision bf16 is not known to this GPU.", "Choose auto or fp16.")
    return Precision(device, DTYPES[name], name)


def knows_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 itself, not by way of fp32."""
    if device.type == "cpu":
        return bool(CPU_BF16 & cpu_abilities())
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "xpu":
        return torch.xpu.is_bf16_supported()
    try:
        one = torch.ones(2, 2, dtype=torch.bfloat16, device=device)
        return bool((one @ one).isfinite().all())
    except (RuntimeError, TypeError):
        return False


CPU_BF16 = {"avx512_bf16", "amx_bf16"}


@functools.cache
def cpu_abilities() -> frozenset[str]:
    """What the processor can do: torch's list where this torch has one, else the kernel's."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # not in every torch that is supported here
    if ask is not None:
        return frozenset(name for name, has in ask().items() if has is True)
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


class Scaler:
    """Lifts losses before the backward pass of fp16, so that small gradients are not lost below its least number.

    The factor grows while gradients stay finite and shrinks when they do not; such a step is left out (as in mixed
    precision training, Micikevicius et al. 2018). All of it is in `state`, so that a resumed run goes on exactly.
    """

    GROWTH, BACKOFF, INTERVAL, LEAST = 2.0, 0.5, 2000, 2.0**-10

    def __init__(self, dtype: torch.dtype) -> None:
        """Does nothing for other formats than fp16."""
        self.enabled = dtype == torch.float16
        self.factor = 2.0**16 if self.enabled else 1.0
        self.good_steps = 0

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        return loss * self.factor if self.enabled else loss

    def unscale(self, parameters: list[nn.Parameter]) -> None:
        """Take the factor off the gradients again, before they are clipped."""
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.enabled and grads:
            torch._foreach_mul_(grads, 1 / self.factor)

    def update(self, finite: bool) -> bool:
        """After each step: whether the weights may be moved. False leaves the step out, which is no fault while the
        factor can still shrink (`exhausted`)."""
        if not self.enabled:
            return finite
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.factor *= self.BACKOFF
        elif self.good_steps == self.INTERVAL:
            self.factor, self.good_steps = self.factor * self.GROWTH, 0
        return finite

    @property
    def exhausted(self) -> bool:
        """Whether a gradient that is not finite cannot be the factor's doing any more."""
        return not self.enabled or self.factor < self.LEAST

    def state(self) -> dict[str, float]:
        """What resuming needs."""
        return {"factor": self.factor, "good_steps": self.good_steps}

    def load(self, state: dict[str, float]) -> None:
        """Go on from `state`."""
        if self.enabled and state:
            self.factor, self.good_steps = float(state["factor"]), int(state["good_steps"])


# --- the network ------------------------------------------------------------------------------------------------------


def prepare_network(
    network: nn.Module, run: RunConfig, device: torch.device, tell: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Make a network that holds its adapter ready for training as `run` says. Returns what was done, in words.

    `tell` is called later, when compiling fails on the way. Quantising is not done here: it comes before the adapter.
    """
    done = []
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # for what stays in fp32
        if any(isinstance(module, nn.Conv2d) for module in network.modules()):
            network.to(memory_format=torch.channels_last)  # on a CPU it changes nothing (measured: 0.99 of the time)
    if run.gradient_checkpointing != "off":
        done.append(use_checkpointing(network, selective=run.gradient_checkpointing == "selective"))
    count = min(run.offload_blocks, len(big_blocks(network)))
    if count and device.type != "cpu":
        offloaded = offload_blocks(network, count, device)
        done.append(f"{count} blocks ({offloaded.bytes / 2**30:.1f} GB) in main memory")
    elif run.offload_blocks:
        done.append("no offloading (there is no GPU)" if not count else "no offloading (all is in main memory here)")
    if run.compile and count and device.type != "cpu":
        done.append("not compiled (offloaded blocks change places in each step)")
    elif run.compile:
        compile_network(network, tell)
        done.append("compiled for each picture shape")
    return done


def describe(precision: Precision, done: list[str]) -> str:
    """What was chosen, in one sentence."""
    device = precision.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"Computing in {', '.join([f'{precision.name} on {name}', *done])}."


def use_checkpointing(network: nn.Module, selective: bool) -> str:
    """Compute activations a second time in the backward pass instead of keeping them; returns that in words.

    Selective measures the activations in the first forward pass, which keeps none, and from then on keeps those of the
    smaller units. Loss and gradients are the same in all cases.
    """
    units = {name: unit for name, unit in network.named_modules() if hasattr(unit, "gradient_checkpointing")}
    if not units:
        raise UserError(f"run.gradient_checkpointing is not possible with {type(network).__name__}.", "Set it to off.")
    for unit in units.values():
        unit._gradient_checkpointing_func = _compute_twice  # diffusers' and transformers' name
        unit.gradient_checkpointing = True
    if not selective:
        return "gradient checkpointing of all blocks"

    def choose(sizes: Counter[str]) -> None:
        for name in set(units) - largest(sizes, SELECTIVE_SHARE):
            units[name].gradient_checkpointing = False

    _measure_once(network, units, choose)
    return "gradient checkpointing of the largest blocks"


def largest(sizes: Counter[str], share: float) -> set[str]:
    """The fewest names that together hold at least `share` of all sizes."""
    found: set[str] = set()
    held = 0
    for name, size in sizes.most_common():
        if held >= share * sizes.total():
            break
        found.add(name)
        held += size
    return found


def _compute_twice(function: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    return checkpoint(function, *inputs, use_reentrant=False, **named)


def _measure_once(network: nn.Module, units: dict[str, nn.Module], choose: Callable[[Counter[str]], None]) -> None:
    """Give `choose` the size of what the modules inside each unit answer in the next training pass.

    A module counts for the innermost unit that it lies in.
    """
    sizes: Counter[str] = Counter()
    hooks: list[Any] = []

    def owner(name: str) -> str:
        while name and name not in units:
            name = name.rpartition(".")[0]
        return name

    def begin(*_: Any) -> None:
        if torch.is_grad_enabled() and len(hooks) == 2:
            for name, module in network.named_modules():
                if owner(name) and not any(True for _ in module.children()):
                    hooks.append(module.register_forward_hook(functools.partial(count, owner(name))))

    def count(name: str, _: nn.Module, __: Any, answer: Any) -> None:
        if isinstance(answer, Tensor):
            sizes[name] += answer.numel() * answer.element_size()

    def end(*_: Any) -> None:
        if sizes:
            for hook in hooks:
                hook.remove()
            choose(sizes)

    hooks += [network.register_forward_pre_hook(begin), network.register_forward_hook(end)]


def compile_network(network: nn.Module, tell: Callable[[str], None], backend: Any = "inductor") -> None:
    """Compile the training pass of `network`, once for each shape; other passes stay as they are, and so does the
    first, in which `use_checkpointing` may measure.

    Where compiling fails and the plain network does not, `tell` is told once and training goes on uncompiled.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(user_cache_path("LoRA Studio", appauthor=False) / "compile"))
    for name in ("recompile_limit", "cache_size_limit"):  # the newer and the older name
        if hasattr(torch._dynamo.config, name):
            setattr(torch._dynamo.config, name, COMPILED_SHAPES)
    plain = network.forward
    compiled = torch.compile(plain, dynamic=False, backend=backend)
    works, measured = True, False

    @functools.wraps(plain)
    def forward(*inputs: Any, **named: Any) -> Any:
        nonlocal works, measured
        if not (works and measured and torch.is_grad_enabled()):
            measured = measured or torch.is_grad_enabled()
            return plain(*inputs, **named)
        try:
            return compiled(*inputs, **named)
        except Exception as error:
            if is_oom(error):
                raise
            answer = plain(*inputs, **named)  # when this fails too, compiling is not to blame
            works = False
            reason = " ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2])[:200]
            tell(f"The network could not be compiled ({reason}); training goes on without.")
            return answer

    network.forward = forward


# --- when memory ends -------------------------------------------------------------------------------------------------


def is_oom(error: BaseException) -> bool:
    """Whether an error says that memory ended, of the GPU or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


def release_memory() -> None:
    """Give back what nobody holds any more. Call it outside of the `except` that caught the error: it holds much."""
    gc.collect()
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is not None:
        torch.get_device_module(device).empty_cache()


Rung = tuple[dict[str, Any], str]


def next_rung(config: TrainConfig, device: str = "cuda") -> Rung | None:
    """The mildest change of settings that saves more memory, and its words; None when nothing is left to save.

    `device` is a torch device type: some savings are for GPUs only.
    """
    return next((rung for saving in SAVINGS if (rung := saving(config, device)) is not None), None)


def _cache_text(config: TrainConfig, device: str) -> Rung | None:
    trained = config.optimizer.text_encoder_lr or config.optimizer.text_encoder_2_lr
    if trained or not (config.data.shuffle_tags or config.data.tag_dropout):
        return None
    changes = {"data.shuffle_tags": False, "data.tag_dropout": 0.0}
    return changes, "the tags keep their order, so that the text part can be put away"


def _checkpoint(config: TrainConfig, device: str) -> Rung | None:
    after = {"off": "selective", "selective": "full"}.get(config.run.gradient_checkpointing)
    if after is None:
        return None
    return {"run.gradient_checkpointing": after}, f"gradient checkpointing is {after}: slower, nothing else changes"


def _smaller_batches(config: TrainConfig, device: str) -> Rung | None:
    size, gathered = config.data.batch_size, config.run.gradient_accumulation
    part = next((part for part in range(size // 2, 0, -1) if size % part == 0), None)
    if part is None or gathered * size // part > 256:  # the most that the setting takes
        return None
    changes = {"data.batch_size": part, "run.gradient_accumulation": gathered * size // part}
    return changes, f"batches of {part} in place of {size}, {size // part} times as many gathered into a step"


def _small_optimizer(config: TrainConfig, device: str) -> Rung | None:
    if config.optimizer.kind != "adamw" or device != "cuda":
        return None
    return {"optimizer.kind": "adamw8bit"}, "the optimizer remembers in 8 bits"


def _spread(config: TrainConfig, device: str) -> Rung | None:
    run = config.run
    if run.devices == 1 or run.shard or run.offload_blocks or run.quantize != "none":
        return None
    return {"run.shard": True, "run.compile": False}, "each card keeps a part of the base only"


def _offload(config: TrainConfig, device: str) -> Rung | None:
    count = min(max(8, config.run.offload_blocks * 2), 64)
    if device == "cpu" or config.run.shard or config.run.offload_blocks == count:
        return None
    changes = {"run.offload_blocks": count, "run.compile": False}
    return changes, f"{count} blocks of the base wait in main memory: slower, nothing else changes"


def _quantize(config: TrainConfig, device: str) -> Rung | None:
    if config.run.quantize != "none" or config.run.shard:
        return None
    return {"run.quantize": "fp8"}, "the base is kept in 8 bits, a little less exact"


SAVINGS = (_checkpoint, _smaller_batches, _cache_text, _small_optimizer, _spread, _offload, _quantize)
