"""Drawing pictures: with the model in training, and as a job over LoRA files: `lora_studio.engine.sampling:sample`.

The job loads the saved files as everyone else does: plain LoRA files through diffusers' load_lora_weights, the kinds it
does not know (LoHa, LoKr and so on) through our own reading of the file. What is tested is what is handed out.
"""

import contextlib
import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_studio.core.errors import UserError
from lora_studio.core.files import atomic_path
from lora_studio.core.jobs import JobContext
from lora_studio.core.progress import FileWritten, Note, Phase, Progress
from lora_studio.engine import hub
from lora_studio.engine.checkpoint import even_alphas, load_lora
from lora_studio.engine.config import BaseConfig, SampleJob, SampleRequest
from lora_studio.engine.families import open_family
from lora_studio.engine.families.base import AS_IT_SAYS, Family
from lora_studio.engine.memory import is_oom
from lora_studio.engine.prompts import chunks_for

PLAIN = (".lora_down.weight", ".lora_up.weight", ".alpha")  # endings of all that load_lora_weights reads right


def sample(config: dict[str, Any], job: JobContext) -> dict[str, Any]:
    """Draw all pictures of `config` (a SampleJob) that do not exist yet. Returns a summary."""
    wanted = SampleJob.load(config)
    missing = [request for request in wanted.requests if not _path(request, job).exists()]
    total = len(wanted.requests)
    done = total - len(missing)
    job.report(Phase("load", "Loading the base model"))
    job.report(Progress(done, total, "pictures"))
    failed: list[dict[str, str]] = []
    if missing:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        family = open_family(hub.at_hand(wanted.base, job.report), device, dtype, wanted.settings)
        drawer = Drawer(family)
        job.report(Phase("sample", f"Drawing {len(missing)} pictures"))
        for lora, requests in groupby(sorted(missing, key=_order), key=lambda request: request.lora or ""):
            chosen = list(requests)
            if job.should_stop():
                break
            try:
                drawer.use(Path(lora) if lora else None)
            except UserError as error:
                failed.append({"lora": Path(lora).name, "reason": str(error)})
                job.report(Note(str(error), "warning"))
                continue
            for batch in drawer.batches(chosen, wanted.batch_size):
                if job.should_stop():
                    break
                pictures = drawer.draw(batch, job)
                for request, picture in zip(batch, pictures, strict=False):
                    _save(request, picture, job, 0, 0)
                done += len(pictures)
                job.report(Progress(done, total, "pictures"))
    if failed and not done:
        raise UserError(failed[0]["reason"])
    return {"drawn": done, "total": total, "failed": failed}


def draw_with(family: Family, requests: list[SampleRequest], job: JobContext, step: int, epoch: int) -> None:
    """Draw with the model as it stands in memory, adapter and all; for the trainer.

    Weights, training modes, chance and the choice of parts in memory are afterwards as before, whatever goes wrong.
    """
    before = [name for name in _names(family) if family.loaded(name)]
    try:
        drawer = Drawer(family)
        for batch in drawer.batches(requests, 4):
            for request, picture in zip(batch, drawer.draw(batch, job), strict=False):
                _save(request, picture, job, step, epoch)
    finally:
        for name in _names(family):
            if name not in before:
                family.release(name)


def sample_images(base: Path, requests: list[SampleRequest], config: BaseConfig = AS_IT_SAYS) -> Iterator[Image.Image]:
    """The pictures of `requests` in order, drawn one by one on the CPU; for scripts and tests."""
    drawer = Drawer(open_family(base, torch.device("cpu"), torch.float32, config))
    for request in requests:
        drawer.use(Path(request.lora) if request.lora else None)
        yield drawer.draw([request])[0]


@contextlib.contextmanager
def undisturbed(family: Family) -> Iterator[None]:
    """Inside, all parts are in evaluation; afterwards training modes and all chance are as before."""
    modules = [module for name in _names(family) if family.loaded(name) for module in family.part(name).modules()]
    modes = [module.training for module in modules]
    own, numpys = random.getstate(), np.random.get_state()
    devices = [family.device] if family.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            random.setstate(own)
            np.random.set_state(numpys)


class Drawer:
    """A pipeline over one base, with at most one LoRA in it."""

    def __init__(self, family: Family) -> None:
        self.family = family
        with undisturbed(family):  # loading weights draws from the common chance
            self.pipeline = family.pipeline("ddim")
        self.lora: Path | None = None
        self._special: Mapping[str, torch.Tensor] | None = None
        """Tensors of the present LoRA where it is of a kind that diffusers does not know."""
        self._applied: Any = None

    def use(self, lora: Path | None) -> None:
        """Take the present LoRA out and put `lora` in. Raises UserError when it cannot be used with this base."""
        if lora == self.lora:
            return
        self._take_out()
        if lora is None:
            return
        tensors, _ = load_lora(lora)
        try:
            if all(name.endswith(PLAIN) for name in tensors):
                self.pipeline.load_lora_weights(even_alphas(tensors), adapter_name="lora")
            else:
                self._apply(tensors, 1.0)
        except UserError as error:
            raise UserError(f"{lora.name}: {error.message}", error.remedy) from error
        except (ValueError, RuntimeError, KeyError) as error:
            self.pipeline.unload_lora_weights()
            if is_oom(error):
                raise
            text = " ".join(str(error).split())[:200]
            raise UserError(
                f"{lora.name} does not fit the base {self.family.metadata()['ss_sd_model_name']} ({text}).",
                "Use the base that it was trained on.",
            ) from error
        self.lora = lora

    def _take_out(self) -> None:
        if self._applied is not None:
            self._applied.remove()
        elif self.lora is not None:
            self.pipeline.unload_lora_weights()
        self.lora = self._special = self._applied = None

    def _apply(self, tensors: Mapping[str, torch.Tensor], strength: float) -> None:
        from lora_studio.engine.adapters.apply import apply_file  # here, for only these kinds need it

        self._applied = apply_file(self.pipeline, tensors, strength)
        self._special = tensors

    def _set_strength(self, strength: float) -> None:
        if self._special is not None:
            self._applied.remove()
            self._apply(self._special, strength)
        elif self.lora is not None:
            self.pipeline.set_adapters(["lora"], [strength])

    def batches(self, requests: Iterable[SampleRequest], size: int) -> Iterator[list[SampleRequest]]:
        """Requests in groups that can be drawn at once: alike in all but prompt and seed, and in length of text."""

        def alike(request: SampleRequest) -> tuple[Any, ...]:
            longest = max(self.family.num_tokens([request.prompt, request.negative], weighted=True))
            return (*_shared(request), chunks_for(longest))

        for _, group in groupby(requests, key=alike):
            found = list(group)
            for start in range(0, len(found), size):
                yield found[start : start + size]

    @torch.no_grad()
    def draw(self, requests: list[SampleRequest], job: JobContext | None = None) -> list[Image.Image]:
        """Pictures for requests of one batch; none when a stop came in between.

        Each picture's noise comes from a CPU generator of its own seed, so it does not depend on the device or on
        the company it is drawn in.
        """
        first = requests[0]
        with undisturbed(self.family):
            self._set_strength(first.strength)
            self.pipeline.scheduler = self._sampler(first)
            stopped = False

            def watch(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
                nonlocal stopped
                if job is not None and job.should_stop():
                    stopped = pipeline._interrupt = True
                return values

            latents = self.pipeline(
                **self.family.conditions([request.prompt for request in requests], first.negative, first.clip_skip),
                num_inference_steps=first.num_steps,
                guidance_scale=first.guidance,
                width=first.width,
                height=first.height,
                generator=[torch.Generator().manual_seed(request.seed) for request in requests],
                callback_on_step_end=watch,
                output_type="latent",
            ).images
            return [] if stopped else [self._picture(one) for one in latents.split(1)]

    def _sampler(self, request: SampleRequest) -> Any:
        sampler = self.family.sampler(request.sampler)
        grid = sampler.config.get("original_inference_steps")  # of lcm, which picks its steps from a coarse grid
        if grid is not None and grid < request.num_steps:
            sampler.register_to_config(original_inference_steps=request.num_steps)
        return sampler

    def _picture(self, latents: torch.Tensor) -> Image.Image:
        """One picture's latents (1, C, h, w), decoded alone to spare memory."""
        pixels = self.family.decode_images(latents)
        return self.pipeline.image_processor.postprocess(pixels, output_type="pil")[0]


def _names(family: Family) -> tuple[str, ...]:
    return ("unet", "vae", *family.text_parts)


def _order(request: SampleRequest) -> tuple[Any, ...]:
    return (request.lora or "", *_shared(request))


def _shared(request: SampleRequest) -> tuple[Any, ...]:
    """What pictures of one batch have in common."""
    names = ("strength", "negative", "width", "height", "num_steps", "guidance", "sampler", "clip_skip")
    return tuple(getattr(request, name) for name in names)


def _path(request: SampleRequest, job: JobContext) -> Path:
    return job.folder / request.path  # an absolute path stays as it is


def _save(request: SampleRequest, picture: Image.Image, job: JobContext, step: int, epoch: int) -> None:
    path = _path(request, job)
    info = PngInfo()
    lora = f", LoRA: {Path(request.lora).stem} x {request.strength:g}" if request.lora else ""
    size = f"Size: {request.width}x{request.height}"
    lines = [request.prompt, f"Negative prompt: {request.negative}"] if request.negative else [request.prompt]
    lines.append(
        f"Steps: {request.num_steps}, Sampler: {request.sampler}, CFG scale: {request.guidance:g}, "
        f"Seed: {request.seed}, {size}{lora}"
    )
    info.add_itxt("parameters", "\n".join(lines))
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=info)
    shown = path.relative_to(job.folder) if path.is_relative_to(job.folder) else path
    about = {"prompt": request.prompt, "seed": request.seed, "strength": request.strength}
    job.report(FileWritten(str(shown), "sample", step, epoch, about))
