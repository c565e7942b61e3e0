"""How good is a LoRA? Every checkpoint and strength beside the bare base, at the same prompts and seeds.

All measures are taken from embeddings and tag probabilities of the pictures, so they see what the tagger sees: broad
looks and the attributes it knows, not hands, text or taste. They rank variants of one test; they are no absolute
grades. Every number is a mean over (prompt, seed) pairs with a 95 % bootstrap interval over these pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lora_studio.judge.common import Finding, plural
from lora_studio.judge.measures import LUMA, area_resize, sharpness

Array = NDArray[np.float64]

RESAMPLES = 1000
BLEED_COST = 0.5
"""How much bleed takes off the score: a LoRA that learned all and changes every other picture wholly gets 0.5."""
FEW_LEARN, FEW_BLEED = 8, 4
"""Below these numbers of pictures a variant, chance alone moves the measures by 0.1 and more."""
NO_CHANGE = 1e-4
NOTHING_LEARNED = "Nothing was learned that can be told from chance: no checkpoint is worth handing out."
LOW_STRENGTH = 0.8
NOTED_TAG = 0.1
STRONG_BLEED = 0.4
LOST_VARIETY = 0.6
DAMAGE = 0.4
"""About one and a half times (or two thirds) the base's contrast, saturation or sharpness."""


@dataclass(frozen=True)
class Shot:
    """One picture of the test."""

    checkpoint: str | None
    """None is the bare base."""
    strength: float
    prompt: str
    role: Literal["learn", "bleed"]
    """Whether the prompt should show the subject, or must stay as the base draws it."""
    seed: int
    embedding: NDArray[np.floating[Any]]
    """(D,) of length 1."""
    tags: Mapping[str, float]
    """Probability of every tag the tagger knows."""
    pixels: Mapping[str, float] | None = None
    """From `pixel_stats`; damage is judged where it is given."""


@dataclass(frozen=True)
class Measure:
    """A mean with its 95 % interval over `count` pairs of pictures; None where it cannot be said."""

    value: float | None
    low: float | None = None
    high: float | None = None
    count: int = 0


@dataclass(frozen=True)
class Variant:
    """What was measured of one checkpoint at one strength."""

    checkpoint: str
    strength: float
    learned: Measure
    """0 like the base, 1 like the training pictures: mean of `closeness` and `attributes` (of the one there is)."""
    closeness: Measure
    """Likeness to the training pictures: 0 the base's, 1 that of the training pictures among themselves; can be below
    0 or above 1."""
    attributes: Measure
    """Mean probability of the wanted tags, 0 to 1."""
    tags: dict[str, tuple[float, float]]
    """Each wanted tag: its mean probability with the base, and with the LoRA."""
    bleed: Measure
    """Change of the pictures that must stay: 0 none, 1 as different as pictures of another prompt; 1 at most."""
    leak: Measure
    """How much likelier the wanted tags became where they were not asked for, -1 to 1."""
    trigger: Measure
    """Closeness gained with the trigger's prompts minus that gained without: what the trigger word itself does."""
    variety: float | None
    """Spread among the learned pictures over the base's; 1 as varied, well below 1 always the same picture."""
    damage: float | None
    """Largest mean change of contrast, saturation or sharpness (natural log) on prompts that must stay."""
    score: Measure
    """learned - 0.5 x bleed: what variants are ranked by."""


@dataclass(frozen=True)
class Recommendation:
    """Which variant to hand out."""

    checkpoint: str
    strength: float
    reasons: list[str]
    ties: list[tuple[str, float]] = field(default_factory=list)
    """Variants that cannot be told apart from it with so few pictures."""


@dataclass(frozen=True)
class Scorecard:
    """The whole verdict of a test."""

    headline: str
    variants: list[Variant]
    base_attributes: float | None
    """Mean probability of the wanted tags with the bare base."""
    recommendation: Recommendation | None
    """None when nothing can be ranked, and when no variant has surely learned anything."""
    findings: list[Finding]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with `strength_curves`: for each checkpoint its `{"strength", "learned", "bleed"}` in order."""
        curves: dict[str, list[dict[str, Any]]] = {}
        for variant in sorted(self.variants, key=lambda variant: variant.strength):
            point = {"strength": variant.strength, "learned": variant.learned.value, "bleed": variant.bleed.value}
            curves.setdefault(variant.checkpoint, []).append(point)
        return {**asdict(self), "strength_curves": curves}


def pixel_stats(rgb: NDArray[np.uint8]) -> dict[str, float]:
    """rgb (H, W, 3) 0..255 -> contrast (deviation of brightness), saturation (mean max - min), both 0 to 1, and
    sharpness, at 64 x 64."""
    pixels = np.stack([area_resize(rgb[..., channel] / 255, 64, 64) for channel in range(3)], axis=-1)
    gray = pixels @ LUMA
    saturation = float((pixels.max(axis=-1) - pixels.min(axis=-1)).mean())
    return {"contrast": float(gray.std()), "saturation": saturation, "sharpness": sharpness(gray)}


def scorecard(shots: Sequence[Shot], references: NDArray[np.floating[Any]], wanted: Sequence[str] = ()) -> Scorecard:
    """Judge a test. `references` are embeddings (N, D) of the training pictures; `wanted` the tags of the subject that
    the tagger knows. Every shot needs its base twin (same prompt, role and seed); those without are left out.
    """
    base = {_pair(shot): shot for shot in shots if shot.checkpoint is None}
    groups: dict[tuple[str, float], list[tuple[Shot, Shot]]] = {}
    for shot in shots:
        if shot.checkpoint is not None and _pair(shot) in base:
            groups.setdefault((shot.checkpoint, shot.strength), []).append((shot, base[_pair(shot)]))
    if not groups:
        text = "There is nothing to compare: no picture with a LoRA beside one of the base at the same prompt and seed."
        return Scorecard(text, [], None, None, [Finding("info", text, "Run the test again.")])
    scale = _Scale.of(list(base.values()), np.asarray(references, np.float64))
    judged = {key: _Pairs(pairs, scale, list(wanted)) for key, pairs in groups.items()}
    variants = [pairs.variant(*key) for key, pairs in judged.items()]
    learn = [shot for shot in base.values() if shot.role == "learn"]
    base_attributes = (
        float(np.mean([shot.tags.get(tag, 0.0) for shot in learn for tag in wanted])) if wanted and learn else None
    )
    recommendation = _recommend(variants, judged)
    findings = _findings(variants, judged, recommendation, scale)
    if recommendation is None and any(variant.score.value is not None for variant in variants):
        return Scorecard(NOTHING_LEARNED, variants, base_attributes, None, [_nothing_learned(variants), *findings])
    return Scorecard(_headline(variants, recommendation), variants, base_attributes, recommendation, findings)


def _pair(shot: Shot) -> tuple[str, str, int]:
    return shot.prompt, shot.role, shot.seed


@dataclass(frozen=True)
class _Scale:
    """What closeness and bleed are measured against."""

    centre: Array
    """(D,) mean of the references (not of length 1): cosine with it is the mean cosine with all of them."""
    among: float | None
    """Mean cosine of the references with one another; None with fewer than two."""
    base: float | None
    """Mean cosine of the base's learn pictures with the references."""
    apart: float | None
    """Mean distance (1 - cosine) of base pictures of different prompts at all seeds; None with one prompt."""

    @classmethod
    def of(cls, base: list[Shot], references: Array) -> "_Scale":
        count = len(references)
        centre = references.mean(axis=0) if count else np.zeros(len(base[0].embedding))
        among = (
            float((count**2 * centre @ centre - (references**2).sum()) / (count * (count - 1))) if count > 1 else None
        )
        learn = [float(shot.embedding @ centre) for shot in base if shot.role == "learn"]
        distances = [
            1 - float(one.embedding @ other.embedding)
            for place, one in enumerate(base)
            for other in base[place + 1 :]
            if one.prompt != other.prompt
        ]
        usable = count > 0 and bool(learn)
        return cls(
            centre, among, float(np.mean(learn)) if usable else None, float(np.mean(distances)) if distances else None
        )

    @property
    def room(self) -> float | None:
        """How much likeness there is to gain; None when the base is already as like as the references are."""
        if self.among is None or self.base is None or self.among - self.base < 0.02:
            return None
        return self.among - self.base


class _Pairs:
    """The pairs (with LoRA, base) of one variant as arrays, and the bootstrap over them."""

    def __init__(self, pairs: list[tuple[Shot, Shot]], scale: _Scale, wanted: list[str]) -> None:
        self.learn = sorted((pair for pair in pairs if pair[0].role == "learn"), key=lambda pair: _pair(pair[0]))
        self.bleed = sorted((pair for pair in pairs if pair[0].role == "bleed"), key=lambda pair: _pair(pair[0]))
        self.wanted = wanted
        self.changed = max(1 - float(with_.embedding @ without.embedding) for with_, without in pairs)
        room = scale.room
        self.closeness = None if room is None else self._gain(self.learn, scale) / room
        self.pull = None if room is None else self._gain(self.bleed, scale) / room
        self.attributes = self._wanted(self.learn, 0) if wanted else None
        self.learned = self._learned()
        self.gained = self._gained()
        self.bled = np.array([_change(*pair, scale.apart) for pair in self.bleed])
        self.leak = self._wanted(self.bleed, 0) - self._wanted(self.bleed, 1) if wanted else None

    @staticmethod
    def _gain(pairs: list[tuple[Shot, Shot]], scale: _Scale) -> Array:
        return np.array([float((with_.embedding - without.embedding) @ scale.centre) for with_, without in pairs])

    def _wanted(self, pairs: list[tuple[Shot, Shot]], side: int) -> Array:
        return np.array([np.mean([pair[side].tags.get(tag, 0.0) for tag in self.wanted]) for pair in pairs])

    def _learned(self) -> Array | None:
        parts = [part for part in (self.closeness, self.attributes) if part is not None and len(part)]
        return np.clip(np.mean(parts, axis=0), 0, 1) if parts else None

    def _gained(self) -> Array | None:
        """What the LoRA added over the base, per pair and unclipped: where the base has much already, `learned` is
        high without a LoRA that does anything."""
        added = self._wanted(self.learn, 0) - self._wanted(self.learn, 1) if self.wanted else None
        parts = [part for part in (self.closeness, added) if part is not None and len(part)]
        return np.mean(parts, axis=0) if parts else None

    @property
    def has_learned(self) -> bool:
        """Whether the whole interval of what was gained lies above the base."""
        if self.gained is None or self.changed < NO_CHANGE:
            return False
        gained = _measure(self.gained)
        return (gained.value if gained.low is None else gained.low) > 0  # type: ignore[operator]

    def resampled_score(self) -> Array | None:
        """(RESAMPLES,) scores over resampled pairs. The same seed everywhere, so that variants tested on the same
        prompts and seeds are compared pair by pair."""
        if self.learned is None or not len(self.learned):
            return None
        generator = np.random.default_rng(0)
        picks = generator.integers(0, len(self.learned), (RESAMPLES, len(self.learned)))
        score = self.learned[picks].mean(axis=1)
        if len(self.bled):
            picks = generator.integers(0, len(self.bled), (RESAMPLES, len(self.bled)))
            score = score - BLEED_COST * self.bled[picks].mean(axis=1)
        return score

    def variant(self, checkpoint: str, strength: float) -> Variant:
        trigger = Measure(None)
        if self.closeness is not None and self.pull is not None and len(self.pull) and len(self.closeness):
            trigger = Measure(_round(self.closeness.mean() - self.pull.mean()), count=len(self.closeness))
        resampled, score = self.resampled_score(), Measure(None)
        if resampled is not None and self.learned is not None:
            value = self.learned.mean() - (BLEED_COST * self.bled.mean() if len(self.bled) else 0)
            low, high = np.quantile(resampled, [0.025, 0.975])
            score = Measure(_round(value), _round(low), _round(high), len(self.learned))
        tags = {
            tag: (_round(_mean_tag(self.learn, 1, tag)), _round(_mean_tag(self.learn, 0, tag)))
            for tag in (self.wanted if self.learn else ())
        }
        return Variant(
            checkpoint,
            strength,
            _measure(self.learned),
            _measure(self.closeness),
            _measure(self.attributes),
            tags,
            _measure(self.bled),
            _measure(self.leak),
            trigger,
            _variety(self.learn),
            _damage(self.bleed or self.learn),
            score,
        )


def _change(with_: Shot, without: Shot, apart: float | None) -> float:
    """How much a picture that must stay has changed, 0 to 1: mean of the embeddings' distance (over `apart`, the usual
    one between prompts) and of the tags' (1 - weighted Jaccard over tags that either picture has)."""
    distance = 1 - float(with_.embedding @ without.embedding)
    parts = [min(1.0, distance / apart)] if apart and apart > 1e-6 else [min(1.0, distance)]
    names = [tag for tag in without.tags if max(without.tags[tag], with_.tags.get(tag, 0.0)) >= NOTED_TAG]
    if names:
        one = np.array([without.tags[tag] for tag in names])
        other = np.array([with_.tags.get(tag, 0.0) for tag in names])
        parts.append(1 - float(np.minimum(one, other).sum() / np.maximum(one, other).sum()))
    return max(0.0, float(np.mean(parts)))


def _mean_tag(pairs: list[tuple[Shot, Shot]], side: int, tag: str) -> float:
    return float(np.mean([pair[side].tags.get(tag, 0.0) for pair in pairs]))


def _measure(values: Array | None) -> Measure:
    """Mean and 95 % bootstrap interval; no interval for fewer than three pairs."""
    if values is None or not len(values):
        return Measure(None)
    if len(values) < 3:
        return Measure(_round(values.mean()), count=len(values))
    picks = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return Measure(_round(values.mean()), _round(low), _round(high), len(values))


def _variety(pairs: list[tuple[Shot, Shot]]) -> float | None:
    if len(pairs) < 3:
        return None
    spreads = []
    for side in (0, 1):
        rows = np.stack([pair[side].embedding for pair in pairs]).astype(np.float64)
        likeness = rows @ rows.T
        spreads.append(1 - (likeness.sum() - np.trace(likeness)) / (len(rows) * (len(rows) - 1)))
    return _round(spreads[0] / spreads[1]) if spreads[1] > 1e-6 else None


def _damage(pairs: list[tuple[Shot, Shot]]) -> float | None:
    known = [(with_.pixels, without.pixels) for with_, without in pairs if with_.pixels and without.pixels]
    if not known:
        return None
    changes = [
        np.mean([np.log(max(with_[name], 1e-3) / max(without[name], 1e-3)) for with_, without in known])
        for name in ("contrast", "saturation", "sharpness")
    ]
    return _round(max(abs(float(change)) for change in changes))


def _round(value: float | np.floating[Any]) -> float:
    return round(float(value), 4)


def _recommend(variants: list[Variant], judged: dict[tuple[str, float], _Pairs]) -> Recommendation | None:
    """The best score of those that have learned something; variants whose difference to it, pair by pair, is not
    clearly above zero are named as ties."""
    ranked = [
        variant
        for variant in variants
        if variant.score.value is not None and judged[variant.checkpoint, variant.strength].has_learned
    ]
    if not ranked:
        return None
    best = max(ranked, key=lambda variant: (variant.score.value or 0.0, -variant.strength))
    top = judged[best.checkpoint, best.strength].resampled_score()
    ties = []
    for variant in ranked:
        other = judged[variant.checkpoint, variant.strength].resampled_score()
        if variant is not best and top is not None and other is not None and np.quantile(top - other, 0.025) <= 0:
            ties.append((variant.checkpoint, variant.strength))
    return Recommendation(best.checkpoint, best.strength, _reasons(best, ranked, ties), ties)


def _reasons(best: Variant, ranked: list[Variant], ties: list[tuple[str, float]]) -> list[str]:
    reasons = [f"It has learned {_percent(best.learned)} of what the training pictures show."]
    if best.attributes.value is not None:
        was = np.mean([base for base, _ in best.tags.values()])
        text = f"The tagger is {_percent(best.attributes)} sure of the attributes, and {was:.0%} with the base."
        reasons.append(text)
    if best.bleed.value is not None:
        reasons.append(f"Other prompts change by {_percent(best.bleed)} of the way to another picture.")
    strongest = max(ranked, key=lambda variant: variant.learned.value or 0.0)
    if strongest is not best and (strongest.bleed.value or 0) > (best.bleed.value or 0):
        text = "Another variant learned more, but its bleed costs more than that is worth."
        reasons.append(text)
    if ties:
        reasons.append(f"{plural(len(ties), 'other variant')} cannot be told apart from it with so few pictures.")
    return reasons


def _percent(measure: Measure) -> str:
    if measure.value is None:
        return "an unknown share"
    spread = "" if measure.low is None or measure.high is None else f" ({measure.low:.0%} to {measure.high:.0%})"
    return f"{measure.value:.0%}{spread}"


def _headline(variants: list[Variant], recommendation: Recommendation | None) -> str:
    if recommendation is None:
        return "The pictures are there, but too little is known to rank them: compare by eye."
    chosen = (recommendation.checkpoint, recommendation.strength)
    best = next(variant for variant in variants if (variant.checkpoint, variant.strength) == chosen)
    learned, bleed = best.learned.value or 0.0, best.bleed.value
    how = "hardly learned" if learned < 0.2 else "partly learned" if learned < 0.6 else "well learned"
    if bleed is None:
        return f"The subject is {how}; without prompts that must stay, bleed is unknown."
    side = (
        "leaving other prompts alone"
        if bleed < 0.15
        else "with some bleed"
        if bleed < STRONG_BLEED
        else "with strong bleed"
    )
    return f"The subject is {how}, {side}."


def _nothing_learned(variants: list[Variant]) -> Finding:
    """The finding that goes with NOTHING_LEARNED, with the way out."""
    most = max((variant.strength for variant in variants), default=0.0)
    remedy = (
        "Train longer or with a higher learning rate, check that every caption begins with the trigger, and that the "
        "prompts of the test hold it."
    )
    if most < LOW_STRENGTH:
        remedy = f"Test a higher strength first: {most:g} was the highest. If that shows nothing either: {remedy}"
    return Finding("bad", NOTHING_LEARNED, remedy, (), {"variants": len(variants)})


def _findings(
    variants: list[Variant], judged: dict[tuple[str, float], _Pairs], chosen: Recommendation | None, scale: _Scale
) -> list[Finding]:
    found = []
    still = [variant for variant in variants if judged[variant.checkpoint, variant.strength].changed < NO_CHANGE]
    if still:
        names = sorted({variant.checkpoint for variant in still})
        text = f"{plural(len(still), 'variant')} draw exactly what the base draws: the LoRA has no effect."
        remedy = "Check that it was trained (steps, learning rate) and fits this base."
        found.append(Finding("bad", text, remedy, (), {"checkpoints": names}))
    learn = min(len(pairs.learn) for pairs in judged.values())
    bleed = min(len(pairs.bleed) for pairs in judged.values())
    if learn < FEW_LEARN or bleed < FEW_BLEED:
        text = (
            f"Only {plural(learn, 'picture')} of the subject and {bleed} of other prompts a variant: take it as a hint."
        )
        found.append(
            Finding("info", text, "Add prompts or seeds for a surer answer.", (), {"learn": learn, "bleed": bleed})
        )
    if scale.room is None:
        text = "Likeness cannot be measured: no training pictures to compare with, or the base is as like already."
        found.append(Finding("info", text, "The attributes found by the tagger count alone."))
    best = next(
        (v for v in variants if chosen and (v.checkpoint, v.strength) == (chosen.checkpoint, chosen.strength)), None
    )
    return found + (_about(best) if best else [])


def _about(best: Variant) -> list[Finding]:
    """What stands out in the recommended variant."""
    found = []
    missing = [tag for tag, (before, after) in best.tags.items() if after < 0.3 and after < before + 0.15]
    if missing:
        text = f"Not learned: {', '.join(missing)}."
        remedy = "Train longer, check that the pictures show it clearly, and that its tag was pruned from the captions."
        found.append(Finding("warn", text, remedy, (), {"tags": {tag: list(best.tags[tag]) for tag in missing}}))
    if best.bleed.value is not None and best.bleed.value >= STRONG_BLEED:
        text = f"Prompts without the trigger change strongly ({_percent(best.bleed)})."
        remedy = "Lower the strength, take an earlier checkpoint, or train with a lower rate and more varied captions."
        found.append(Finding("warn", text, remedy, (), {"bleed": best.bleed.value}))
    if best.leak.value is not None and best.leak.value >= 0.15:
        text = "The subject's attributes appear where they were not asked for."
        found.append(Finding("warn", text, "Put the trigger first in every caption and prune what it stands for."))
    if best.variety is not None and best.variety < LOST_VARIETY:
        text = f"The pictures of the subject resemble one another ({best.variety:.0%} of the base's variety)."
        found.append(
            Finding("info", text, "Some of that is the subject itself; if poses repeat, take an earlier checkpoint.")
        )
    if best.damage is not None and best.damage >= DAMAGE:
        text = "Contrast, saturation or sharpness are far from the base's: the LoRA may be burnt."
        found.append(
            Finding("warn", text, "Lower the strength or take an earlier checkpoint.", (), {"damage": best.damage})
        )
    return found
