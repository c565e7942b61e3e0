"""The training job: `lora_studio.engine.train:train`. Reads pictures, fills caches, puts the trainer together."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lora_studio.core import captions as tags
from lora_studio.core.errors import UserError
from lora_studio.core.files import write_text
from lora_studio.core.jobs import JobContext
from lora_studio.core.progress import Note, Phase, Progress
from lora_studio.core.settings import SettingsError
from lora_studio.engine import cache, distributed, hub
from lora_studio.engine.adapters import Adapter
from lora_studio.engine.brackets import escape
from lora_studio.engine.buckets import StepPlan
from lora_studio.engine.config import DataConfig, SampleRequest, TrainConfig, TrainJob, checks
from lora_studio.engine.data import Sampler, plan_for, read_dataset
from lora_studio.engine.detect import read_header
from lora_studio.engine.distributed import World
from lora_studio.engine.families import open_family, usable_base
from lora_studio.engine.families.base import Family, Text
from lora_studio.engine.memory import choose_precision, describe, is_oom, next_rung, prepare_network
from lora_studio.engine.metadata import base_metadata
from lora_studio.engine.parameters import part_rates
from lora_studio.engine.picture import Picture
from lora_studio.engine.prompts import chunks_for
from lora_studio.engine.quantize import quantize
from lora_studio.engine.sampling import draw_with
from lora_studio.engine.shards import Shards
from lora_studio.engine.state import State, newest_state
from lora_studio.engine.tokens import CHUNK
from lora_studio.engine.trainer import Trainer, refuse_broken_base
from lora_studio.engine.wording import has_wildcards, varies

if TYPE_CHECKING:
    from lora_studio.engine.fsdp import Spread

TEXT_BATCH = 16


def train(config: dict[str, Any], job: JobContext) -> dict[str, Any]:
    """Train a LoRA as `config` (a TrainJob) says, in the job's folder, in as many processes as it asks for. Returns a
    summary."""
    wanted = TrainJob.load(config)
    shard, notes = distributed.launched_sharding()
    for note in notes:
        job.report(Note(note))
    if shard:
        wanted = wanted.model_copy(update={"settings": wanted.settings.with_changes({"run.shard": True})})
        config = wanted.to_dict()
    kind = choose_precision("fp32", 0).device.type
    try:
        return distributed.launch(train_in_world, config, job, wanted.world, kind)
    except Exception as error:
        if not is_oom(error):
            raise
        raise out_of_memory(wanted, kind) from error


def out_of_memory(job: TrainJob, kind: str) -> UserError:
    """What to say when memory ran out: the next mildest setting that saves some."""
    rung = next_rung(job.settings, kind)
    if rung is None:
        mend = "Nothing is left to save here: choose a smaller base or a machine with more memory."
    else:
        changes = ", ".join(f"{name} = {value}" for name, value in rung[0].items())
        mend = f"Set {changes} ({rung[1]}), then start anew, or resume: what was saved is whole."
    return UserError("The memory of the machine is not enough for this training.", mend)


def train_in_world(config: dict[str, Any], job: JobContext, world: World) -> dict[str, Any]:
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
    config = job.settings
    pictures = read_dataset(Path(job.dataset), config.data, job.trigger)
    if world is None or world.leads:
        remove_leftovers(context.folder)
        write_text(context.folder / "settings.json", json.dumps(config.to_dict(), indent=1))
    context.report(Phase("load", "Loading the base model"))
    base = hub.at_hand(job.base, context.report)
    facts = refuse_impossible(job, base, pictures, world.size if world else 1)
    precision = choose_precision(distributed.launched_precision() or config.run.precision, network_size(base))
    world = world or World(device=precision.device)
    sampler = Sampler(pictures, config, world.rank, world.size)
    plan = plan_for(pictures, config, world.size)
    family = open_family(base, world.device, precision.dtype, config.base)
    if config.run.shard and world.size > 1:
        family.in_main_memory = ("unet",)  # it never lies whole on the device
    parts = trained_parts(config, family)
    _warn_about(pictures, plan, config, family, context, facts)
    with distributed.leader_first(world):  # the others find in the cache what it has encoded
        store = cache.open_cache(Path(job.cache), config.run.cache_gb)
        latents = encode_pictures(sampler, config, family, store, context)
        family.release("vae")
        texts = text_states(pictures, config, family, parts, store, context)
        store.evict()
    state = saved_state(context) if job.resume else None
    adapter, done = attach(config, family, parts, context, fresh=state is None)
    spread = spread_base(config, family, adapter, world)
    if spread:
        done.append(f"the base spread over {world.size} devices ({spread.bytes / 2**30:.1f} GB on each)")
    context.report(Note(describe(precision, done)))
    trainer = Trainer(
        job=job,
        context=context,
        family=family,
        adapter=adapter,
        sampler=sampler,
        plan=plan,
        latents=latents,
        texts=texts,
        metadata=base_metadata(job, family, plan, sampler.shown, precision.name, adapter, world.size),
        draw=sample_drawer(job, family, sampler.training, context),
        fingerprint=fingerprint(pictures),
        world=world,
        spread=spread,
    )
    for network in trainer.networks:
        network.train()
    if state is not None:
        trainer.resume(state)
    return trainer


def remove_leftovers(folder: Path) -> None:
    """Files that a killed process of this run was writing; what is whole has another name."""
    for path in folder.rglob(".new-*.part"):
        path.unlink(missing_ok=True)


def refuse_impossible(job: TrainJob, base: Path, pictures: list[Picture], world: int) -> checks.Facts:
    """What is known before the weights are loaded. Raises UserError when the base cannot be used, SettingsError with
    all that speaks against these settings."""
    config, family = job.settings, usable_base(base).family
    plan = plan_for(pictures, config, world)
    words = [picture.words.led for picture in pictures if not picture.regularization]
    facts = checks.Facts(
        family=family,
        text_layers=checks.text_layers(base, family),
        device=choose_precision("fp32", 0).device.type,
        trigger=job.trigger,
        captions=tuple(one.caption for one in words),
        prose=tuple(one.prose for one in words),
        steps=plan.steps,
        batches=plan.batches_per_epoch,
        processes=world,
    )
    problems = checks.problems(config, facts)
    if problems:
        raise SettingsError(problems)
    return facts


def attach(
    config: TrainConfig, family: Family, parts: list[str], context: JobContext, fresh: bool = True
) -> tuple[Adapter, list[str]]:
    """The adapter on the base, and the network ready for training; what was done to it, in words.

    One that is not `fresh` is about to take over a saved state, so adapter.continue_from is not read again.
    """
    network, done = family.part("unet"), []
    adapter_config = config.adapter if fresh else config.adapter.model_copy(update={"continue_from": ""})
    layers = family.adapter_layers(config.adapter.layers, parts)
    idle = checks.idle_patterns(config.adapter, [f"{part}.{name}" for part, names in layers.items() for name in names])
    if idle:
        raise SettingsError(idle)
    originals: dict[str, Tensor] = {}
    if config.run.quantize != "none":
        if config.adapter.init == "loftq":
            originals = {name: w for name, w in network.state_dict().items() if name.endswith(".weight")}
        count = quantize(network, config.run.quantize)
        done.append(f"{count} layers of the frozen base in {config.run.quantize}")
    adapter = Adapter(
        family, adapter_config, parts, config.run.seed, lambda part, module: originals[f"{module}.weight"]
    )
    done += prepare_network(network, config.run, family.device, lambda text: context.report(Note(text, "warning")))
    return adapter, done


def spread_base(config: TrainConfig, family: Family, adapter: Adapter, world: World) -> "Spread | None":
    """Spread the network's frozen weights over the processes, where that is asked for and there are several."""
    if not config.run.shard or world.size == 1:
        return None
    from lora_studio.engine.fsdp import Spread  # takes a second; most runs have one process

    network = family.part("unet")
    refuse_broken_base("unet", network)  # later, each process could look at its own part only
    return Spread(network, adapter.parameters, world)


def network_size(base: Path) -> int:
    """How many numbers the network that predicts has, by the headers of its files."""
    files = sorted((base / "unet").glob("*.safetensors")) if base.is_dir() else [base]
    shapes = [shape for file in files for name, shape in read_header(file)[0].items() if _of_network(name, base)]
    return sum(math.prod(shape) for shape in shapes)


def _of_network(name: str, base: Path) -> bool:
    return base.is_dir() or name.startswith("model.diffusion_model.")


def trained_parts(config: TrainConfig, family: Family) -> list[str]:
    """The parts with a learning rate above zero. Raises UserError when the base has none of them."""
    rates = part_rates(config.optimizer)
    parts = [name for name in ("unet", *family.text_parts) if rates[name] > 0]
    if not parts:
        raise UserError(
            "No part of this base would be trained.", "Set optimizer.unet_lr or optimizer.text_encoder_lr above 0."
        )
    return parts


def saved_state(context: JobContext) -> State | None:
    """The newest whole state of the run; what is damaged or lacking is told."""
    state, damaged = newest_state(context.folder / "state")
    if damaged:
        context.report(Note(f"Damaged states were passed over: {', '.join(damaged)}.", "warning"))
    if state is None:
        context.report(Note("There is no whole state to resume from: training starts at the beginning.", "warning"))
    return state


def encode_pictures(
    sampler: Sampler, config: TrainConfig, family: Family, store: Shards, context: JobContext
) -> cache.LatentCache:
    """The latents of every picture, in the cache."""
    context.report(Phase("cache", "Encoding the pictures"))

    def progress(done: int, total: int) -> None:
        context.report(Progress(done, total, "pictures"))

    return cache.latents(sampler.wanted(), family, store, config.data, progress, context.should_stop)


def text_states(
    pictures: list[Picture],
    config: TrainConfig,
    family: Family,
    parts: list[str],
    store: Shards,
    context: JobContext,
) -> Callable[[list[str]], Text]:
    """How captions are turned into what the network reads. When no text part is trained and captions never vary, all
    are made now and the text encoders are let go."""
    clip_skip, weighted = config.run.clip_skip, config.data.weighted_captions
    captions = sorted({picture.words.whole(config.data).text for picture in pictures})
    longest = most_tokens(pictures, config.data, lambda texts: family.num_tokens(texts, weighted))
    chunks = min(config.data.max_tokens // CHUNK, chunks_for(longest))
    if set(parts) & set(family.text_parts):
        return lambda texts: family.encode_text(texts, clip_skip, chunks, weighted)
    vary = config.objective.preservation or any(varies(picture.words, config.data) for picture in pictures)
    texts = cache.TextStates(family, clip_skip, None if vary else store, chunks, weighted)
    if vary:
        return texts
    captions += [""] if config.data.caption_dropout else []
    for start in range(0, len(captions), TEXT_BATCH):
        if context.should_stop():
            return texts
        texts(captions[start : start + TEXT_BATCH])
        context.report(Progress(min(start + TEXT_BATCH, len(captions)), len(captions), "captions"))
    for part in family.text_parts:
        family.release(part)
    return texts


def most_tokens(pictures: list[Picture], config: DataConfig, num_tokens: Callable[[list[str]], list[int]]) -> int:
    """At least as many tokens as the longest caption can have, whatever is drawn of it and in whatever order.

    Signs that stand side by side may be one token (`),`) and apart two, so tags and commas are counted one by one where
    they are mixed; a choice of a wildcard may make one more of the word it is a part of.
    """
    every = [picture.words for picture in pictures]
    most = max(num_tokens([words.whole(config).text for words in every]), default=0)
    rows: list[tuple[int, list[str]]] = []
    for words in (words for words in every if varies(words, config)):
        asked: list[int] = []

        def longest(choices: Sequence[str], asked: list[int] = asked) -> int:
            asked.append(len(choices))
            counts = num_tokens(list(choices))
            return counts.index(max(counts))

        shown = words.chosen(longest).led if has_wildcards(words, config) else words.led
        rows.append((len(asked), [*tags.split(shown.caption), *filter(None, [shown.prose])]))
    parts = list(dict.fromkeys(part for _, row in rows for part in row))
    lengths = dict(zip(parts, num_tokens(parts), strict=True))
    return max([most, *(sum(lengths[part] for part in row) + len(row) - 1 + more for more, row in rows)])


def sample_drawer(
    job: TrainJob, family: Family, pictures: list[Picture], context: JobContext
) -> Callable[[int, int], None]:
    """A function that draws the sample prompts with the model as it stands in memory."""
    config, settings = job.settings.sample, job.settings
    read = (lambda caption: caption) if settings.data.weighted_captions else escape
    prompts = config.prompts or tuple(read(picture.words.whole(settings.data).text) for picture in pictures[:2])

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

    return draw


def fingerprint(pictures: list[Picture]) -> str:
    """SHA-256 over pictures, crops, repeats and captions."""
    facts = [(p.id, p.sha256, p.crop, p.repeats, p.caption, *([p.prose] if p.prose else [])) for p in pictures]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _warn_about(
    pictures: list[Picture],
    plan: StepPlan,
    config: TrainConfig,
    family: Family,
    context: JobContext,
    facts: checks.Facts,
) -> None:
    """Say what is probably not meant, before the time is spent."""
    for text in checks.warnings(config, facts):
        context.report(Note(text, "warning"))
    limit = config.data.max_tokens
    texts = [picture.words.whole(config.data).text for picture in pictures]
    long = sum(count > limit for count in family.num_tokens(texts, config.data.weighted_captions))
    if long:
        text = f"{long} captions are longer than data.max_tokens {limit}; their ends are cut off."
        context.report(Note(text, "warning"))
    small = [size for size, count in plan.buckets.items() if count < config.data.batch_size]
    if small:
        shapes = ", ".join(f"{width} x {height}" for width, height in small[:5])
        size = f"data.batch_size {config.data.batch_size}"
        text = f"Fewer pictures than {size} in shape {shapes}: these batches are smaller."
        context.report(Note(text))
