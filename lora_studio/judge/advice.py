"""Which settings for this kind, base, number of pictures and machine, each with its reason and where it comes from.

The numbers of a recipe live in `presets/*.toml` alone; this module starts from them and only moves what depends on
the set, the machine and the wish.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lora_studio.judge.common import plural
from lora_studio.judge.dataset import TARGETS

__all__ = ["STEPS", "TARGETS", "Advice", "Wish", "recommend"]

Wish = Literal["safe", "balanced", "aggressive"]

STEPS: dict[str, tuple[int, int]] = {"character": (200, 800), "style": (500, 1500), "concept": (300, 1000)}
"""Steps that the guide calls "often optimal"."""
# Where in that range to aim (0 its low end, 1 its high end, on a log scale). SDXL learns in fewer steps: the author of
# the recipes trains about 250 there against 1000 to 2000 on SD 1.x; the starter is small and its base knows the art.
AIM = {"sd1": 0.5, "sdxl": 0.2, "starter": 0.3}
# The guide: a conservative rate needs more training time, an aggressive one less and more watching.
RATE = {"safe": 0.5, "balanced": 1.0, "aggressive": 1.5}
LONGER = {"safe": 0.2, "balanced": 0.0, "aggressive": -0.2}
EPOCHS = 10
"""Epochs aimed at, so that there are about ten checkpoints to choose from (guide: 5 to 10 for testing)."""
MAX_REPEATS = 10
ENOUGH_TO_HOLD_OUT = 40
HELD_OUT = 0.1


@dataclass(frozen=True)
class Advice:
    """Values by dotted setting name, and a sentence for each; `reasons` also explains values of the preset."""

    changes: dict[str, Any]
    reasons: dict[str, str]


def recommend(
    kind: str, family: str, num_images: int, device: str, wish: Wish, preset: Mapping[str, Mapping[str, Any]]
) -> Advice:
    """Advice over `preset` (sections of settings as in the TOML file). `device` is cuda or cpu.

    An unknown family is treated as sd1. Raises KeyError for an unknown kind or wish.
    """
    advice = Advice({}, _recipe(kind, family, preset))
    _rates(advice, wish, preset)
    _rank(advice, kind, num_images, preset)
    batch = _batch(advice, family, device, preset)
    _length(advice, kind, family, num_images, wish, batch)
    if num_images >= ENOUGH_TO_HOLD_OUT:
        text = "With 40 pictures and more, a tenth can be held out to see honestly when it begins to learn by heart."
        _say(advice, "run.validation_share", HELD_OUT, text)
    return advice


def _say(advice: Advice, name: str, value: Any, reason: str) -> None:
    advice.changes[name] = value
    advice.reasons[name] = reason


def _recipe(kind: str, family: str, preset: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Reasons for what is taken from the preset as it is."""
    source = {"starter": "the studio's recipe for the starter", "sdxl": "its author's SDXL recipe"}.get(
        family, "the guide"
    )
    adapter, optimizer = preset.get("adapter", {}), preset.get("optimizer", {})
    reasons = {}
    if "rank" in adapter:
        why = {
            "character": "small enough not to learn by heart",
            "style": "a style needs more room",
            "concept": "between both",
        }
        reasons["adapter.rank"] = f"Rank {adapter['rank']} for a {kind} ({source}): {why[kind]}."
    if "alpha" in adapter and "rank" in adapter:
        share = adapter["alpha"] / adapter["rank"]
        reasons["adapter.alpha"] = (
            f"Alpha is {share:g} times the rank ({source}); it scales how strongly each step acts."
        )
    if "unet_lr" in optimizer:
        reasons["optimizer.unet_lr"] = f"{optimizer['unet_lr']:g} for a {kind} ({source})."
    if "text_encoder_lr" in optimizer:
        rate = optimizer["text_encoder_lr"]
        text = (
            f"{rate:g}: the text part learns the trigger, more gently"
            if rate
            else "0: a style should not bend the words"
        )
        reasons["optimizer.text_encoder_lr"] = f"{text} ({source})."
    if preset.get("objective", {}).get("min_snr_gamma") == 0:
        text = "Off: with this base it would leave out the noisiest steps, which decide colour and layout."
        reasons["objective.min_snr_gamma"] = text
    if preset.get("data", {}).get("resolution"):
        reasons["data.resolution"] = f"{preset['data']['resolution']} pixels: what this base was made for."
    return reasons


def _rates(advice: Advice, wish: Wish, preset: Mapping[str, Mapping[str, Any]]) -> None:
    factor = RATE[wish]
    if factor == 1:
        return
    how = (
        "half the usual rate: safer, and takes longer"
        if factor < 1
        else "half as much again: faster, watch the samples"
    )
    for name in ("unet_lr", "text_encoder_lr", "text_encoder_2_lr"):
        usual = preset.get("optimizer", {}).get(name)
        if usual:
            value = float(f"{usual * factor:.3g}")
            _say(advice, f"optimizer.{name}", value, f"{value:g}, {how} (usual {usual:g}).")


def _rank(advice: Advice, kind: str, num_images: int, preset: Mapping[str, Mapping[str, Any]]) -> None:
    adapter = preset.get("adapter", {})
    rank = adapter.get("rank", 0)
    if num_images >= TARGETS[kind][0] / 2 or rank < 8:
        return
    half = rank // 2
    pictures = plural(num_images, "picture")
    _say(
        advice,
        "adapter.rank",
        half,
        f"Half of the recipe's {rank}: with {pictures} a smaller adapter learns less by heart.",
    )
    if "alpha" in adapter:
        _say(
            advice,
            "adapter.alpha",
            adapter["alpha"] * half / rank,
            "Lowered with the rank, so that steps act as before.",
        )


def _batch(advice: Advice, family: str, device: str, preset: Mapping[str, Mapping[str, Any]]) -> int:
    """Pictures a step sees; on a CPU a large base takes them one by one, which needs the memory of one."""
    batch = int(preset.get("data", {}).get("batch_size", 1)) * int(
        preset.get("run", {}).get("gradient_accumulation", 1)
    )
    if device == "cpu" and family != "starter" and batch > 1:
        text = "One at a time on a CPU, to save memory. Expect many hours for a base of this size: a GPU is advised."
        _say(advice, "data.batch_size", 1, text)
        _say(
            advice,
            "run.gradient_accumulation",
            batch,
            f"{batch} pictures are gathered into one step, as in the recipe.",
        )
    return batch


def _length(advice: Advice, kind: str, family: str, num_images: int, wish: Wish, batch: int) -> None:
    """Repeats and epochs so that the steps fall where the guide has them. Counts as if all pictures had one shape; the
    real plan has a step or two more for each further shape."""
    low, high = STEPS[kind]
    aim = min(1.0, max(0.0, AIM.get(family, AIM["sd1"]) + LONGER[wish]))
    target = low * (high / low) ** aim
    count = max(1, num_images)
    repeats = min(MAX_REPEATS, max(1, round(target * batch / (count * EPOCHS))))
    per_epoch = math.ceil(count * repeats / batch)
    epochs = max(1, round(target / per_epoch))
    steps = per_epoch * epochs
    sum_ = f"{plural(num_images, 'picture')} x {repeats} / {batch} = {per_epoch} steps an epoch"
    _say(advice, "data.repeats", repeats, f"{sum_}, which gives about {EPOCHS} checkpoints to choose from.")
    text = f"{epochs} x {per_epoch} = about {steps} steps; the guide has {low} to {high} for a {kind}."
    if not low <= steps <= high:
        text += " A set of this size does not fit that range: one time through it is longer than that."
    _say(advice, "run.epochs", epochs, text)
    every = max(1, math.ceil(epochs / EPOCHS))
    if every > 1:
        _say(advice, "run.save_every_epochs", every, f"One file every {every} epochs is enough to choose from.")
        _say(advice, "run.sample_every_epochs", every, "Samples with each saved file.")
