"""The training job: `lora_studio.engine.train:train`. Reads pictures, fills caches, puts the trainer together."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import torch

from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.core.jobs import JobContext
from lora_studio.core.progress import Note, Phase, Progress
from lora_studio.engine import cache
from lora_studio.engine.adapters import Adapter
from lora_studio.engine.buckets import StepPlan, steps_for
from lora_studio.engine.config import SampleRequest, TrainConfig, TrainJob
from lora_studio.engine.data import Picture, Sampler, read_dataset
from lora_studio.engine.families import open_family
from lora_studio.engine.families.base import Family
from lora_studio.engine.metadata import base_metadata
from lora_studio.engine.sampling import draw_with
from lora_studio.engine.state import newest_state
from lora_studio.engine.trainer import Trainer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(config: dict[str, Any], job: JobContext) -> dict[str, Any]:
    """Train a LoRA as `config` (a TrainJob) says, in the job's folder. Returns a summary."""
    start = time.monotonic()
    trainer = prepare(TrainJob.load(config), job)
    first = trainer.step
    trainer.run()
    trained = trainer.step - first
    seconds = time.monotonic() - start
    return {
        "steps": trainer.step,
        "total_steps": trainer.plan.steps,
        "steps_now": trained,
        "epochs": trainer.plan.epochs,
        "checkpoints": sorted(
            str(p.relative_to(job.folder)) for p in (job.folder / "checkpoints").glob("*.safetensors")
        ),
        "seconds": round(seconds, 2),
    }


def prepare(job: TrainJob, context: JobContext) -> Trainer:
    """Load, encode, attach: everything before the first step."""
    config = job.settings
    pictures = read_dataset(Path(job.dataset), config.data)
    sampler = Sampler(pictures, config)
    plan = steps_for([(*picture.size, picture.repeats) for picture in pictures], config)
    device, dtype, precision = choose_precision(config.run.precision)
    write_text(context.folder / "settings.json", json.dumps(config.to_dict(), indent=1))
    context.report(Phase("load", "Loading the base model"))
    family = open_family(Path(job.base), device, dtype)
    _warn_about(pictures, plan, config, family, context)
    latents = encode_pictures(sampler, config, family, Path(job.cache), context)
    family.release("vae")
    trains_text = config.optimizer.text_encoder_lr > 0
    texts = None if trains_text else frozen_texts(sampler, config, family, Path(job.cache), context)
    adapter = Adapter(family, config.adapter, trains_text, config.run.seed)
    if config.run.gradient_checkpointing:
        family.network.enable_gradient_checkpointing()
    family.network.train()
    trainer = Trainer(
        job=job,
        context=context,
        family=family,
        adapter=adapter,
        sampler=sampler,
        plan=plan,
        latents=latents,
        texts=texts,
        metadata=base_metadata(job, family, plan, sampler.training, precision),
        draw=sample_drawer(job, family, sampler.training, context),
        fingerprint=fingerprint(pictures),
    )
    if job.resume:
        resume(trainer, context)
    return trainer


def resume(trainer: Trainer, context: JobContext) -> None:
    """Take up the newest whole state, and say which."""
    state, damaged = newest_state(context.folder / "state")
    if damaged:
        context.report(Note(f"Damaged states were passed over: {', '.join(damaged)}.", "warning"))
    if state is None:
        context.report(Note("There is no whole state to resume from: training starts at the beginning.", "warning"))
    else:
        trainer.resume(state)


def choose_precision(wish: str) -> tuple[torch.device, torch.dtype, str]:
    """Device, number format of the frozen base, and its name. Raises UserError for what the device cannot do."""
    if torch.cuda.is_available():
        best = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        name = best if wish == "auto" else wish
        if name == "bf16" and best != "bf16":
            raise UserError("run.precision bf16 is not known to this GPU.", "Choose auto or fp16.")
        return torch.device("cuda"), DTYPES[name], name
    name = "fp32" if wish == "auto" else wish
    if name == "fp16":
        raise UserError("run.precision fp16 needs a GPU; there is none here.", "Choose auto, fp32 or bf16.")
    return torch.device("cpu"), DTYPES[name], name


def encode_pictures(
    sampler: Sampler, config: TrainConfig, family: Family, folder: Path, context: JobContext
) -> dict[tuple[str, bool], torch.Tensor]:
    """Latents of every picture, mirrored ones too where they are used, on the device."""
    wanted = [(picture, False) for picture in [*sampler.training, *sampler.held_out]]
    if config.data.flip:
        wanted += [(picture, True) for picture in sampler.training]
    context.report(Phase("cache", "Encoding the pictures"))
    found = cache.latents(wanted, family, folder, lambda done, total: context.report(Progress(done, total, "pictures")))
    return {name: value.to(family.device) for name, value in found.items()}


def frozen_texts(
    sampler: Sampler, config: TrainConfig, family: Family, folder: Path, context: JobContext
) -> cache.TextStates:
    """Text states of a frozen encoder. When captions never vary, all are made now and the encoder is let go."""
    if config.data.shuffle_tags or config.data.tag_dropout:
        return cache.TextStates(family, config.run.clip_skip, None)
    texts = cache.TextStates(family, config.run.clip_skip, folder)
    captions = sorted({picture.caption for picture in [*sampler.training, *sampler.held_out]})
    for start in range(0, len(captions), 16):
        texts(captions[start : start + 16])
        context.report(Progress(min(start + 16, len(captions)), len(captions), "captions"))
    if config.data.caption_dropout:
        texts([""])
    family.release("text_encoder")
    return texts


def sample_drawer(
    job: TrainJob, family: Family, pictures: list[Picture], context: JobContext
) -> Callable[[int, int], None]:
    """A function that draws the sample prompts with the model as it stands in memory."""
    config, settings = job.settings.sample, job.settings
    prompts = config.prompts or tuple(picture.caption for picture in pictures[:2])

    def draw(step: int, epoch: int) -> None:
        requests = [
            SampleRequest(
                path=f"samples/{step:08d}-{index}.png",
                prompt=prompt,
                negative=config.negative,
                seed=config.seed + index,
                width=config.width or settings.data.resolution,
                height=config.height or settings.data.resolution,
                num_steps=config.num_steps,
                guidance=config.guidance,
                sampler=config.sampler,
                clip_skip=settings.run.clip_skip,
            )
            for index, prompt in enumerate(prompts)
        ]
        draw_with(family, requests, context, step, epoch)
        family.release("vae")

    return draw


def fingerprint(pictures: list[Picture]) -> str:
    """SHA-256 over pictures, crops, repeats and captions."""
    facts = [(p.id, p.sha256, p.crop, p.repeats, p.caption) for p in pictures]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _warn_about(
    pictures: list[Picture], plan: StepPlan, config: TrainConfig, family: Family, context: JobContext
) -> None:
    """Say what is probably not meant, before the time is spent."""
    long = family.count_cut_off([picture.caption for picture in pictures])
    if long:
        context.report(
            Note(f"{long} captions are longer than the text encoder reads; their ends are cut off.", "warning")
        )
    small = [size for size, count in plan.buckets.items() if count < config.data.batch_size]
    if small:
        shapes = ", ".join(f"{width} x {height}" for width, height in small[:5])
        size = f"data.batch_size {config.data.batch_size}"
        text = f"Fewer pictures than {size} in shape {shapes}: these batches are smaller."
        context.report(Note(text))
