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


def train(config: dict[str, Any], job: JobContext) -> dict[str, Any]:
    """Train a LoRA as `config` (a TrainJob) says, in the job's folder, on as many devices as it asks for. Returns a
    summary."""
    return distributed.run(train_alone, config, job)


def train_alone(config: dict[str, Any], job: JobContext, world: World) -> dict[str, Any]:
    """The whole run as one of `world.size` processes sees it."""
    start = time.monotonic()
    trainer = prepare(TrainJob.load(config), job, world)
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


def prepare(job: TrainJob, context: JobContext, world: World | None = None) -> Trainer:
    """Load, encode, attach: everything before the first step."""
    config, world = job.settings, world or World()
    pictures = read_dataset(Path(job.dataset), config.data, job.trigger)
    sampler = Sampler(pictures, config, world.size)
    plan = sampler.plan
    write_text(context.folder / "settings.json", json.dumps(config.to_dict(), indent=1))
    context.report(Phase("load", "Loading the base model"))
    base = hub.local(job.base, context)
    precision = choose_precision(config.run.precision, network_size(base))
    family = open_family(base, world.device(precision.device), precision.dtype, config.base)
    parts = trained_parts(config, family)
    _warn_about(sampler, plan, config, family, context)
    latents = encode_pictures(sampler, config, family, Path(job.cache), context)
    family.release("vae")
    texts = text_states(sampler, config, family, parts, Path(job.cache), context)
    adapter = Adapter(family, config.adapter, parts, config.run.seed)
    for words in prepare_network(family.part("unet"), config.run, family.device):
        context.report(Note(words))
    trainer = Trainer(
        job=job,
        context=context,
        family=family,
        adapter=adapter,
        sampler=sampler,
        plan=plan,
        latents=latents,
        texts=texts,
        metadata=base_metadata(job, family, adapter, plan, sampler.training, precision.name),
        draw=sample_drawer(job, family, sampler.training, context),
        fingerprint=fingerprint(pictures),
        world=world,
    )
    for network in trainer.networks:
        network.train()
    if job.resume:
        resume(trainer, context)
    return trainer


def trained_parts(config: TrainConfig, family: Family) -> list[str]:
    """The parts with a learning rate above zero. Raises UserError when the base has none of them."""
    rates = part_rates(config.optimizer)
    parts = [name for name in ("unet", *family.text_parts) if rates[name] > 0]
    if not parts:
        raise UserError(
            "No part of this base would be trained.", "Set optimizer.unet_lr or optimizer.text_encoder_lr above 0."
        )
    return parts


def resume(trainer: Trainer, context: JobContext) -> None:
    """Take up the newest whole state, and say which."""
    state, damaged = newest_state(context.folder / "state")
    if damaged:
        context.report(Note(f"Damaged states were passed over: {', '.join(damaged)}.", "warning"))
    if state is None:
        context.report(Note("There is no whole state to resume from: training starts at the beginning.", "warning"))
    else:
        trainer.resume(state)


def encode_pictures(
    sampler: Sampler, config: TrainConfig, family: Family, folder: Path, context: JobContext
) -> cache.LatentCache:
    """The latents of every picture, in the cache."""
    context.report(Phase("cache", "Encoding the pictures"))

    def progress(done: int, total: int) -> None:
        context.report(Progress(done, total, "pictures"))

    limit = int(config.run.cache_gb * 2**30)
    return cache.latents(sampler.variants(), family, folder, progress, limit=limit, stop=context.should_stop)


def text_states(
    sampler: Sampler, config: TrainConfig, family: Family, parts: list[str], folder: Path, context: JobContext
) -> Callable[[list[str]], Text]:
    """How captions are turned into what the network reads. When no text part is trained and captions never vary, all
    are made now and the text encoders are let go."""
    clip_skip, weighted = config.run.clip_skip, config.data.weighted_captions
    captions = sampler.captions()
    longest = max(family.num_tokens(captions), default=0)
    chunks = max(1, min(config.data.max_tokens // CHUNK, -(-longest // CHUNK)))
    if set(parts) & set(family.text_parts):
        return lambda texts: family.encode_text(texts, clip_skip, chunks, weighted)
    varying = config.data.shuffle_tags or config.data.tag_dropout
    texts = cache.TextStates(family, clip_skip, chunks, weighted, None if varying else folder)
    if varying:
        return texts
    for start in range(0, len(captions), 16):
        texts(captions[start : start + 16])
        context.report(Progress(min(start + 16, len(captions)), len(captions), "captions"))
    for part in family.text_parts:
        family.release(part)
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
