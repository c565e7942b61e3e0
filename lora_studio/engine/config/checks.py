"""What speaks against a configuration beyond the bounds of single settings: contradictions, and what the base, the
pictures and the machine cannot do. Pure functions, no torch, so that the page can ask before anything is started."""

import importlib.util
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_studio.core import captions as tags
from lora_studio.core.settings import describe
from lora_studio.engine.config.adapter import AdapterConfig, pairs
from lora_studio.engine.config.jobs import SampleRequest, TrainConfig
from lora_studio.engine.wording import mentions

RATE_FINDERS = ("prodigy", "schedulefree_prodigy")
BOUNDS = {info.name: info for info in describe(SampleRequest)}
LEAST_SAMPLE, LARGEST_SEED = int(BOUNDS["width"].minimum or 0), int(BOUNDS["seed"].maximum or 0)
HIGH_RATE = 0.1  # a hundred times the usual: only optimizers that find the rate themselves want one near 1


@dataclass(frozen=True)
class Facts:
    """What is known before the start. What is not known is left as it is, and its checks are left out."""

    family: str = ""
    """As engine.detect names it: sd1, sd2, sd-small, sdxl."""
    text_layers: tuple[int, ...] = ()
    """Layers of each text part."""
    device: str = ""
    """torch's name: cpu, cuda, mps, xpu."""
    trigger: str | None = None
    captions: tuple[str, ...] | None = None
    """Tags of each picture."""
    prose: tuple[str, ...] = ()
    """Sentences of each picture; empty where there are none of any."""
    steps: int = 0
    """Of the whole run."""
    batches: int = 0
    """Of one epoch."""
    processes: int = 0
    """That train together, one a device."""


NOTHING_KNOWN = Facts()
LAYERS = {"sd1": (12,), "sd2": (23,), "sdxl": (12, 32)}
"""Of the text parts of bases in one file, which are of the published sizes."""


def text_layers(base: Path, family: str) -> tuple[int, ...]:
    """How many layers each text part of the base at `base` has; empty where it does not say."""
    if not base.is_dir():
        return LAYERS.get(family, ())
    found = []
    for path in sorted(base.glob("text_encoder*/config.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found.append(int(json.loads(path.read_text("utf-8"))["num_hidden_layers"]))
    return tuple(found)


# --- what cannot be ---------------------------------------------------------------------------------------------------


def problems(config: TrainConfig, facts: Facts = NOTHING_KNOWN) -> list[str]:
    """Why this training cannot begin, all of it at once; each sentence names the settings and the mend."""
    checks = (_text_problems, _machine_problems, _data_problems, _sample_problems, _preservation_problems)
    return [problem for check in checks for problem in check(config, facts)]


def _text_problems(config: TrainConfig, facts: Facts) -> Iterable[str]:
    if facts.family and facts.family != "sdxl" and config.optimizer.text_encoder_2_lr:
        if config.optimizer.unet_lr or config.optimizer.text_encoder_lr:
            mend = "set it to 0"
        else:
            mend = "set it to 0, and unet_lr or text_encoder_lr above 0"
        yield (
            f"optimizer.text_encoder_2_lr {config.optimizer.text_encoder_2_lr:g}: only SDXL has a second text part; "
            f"{mend}"
        )
    if facts.text_layers:
        most = min(facts.text_layers) - (facts.family == "sdxl")  # SDXL reads one layer further from the end
        if config.run.clip_skip > most:
            yield f"run.clip_skip {config.run.clip_skip}: the text part of this base allows at most {most}; lower it"


def _machine_problems(config: TrainConfig, facts: Facts) -> Iterable[str]:
    run = config.run
    if config.adapter.init == "loftq" and run.quantize == "none":
        yield (
            "adapter.init loftq mends a quantised base, and run.quantize is none; choose nf4, int8 or fp8 there, or "
            "another init"
        )
    if run.quantize == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        yield "run.quantize nf4 needs the package bitsandbytes, which is not installed; choose fp8 or int8"
    if facts.device and facts.device != "cuda" and config.optimizer.kind == "adamw8bit":
        yield "optimizer.kind adamw8bit needs an NVIDIA card; there is none here: choose adamw, or came to save memory"
    if facts.device == "cpu" and run.precision == "fp16":
        yield "run.precision fp16 needs a GPU; there is none here: choose auto, fp32 or bf16"
    if run.shard:
        others = (
            ("quantize", run.quantize, "none"),
            ("offload_blocks", run.offload_blocks, 0),
            ("compile", run.compile, 0),
        )
        for name, value, off in others:
            if value != off:
                text = f"run.shard and run.{name} {value}: a base that is spread over the cards cannot have that"
                yield f"{text}; choose one of them"


def _data_problems(config: TrainConfig, facts: Facts) -> Iterable[str]:
    data = config.data
    for side in data.more_resolutions:
        if side < data.bucket_step:
            yield (
                f"data.more_resolutions: {side} is smaller than data.bucket_step {data.bucket_step}; leave it out or "
                "lower the step"
            )


def _sample_problems(config: TrainConfig, facts: Facts) -> Iterable[str]:
    for name in ("width", "height"):
        side = getattr(config.sample, name)
        if 0 < side < LEAST_SAMPLE:
            yield f"sample.{name} {side}: pictures are drawn from {LEAST_SAMPLE} pixels on; raise it, or 0"
    last = config.sample.seed + max(len(config.sample.prompts), 2) - 1
    if last > LARGEST_SEED:
        yield f"sample.seed {config.sample.seed}: the seeds of the next pictures would be too large; lower it"


def _preservation_problems(config: TrainConfig, facts: Facts) -> Iterable[str]:
    """Without prompts of its own, preservation asks for the captions without the trigger, which leads them all. Where
    there is none, it would ask for the base's answer to the very captions that shall be learned."""
    objective = config.objective
    if not objective.preservation or objective.preservation_prompts or facts.trigger is None:
        return
    mend = "give objective.preservation_prompts, or set objective.preservation to 0"
    if not tags.split(facts.trigger):
        yield f"objective.preservation: there is no trigger word to leave out of the captions; {mend}"


# --- what is probably not meant ---------------------------------------------------------------------------------------


def warnings(config: TrainConfig, facts: Facts = NOTHING_KNOWN) -> list[str]:
    """What is possible and probably not meant: settings without effect and odd choices, a sentence each."""
    checks = (_no_effect, _odd_rates, _odd_lengths, _odd_captions)
    return [text for check in checks for text in check(config, facts)]


def _no_effect(config: TrainConfig, facts: Facts) -> Iterable[str]:
    unused = idle_settings(config)
    if unused:
        yield f"No effect with the present choices: {'; '.join(unused)}."
    run, data, objective = config.run, config.data, config.objective
    if facts.device == "cpu" and run.offload_blocks:
        yield "run.offload_blocks has no effect: there is no GPU, all is in main memory here."
    if run.shard and facts.processes == 1:
        yield "run.shard has no effect: one process trains alone; set run.devices to more than 1, or 0 for all cards."
    if run.compile and run.offload_blocks and facts.device != "cpu":
        yield "run.compile has no effect with run.offload_blocks: offloaded blocks change places in each step."
    if len(set((data.resolution, *data.more_resolutions))) <= len(data.more_resolutions):
        yield "data.more_resolutions names data.resolution or a size twice; each counts once."
    if objective.preservation_prompts and not objective.preservation:
        yield "objective.preservation_prompts have no effect: objective.preservation is 0."
    if objective.prior_weight != 1.0 and not data.regularization:
        yield "objective.prior_weight has no effect: data.regularization names no folder."
    if run.ema_decay and config.optimizer.kind.startswith("schedulefree"):
        yield f"run.ema_decay: {config.optimizer.kind} averages the weights itself; 0 is enough."


def idle_settings(config: TrainConfig) -> list[str]:
    """Settings that were changed and count only with another choice of a setting beside them."""
    values = {
        f"{section}.{name}": value for section, group in config.to_dict().items() for name, value in group.items()
    }
    found = []
    for info in describe(TrainConfig):
        if info.when is None or values[info.name] == info.default:
            continue
        other, choices = info.when
        if str(values[other]) not in choices:
            found.append(f"{info.name} (only with {other} {' or '.join(choices)})")
    return found


def _odd_rates(config: TrainConfig, facts: Facts) -> Iterable[str]:
    optimizer = config.optimizer
    names = ("unet_lr", "text_encoder_lr", "text_encoder_2_lr")
    rates = {f"optimizer.{name}": rate for name in names if (rate := getattr(optimizer, name))}
    if optimizer.kind in RATE_FINDERS:
        odd = [f"{name} {rate:g}" for name, rate in rates.items() if not 0.1 <= rate <= 3]
        if odd:
            yield f"{optimizer.kind} finds the rate itself and takes rates near 1; now {', '.join(odd)}: set them to 1."
    else:
        odd = [f"{name} {rate:g}" for name, rate in rates.items() if rate > HIGH_RATE]
        if odd:
            yield f"Very high for {optimizer.kind}: {', '.join(odd)}; 0.0001 to 0.001 is usual."
    if optimizer.kind.startswith("schedulefree") and config.schedule.kind != "constant":
        yield f"{optimizer.kind} needs no schedule: set schedule.kind to constant (now {config.schedule.kind})."


def _odd_lengths(config: TrainConfig, facts: Facts) -> Iterable[str]:
    steps, run, schedule = facts.steps, config.run, config.schedule
    if not steps:
        return
    if schedule.warmup_steps >= steps and schedule.kind != "one_cycle":
        text = f"schedule.warmup_steps {schedule.warmup_steps} takes the whole run of {steps} steps"
        yield f"{text}: the rate never reaches its height."
    if schedule.kind.endswith("with_restarts") and schedule.restarts > steps:
        yield f"schedule.restarts {schedule.restarts} are more than the {steps} steps of the run."
    if run.ema_decay and steps * (1 - run.ema_decay) < 1:
        text = f"run.ema_decay {run.ema_decay:g} averages over about {1 / (1 - run.ema_decay):.0f} steps"
        yield f"{text}, the run has {steps}: the saved weights lag behind; lower it or set it to 0."
    if facts.batches and run.gradient_accumulation > facts.batches:
        text = f"run.gradient_accumulation {run.gradient_accumulation} is more than the {facts.batches} batches"
        yield f"{text} of an epoch: each step takes those only."


def _odd_captions(config: TrainConfig, facts: Facts) -> Iterable[str]:
    data = config.data
    if data.caption_dropout == 1:
        yield "data.caption_dropout 1: every picture is shown without its caption."
    if data.tag_dropout == 1:
        yield "data.tag_dropout 1: no tag behind the kept ones is ever shown."
    trigger = [word.casefold() for word in tags.split(facts.trigger or "") if word]
    held = [p for p in config.objective.preservation_prompts if any(word in p.casefold() for word in trigger)]
    if held and config.objective.preservation:
        yield f"objective.preservation_prompts: {held[0]!r} holds the trigger, so what it calls would be unlearned."
    if not facts.captions:
        return
    split = [tags.split(caption) for caption in facts.captions]
    longest = max(map(len, split))
    prose = facts.prose or ("",) * len(split)
    if data.tag_dropout and not longest:
        yield f"data.tag_dropout {data.tag_dropout:g} has no effect: there are no tags, and sentences stay whole."
    if (data.shuffle_tags or data.tag_dropout) and data.keep_tokens >= longest > 1:
        yield (
            f"data.keep_tokens {data.keep_tokens} keeps all tags in place (the longest caption has {longest}): "
            "shuffling and dropping them has no effect."
        )
    written = list(zip(facts.captions, prose, strict=True))
    nowhere = [tag for tag in data.balance if not any(mentions(*words, tag) for words in written)]
    if nowhere:
        yield f"data.balance: no caption has {', '.join(nowhere)}."
    bare = ("", (facts.trigger or "").strip().casefold())  # the trigger leads every caption, empty ones too
    empty = sum(caption.strip().casefold() in bare and not text.strip() for caption, text in written)
    if empty:
        alone = f": they are trained with {facts.trigger} alone" if facts.trigger else ""
        yield f"{empty} of {len(facts.captions)} pictures have an empty caption{alone}."


# --- patterns ---------------------------------------------------------------------------------------------------------


def idle_patterns(config: AdapterConfig, layers: Iterable[str]) -> list[str]:
    """A sentence for each setting of the adapter with patterns that fit none of the `layers` (with their part)."""
    names = list(layers)
    written: dict[str, list[str]] = {
        "include": list(config.include),
        "exclude": list(config.exclude),
        "ranks": [pattern for pattern, _ in pairs(config.ranks, "adapter.ranks")],
    }
    found = []
    for setting, patterns in written.items():
        unused = [pattern for pattern in patterns if not any(re.search(pattern, name) for name in names)]
        if unused:
            text = f"adapter.{setting}: {', '.join(unused)} fits none of the layers of adapter.layers {config.layers}"
            found.append(f"{text}; they are called {names[0]} and so on")
    return found
