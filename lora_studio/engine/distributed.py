"""Several devices and machines: one process for each device, each with its own pictures and the same adapter.

The gradients of a step are averaged over all pictures of all processes, so that `size` processes with batch b learn
what one process with batch `size` * b would. On one machine the training job starts the processes itself (`launch`);
started by torchrun or `accelerate launch`, on one machine or many, it takes the place that it is given.
"""

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.core.jobs import Follower, JobContext, end_as_failed
from lora_studio.core.settings import SettingsError

BACKENDS = {"cuda": "nccl", "xpu": "xccl"}  # elsewhere gloo
# The others wait while the first saves, samples or is paused by the user: a wait is no fault. The end of a process is
# noticed otherwise, by the parent.
PATIENCE = timedelta(days=7)
NOTICE = 10.0  # seconds for the leader to notice by itself that another process has failed
GRACE = 2.0  # seconds for the other processes to tell their errors after the first has failed


@dataclass(frozen=True)
class World:
    """This process's place among all."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this process computes."""

    @property
    def leads(self) -> bool:
        """Whether this process reports, saves and samples for all."""
        return self.rank == 0


# --- what a step needs ------------------------------------------------------------------------------------------------


@torch.no_grad()
def sum_gradients(parameters: list[nn.Parameter], world: World, scale: float = 1.0) -> None:
    """Put the sum over all processes of `scale` * gradient in the place of each gradient; one all-reduce in fp32.

    A parameter that no process has a gradient for keeps none.
    """
    if world.size == 1:
        if scale != 1.0:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], scale)
        return
    device = parameters[0].device
    used = torch.tensor([parameter.grad is not None for parameter in parameters], device=device).float()
    zero = (torch.zeros_like(p, dtype=torch.float32) if p.grad is None else p.grad.float() for p in parameters)
    flat = torch.cat([torch.cat([grad.flatten() for grad in zero]).mul_(scale), used])
    dist.all_reduce(flat)
    used = flat[-len(parameters) :].tolist()
    for parameter, grad, count in zip(parameters, flat.split([p.numel() for p in parameters] + [len(used)]), used):  # noqa: B905
        parameter.grad = grad.view_as(parameter).to(parameter.dtype) if count else None


def shares(counts: list[int], world: World) -> list[float]:
    """This process's share of the pictures of each batch of a step, from how many it has: 3 of 4 is 0.75.

    The sum over processes of share * mean loss is the mean over all pictures: what a step is to take, also with
    several batches (accumulation) of uneven size.
    """
    if world.size == 1:
        return [1.0 for _ in counts]
    own = torch.tensor(counts, dtype=torch.float32, device=world.device)
    total = own.clone()
    dist.all_reduce(total)
    return (own / total.clamp_min(1)).tolist()


def average_gradients(parameters: list[nn.Parameter], world: World, count: int = 1) -> None:
    """The mean gradient over all processes, each counted as its number of pictures."""
    sum_gradients(parameters, world, shares([count], world)[0])


def mean(value: float | Tensor, world: World, count: int = 1) -> float:
    """The mean of a number over all processes, each counted as its number of pictures."""
    if world.size == 1:
        return float(value)
    pair = torch.tensor([float(value) * count, count], dtype=torch.float64, device=world.device)
    if not count:
        pair.zero_()  # the mean of nothing is NaN and must not count
    dist.all_reduce(pair)
    return (pair[0] / pair[1]).item()


@torch.no_grad()
def broadcast_parameters(tensors: Iterable[Tensor], world: World) -> None:
    """Give all processes the leader's values, e.g. once before the first step."""
    if world.size > 1:
        for tensor in tensors:
            value = tensor.detach().to(world.device)  # gloo and nccl each know one kind of device
            dist.broadcast(value, src=0)
            tensor.copy_(value)


def agree(value: Any, world: World) -> Any:
    """The leader's value on all processes: a stop flag, the commands given, the step to resume from."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=world.device)
    return box[0]


def barrier(world: World) -> None:
    """Wait until all processes are here."""
    if world.size > 1:
        dist.all_reduce(torch.zeros(1, device=world.device))


@contextlib.contextmanager
def leader_first(world: World) -> Iterator[None]:
    """What stands inside is done by the leader before all others."""
    if not world.leads:
        barrier(world)
    yield
    if world.leads:
        barrier(world)


# --- starting the processes -------------------------------------------------------------------------------------------


def number_of_processes(devices: int, kind: str) -> int:
    """How many processes the setting run.devices means on devices of `kind`; 0 takes all there are."""
    if kind == "cpu":
        if devices > 1:
            raise UserError(f"run.devices {devices}: there is no GPU here to share the work with.", "Set it to 1.")
        return 1
    there = torch.accelerator.device_count()
    if devices > there:
        raise UserError(f"run.devices is {devices}, but there are {there} devices here.", "Lower it, or 0 for all.")
    return devices or there


def launched() -> bool:
    """Whether torchrun or `accelerate launch` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def launch(function: Callable[..., Any], config: Any, context: JobContext, size: int, kind: str) -> Any:
    """Run `function(config, context, world)` in all processes of the job; returns the leader's answer.

    `function` stands at the top of a module, as its name is all that travels to another process.
    """
    if launched():
        return run_launched(function, config, context)
    if size == 1:
        return function(config, context, World(device=torch.device(kind)))
    return run_world(in_job, (function, config, str(context.folder)), size, kind)


def in_job(world: World, function: Callable[..., Any], config: Any, folder: str) -> Any:
    """What each process of a job does: its function, with the context that its place calls for."""
    return function(config, (JobContext if world.leads else Follower)(Path(folder)), world)


def run_launched(function: Callable[..., Any], config: Any, context: JobContext) -> Any:
    """This process's part of a job that somebody started in several processes. What goes wrong in another process the
    leader raises as its own."""
    own = error_file(context.folder, int(os.environ["RANK"]))
    own.unlink(missing_ok=True)  # of an earlier start
    world, over = join_launched(), threading.Event()
    try:
        barrier(world)  # from here on the folder holds errors of this start alone
        if world.leads:
            threading.Thread(target=_heed_followers, args=(context, world, over), daemon=True).start()
        answer = function(config, context if world.leads else Follower(context.folder), world)
        barrier(world)  # nobody leaves while others still need it
    except Exception as error:
        lost = is_lost(error)
        if not world.leads:
            if not lost:
                write_error(own, error)
            raise
        if not lost:
            raise
        cause = error_of_followers(context.folder, world, GRACE)
        raise cause or UserError(
            "Another process of this run has ended without a word.",
            "Often its machine went down or ran out of memory: look at its own output, then resume the run.",
        ) from error
    finally:
        over.set()
        leave()
    return answer


def is_lost(error: BaseException) -> bool:
    """Whether an error only says that another process is not there any more."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def error_file(folder: Path, rank: int) -> Path:
    """Where a process that is not the first leaves its error, for the first to tell it."""
    return folder / f"error-{rank}.json"


def write_error(path: Path, error: BaseException) -> None:
    """Leave an error for the leader. Where that cannot be written, it stands in this process's own output."""
    if isinstance(error, UserError):
        told = {"message": error.message, "remedy": error.remedy}
    elif isinstance(error, SettingsError):
        told = {"problems": list(error.problems)}
    else:
        text = "".join(traceback.format_exception(error))
        told = {"text": f"{type(error).__name__}: {error}", "details": text}
    with contextlib.suppress(OSError):
        write_text(path, json.dumps({"time": time.time(), **told}))


def error_of_followers(folder: Path, world: World, patience: float = 0.0) -> Exception | None:
    """The first error that another process has left, waiting up to `patience` seconds for it to be seen (a shared
    folder may be slow to show it)."""
    end = time.monotonic() + patience
    while True:
        found = [told for rank in range(1, world.size) if (told := _read_error(error_file(folder, rank)))]
        if found or time.monotonic() >= end:
            break
        time.sleep(0.1)
    if not found:
        return None
    told = min(found, key=lambda one: one["time"])
    if "message" in told:
        return UserError(told["message"], told["remedy"])
    if "problems" in told:
        return SettingsError(told["problems"])
    error = RuntimeError(told["text"])
    error.add_note(f"In another process:\n{told['details']}")
    return error


def _read_error(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _heed_followers(context: JobContext, world: World, over: threading.Event) -> None:
    """End the leader when another process has failed and the leader does not notice: on GPUs it may wait for ever for
    what the other would have sent."""
    while (error := error_of_followers(context.folder, world)) is None:
        if over.wait(1):
            return
    if over.wait(NOTICE):
        return
    traceback.print_exception(error)
    end_as_failed(context, error)
    os._exit(1)


def launched_sharding() -> tuple[bool, list[str]]:
    """Whether `accelerate launch` is set up to spread the base over the processes, and what to say of its setup."""
    if not launched():
        return False, []
    ours = "torch's own FSDP2 does it for the frozen base, as with run.shard"
    if _accelerate_uses("FSDP"):
        strategy = os.environ.get("FSDP_SHARDING_STRATEGY", "")
        if strategy in ("NO_SHARD", "3"):
            return False, ["accelerate is set up for FSDP with NO_SHARD: the base stays whole on each device."]
        offload = os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() in ("true", "1")
        more = [" Its offloading to main memory is not used."] if offload else []
        return True, [f"accelerate is set up for FSDP: {ours}.{''.join(more)}"]
    if _accelerate_uses("DEEPSPEED"):
        stage = _deepspeed_stage()
        if stage >= 3:
            return True, [f"accelerate is set up for DeepSpeed stage {stage}: {ours}; DeepSpeed itself is not used."]
        text = f"accelerate is set up for DeepSpeed stage {stage}, which would share out what the optimizer remembers"
        return False, [f"{text}: a few megabytes for a LoRA. The run trains without it, the result is the same."]
    return False, []


def _accelerate_uses(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("true", "1")


def _deepspeed_stage() -> int:
    """From accelerate's words or from DeepSpeed's own config file. Raises UserError where that cannot be read."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    try:
        if file and file != "none":
            return int(json.loads(Path(file).read_text("utf-8")).get("zero_optimization", {}).get("stage", 0))
        return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"The stage of DeepSpeed cannot be read from accelerate's setup ({error}).",
            "Run `accelerate config` again, or choose multi-GPU without DeepSpeed.",
        ) from error


def join_launched() -> World:
    """Take the place that torchrun or accelerate gave, with accelerate's choice of device and backend."""
    if _accelerate_uses("MEGATRON_LM"):
        raise UserError(
            "accelerate is set up for Megatron-LM, which trains models of its own kinds only.",
            "Run `accelerate config` again and choose multi-GPU without it, or FSDP to spread the base.",
        )
    from accelerate import PartialState  # takes seconds; most runs have one process

    on_cpu = _accelerate_uses("CPU") or not torch.accelerator.is_available()
    deepspeed = os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # else accelerate would load that package
    try:
        state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    finally:
        if deepspeed is not None:
            os.environ["ACCELERATE_USE_DEEPSPEED"] = deepspeed
    return World(state.process_index, state.num_processes, state.device)


def launched_precision() -> str:
    """The precision that `accelerate launch` asks for, in the words of run.precision; empty when it says nothing."""
    wish = os.environ.get("ACCELERATE_MIXED_PRECISION", "") if launched() else ""
    return wish if wish in ("fp16", "bf16") else ""


def run_world(function: Callable[..., Any], args: tuple[Any, ...], size: int, kind: str = "cpu") -> Any:
    """Run `function(world, *args)` in `size` new processes on this machine; returns what the first one returned.

    The error of the process that failed first ends all and is raised here, once.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # port 0: any that is free
    spawn = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked child
    processes, lines = [], []
    for rank in range(size):
        ours, theirs = spawn.Pipe()
        plan = (rank, size, kind, store.port, theirs, function, args)
        process = spawn.Process(target=_process, args=plan, name=f"process {rank + 1} of {size}")
        process.start()
        theirs.close()
        processes.append(process)
        lines.append(ours)
    try:
        return _watch(processes, lines)
    finally:
        for process in processes:
            process.kill()  # they do not heed SIGTERM
        for process in processes:
            process.join()


def leave() -> None:
    """Take leave of the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass
class _Failure:
    time: float
    error: BaseException


def _watch(processes: list[BaseProcess], lines: list[Connection]) -> Any:
    """Wait for all to end well, or for the first to fail. A process that ends without a word was killed."""
    answers: dict[int, Any] = {}
    failures: list[_Failure] = []
    waiting = dict(zip(lines, range(len(lines)), strict=True))
    deadline = None
    while waiting and (deadline is None or time.monotonic() < deadline):
        rest = None if deadline is None else max(deadline - time.monotonic(), 0)
        for line in multiprocessing.connection.wait(list(waiting), rest):
            rank = waiting.pop(line)
            try:
                told = line.recv()
            except EOFError:
                processes[rank].join(GRACE)
                what = f"{processes[rank].name} was ended from outside (exit code {processes[rank].exitcode})."
                # before all others: what they tell is only that they lost it
                told = _Failure(0.0, UserError(what, "Often the machine ran out of memory. Resume the run."))
            if isinstance(told, _Failure):
                failures.append(told)
                deadline = deadline or time.monotonic() + GRACE
            else:
                answers[rank] = told
    if failures:
        raise min(failures, key=lambda failure: failure.time).error
    return answers[0]


def _process(
    rank: int, size: int, kind: str, port: int, line: Connection, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    """The life of one process."""
    # A shutdown sends it to all processes of a job; the parent hears it for all, and its stop is read by the leader.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(line,), daemon=True).start()
    try:
        if kind == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
        else:
            torch.accelerator.set_device_index(rank)
        device = torch.device(kind) if kind == "cpu" else torch.device(kind, rank)
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
        dist.init_process_group(BACKENDS.get(kind, "gloo"), store=store, rank=rank, world_size=size, timeout=PATIENCE)
        answer = function(World(rank, size, device), *args)
        barrier(World(rank, size, device))  # nobody leaves while others still need it
        # pickled whole: multiprocessing's own way leaves tensors with this process, which may be gone too soon
        line.send_bytes(pickle.dumps(answer if rank == 0 else None))
    except BaseException as error:  # the edge of the process: all is passed on to the parent
        line.send(_Failure(time.time(), _portable(error, rank)))
        os._exit(1)  # the others may never answer a farewell
    leave()


def _portable(error: BaseException, rank: int) -> BaseException:
    """The error as it can travel to the parent: what a user can mend as it is, else its words, with its traceback as a
    note."""
    if not isinstance(error, (UserError, SettingsError)):
        error = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    error.add_note(f"In process {rank + 1}:\n{''.join(traceback.format_exception(error))}")
    return error


def _end_with_parent(line: Connection) -> None:
    """A process must not outlive the job: when the parent is gone, its end of the line closes."""
    try:
        line.recv()
    except (EOFError, OSError):
        os._exit(1)
