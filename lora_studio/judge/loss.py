"""What the loss curve says, in words, and how sure one can be.

The training loss of a diffusion model is mostly chance: which noise level was drawn counts more than what was
learned. So nothing is read off single points; means of many steps are compared with bootstrap intervals. The
validation loss is taken at fixed noise and is far quieter: where there is one, it decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lora_studio.judge.common import Finding, Level

Phase = Literal["early", "learning", "plateau", "overfitting", "unstable", "rising", "diverged", "unclear"]
Array = NDArray[np.float64]

EARLY = 40
"""Steps before which nothing is said of a trend."""
RESAMPLES = 1000
SPIKE_DEVIATIONS = 5.0
SPIKE_TIMES = 3.0
"""A spike lies this many robust deviations (on a log scale) and this many times above the steps around it."""
MANY_SPIKES = 0.01
DIVERGED_CHANGE = 1.0
"""A doubling."""
RISING_SHARE = 0.1
MIN_VALIDATIONS = 3
FAIR_STRETCH, FAIR_CHECKS = 0.25, 2
"""This share of the steps so far, and this many checks, without gain before it is said that no more is to come."""
CLEAR = 5.0
"""Times the wobble of the validation loss from which a change counts."""


@dataclass(frozen=True)
class Verdict:
    """One sentence, the findings behind it, and the step to stop at."""

    level: Level
    headline: str
    findings: list[Finding] = field(default_factory=list)
    best_step: int | None = None
    """Where the validation loss was best; None without enough validation, or after divergence without one."""
    phase: Phase = "unclear"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "findings": [finding.to_dict() for finding in self.findings]}


@dataclass(frozen=True)
class Trend:
    """Change of the mean loss from one stretch to a later one, as a share of the earlier; negative is a fall."""

    change: float
    low: float
    high: float
    """95 % interval."""
    surely_above: float
    """Lower end of the 99 % interval: a false alarm of getting worse costs a good run."""

    @property
    def falls(self) -> bool:
        """The whole 95 % interval lies below zero."""
        return self.high < 0

    @property
    def rises(self) -> bool:
        """The whole 99 % interval lies above zero, and the rise is more than RISING_SHARE."""
        return self.surely_above > 0 and self.change > RISING_SHARE


def smooth(losses: Sequence[float], span: int) -> Array:
    """(N,) -> (N,): exponential moving average without the pull of the first value; `span` steps weigh two thirds."""
    weight = 2 / (span + 1)
    total, norm, result = 0.0, 0.0, []
    for loss in losses:
        total = (1 - weight) * total + weight * loss
        norm = (1 - weight) * norm + weight
        result.append(total / norm)
    return np.array(result)


def verdict(
    steps: Sequence[int],
    losses: Sequence[float],
    validation: Sequence[tuple[int, float]] = (),
    *,
    held_out: bool = True,
) -> Verdict:
    """Judge a run so far. `steps` and `losses` are (N,) and belong together; `validation` is (step, loss) in order.
    `held_out` says whether its pictures are kept from the training: on pictures that are trained on too, learning by
    heart looks like learning, so it is then never claimed and the reader is told.

    Measured on synthetic curves with noise of 60 % of the loss (100 seeds each, 400 steps): a falling or flat curve is
    called rising, unstable or diverged in 0 or 1 of 100 cases; a doubling is found in 100, a rise by half in 96. A fall
    by 15 % is seen without validation in only 36: that is what such noise allows. With validation at fixed noise
    (wobble of 0.2 %): falling or level checks are called overfitting in at most 1 of 100; a loss of a quarter of the
    gain is found in 83 of 100 with ten checks and in all with twenty. With four checks it takes a larger rise.
    """
    values = np.asarray(losses, dtype=np.float64)
    checks = np.array([loss for _, loss in validation], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad) or not np.isfinite(checks).all():
        where = f" at step {steps[bad[0]]}" if len(bad) else ""
        text = f"The training broke{where}: the loss is no longer a number."
        finding = Finding("bad", text, "Take a lower learning rate, and start again from an earlier checkpoint.")
        return Verdict("bad", text, [finding], _best_finite(validation), "diverged")
    if len(values) < EARLY and len(checks) < MIN_VALIDATIONS:
        return Verdict("info", f"Too early to say: {len(values)} of at least {EARLY} steps.", phase="early")
    diverged = _diverged(steps, values, validation)
    if diverged:
        return diverged
    spikes = _spikes(steps, values)
    if len(checks) >= MIN_VALIDATIONS:
        judged = _by_validation(values, steps, validation, held_out)
    else:
        judged = _by_training(values, validation, held_out)
    if spikes is None:
        return judged
    findings = [spikes, *judged.findings]
    if spikes.level == "info":
        return Verdict(judged.level, judged.headline, findings, judged.best_step, judged.phase)
    text = "The training is unstable: the loss jumps. A lower learning rate or a lower adapter.alpha calms it."
    return Verdict("warn", text, findings, judged.best_step, "unstable")


def _best_finite(validation: Sequence[tuple[int, float]]) -> int | None:
    finite = [(loss, step) for step, loss in validation if np.isfinite(loss)]
    return min(finite)[1] if finite else None


def trend(before: Array, after: Array) -> Trend:
    """Mean of `after` against mean of `before`, with a 95 % bootstrap interval; single losses are capped at the
    98th percentile of both, so that one bad batch decides nothing."""
    cap = float(np.quantile(np.concatenate([before, after]), 0.98))
    first, second = np.minimum(before, cap), np.minimum(after, cap)
    generator = np.random.default_rng(0)
    means = [generator.choice(part, (RESAMPLES, len(part))).mean(axis=1) for part in (first, second)]
    sure, low, high = np.quantile(means[1] / np.maximum(means[0], 1e-12) - 1, [0.005, 0.025, 0.975])
    change = float(second.mean() / max(float(first.mean()), 1e-12) - 1)
    return Trend(change, float(low), float(high), float(sure))


def _diverged(steps: Sequence[int], values: Array, validation: Sequence[tuple[int, float]]) -> Verdict | None:
    """The last tenth lies at more than twice the first quarter, half or three quarters of the run."""
    window = max(10, len(values) // 10)
    if len(values) < EARLY:
        return None
    for share in (0.75, 0.5, 0.25):
        cut = int(len(values) * share)
        if np.median(values[-window:]) < np.median(values[:cut]):
            continue
        found = trend(values[:cut], values[-window:])
        if found.change <= DIVERGED_CHANGE or found.surely_above <= DIVERGED_CHANGE / 2:
            continue
        level = 1.5 * float(values[:cut].mean())
        above = smooth(values, window)[cut:] > level
        step = int(steps[cut + int(np.flatnonzero(above)[0])]) if above.any() else int(steps[cut])
        text = f"The training has come apart: since about step {step} the loss has more than doubled."
        remedy = "Use a checkpoint from before, and train again with half the learning rate."
        evidence = {"change": round(found.change, 2), "at_least": round(found.surely_above, 2)}
        early = [point for point in validation if point[0] <= step]
        return Verdict("bad", text, [Finding("bad", text, remedy, (), evidence)], _best_finite(early), "diverged")
    return None


def _spikes(steps: Sequence[int], values: Array) -> Finding | None:
    """Single steps far above the median of the 31 around them."""
    if len(values) < EARLY:
        return None
    logs = np.log(np.maximum(values, 1e-12))
    half = 15
    padded = np.pad(logs, half, mode="reflect")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    over = logs - around
    deviation = 1.4826 * float(np.median(np.abs(over - np.median(over))))
    found = np.flatnonzero(over > max(SPIKE_DEVIATIONS * deviation, np.log(SPIKE_TIMES)))
    if not len(found):
        return None
    share = len(found) / len(values)
    many = len(found) >= 3 and share >= MANY_SPIKES
    where = ", ".join(str(int(steps[place])) for place in found[:5])
    text = f"The loss jumped at {len(found)} of {len(values)} steps (first: {where})."
    remedy = "Lower the learning rate or max_grad_norm; look at the pictures if it is always the same." if many else ""
    return Finding("warn" if many else "info", text, remedy, (), {"count": len(found), "share": round(share, 4)})


def _blind(validation: Sequence[tuple[int, float]], held_out: bool) -> Finding:
    """Why learning by heart cannot be seen."""
    if validation and not held_out:
        text = "No pictures are held out: the validation loss is of pictures that are trained on, so learning by heart"
        remedy = "Judge by the samples. With 40 pictures or more, hold a tenth out: run.validation_share = 0.1."
        return Finding("info", f"{text} cannot be seen in it.", remedy)
    missing = "There are too few validations yet" if validation else "There is no validation loss"
    return Finding("info", f"{missing}, so learning by heart cannot be seen here: judge by the samples.")


def _by_training(values: Array, validation: Sequence[tuple[int, float]], held_out: bool) -> Verdict:
    """Without validation: the last third against the first, the last quarter against the half before it."""
    third, quarter = len(values) // 3, len(values) // 4
    whole = trend(values[:third], values[-third:])
    late = trend(values[quarter:-quarter], values[-quarter:])
    evidence = {"change": round(whole.change, 3), "interval": [round(whole.low, 3), round(whole.high, 3)]}
    note = _blind(validation, held_out)
    percent = f"{abs(whole.change) * 100:.0f} %"
    if late.rises or (whole.rises and not late.falls):
        text = "The loss is rising: the training is getting worse."
        finding = Finding("warn", text, "Stop, use an earlier checkpoint, and lower the learning rate.", (), evidence)
        return Verdict("warn", text, [finding, note], None, "rising")
    if whole.falls and late.falls:
        text = f"It is learning: the loss has fallen by {percent} and still falls."
        return Verdict("good", text, [Finding("good", text, "", (), evidence), note], None, "learning")
    if whole.falls:
        text = f"The loss has fallen by {percent}; of late no further fall can be told from chance."
        return Verdict("good", text, [Finding("good", text, "", (), evidence), note], None, "plateau")
    text = "No trend can be told from the noise of the loss; that is common. Judge by the samples."
    return Verdict("info", text, [Finding("info", text, "", (), evidence), note], None, "unclear")


def validation_noise(checks: Array) -> float:
    """(N,) -> standard deviation of the wobble around a smooth curve, from second differences; between 0.1 %
    of the loss and, where fewer than eight points tell wobble and bend apart badly, 0.4 % of it."""
    level = float(np.abs(checks).min())
    if len(checks) < 4:
        return 0.001 * level
    second = checks[:-2] - 2 * checks[1:-1] + checks[2:]
    wobble = 1.4826 * float(np.median(np.abs(second))) / np.sqrt(6)
    return max(0.001 * level, min(wobble, 0.004 * level) if len(checks) < 8 else wobble)


def _by_validation(
    values: Array, steps: Sequence[int], validation: Sequence[tuple[int, float]], held_out: bool
) -> Verdict:
    """The verdict at fixed noise, with the word on what it cannot see."""
    found = _validated(values, steps, validation, held_out)
    return found if held_out else replace(found, findings=[*found.findings, _blind(validation, held_out)])


def _validated(values: Array, steps: Sequence[int], validation: Sequence[tuple[int, float]], held_out: bool) -> Verdict:
    """At fixed noise: where it was lowest, whether it rises since, whether it still falls."""
    at = np.array([step for step, _ in validation])
    checks = np.array([loss for _, loss in validation], dtype=np.float64)
    noise, best = validation_noise(checks), int(checks.argmin())
    fall = float(checks[0] - checks[best])
    since = len(checks) - 1 - best
    rise = float(checks[-2:].mean() - checks[best]) if since >= 2 else 0.0
    evidence = {
        "best": round(float(checks[best]), 5), "last": round(float(checks[-1]), 5), "first": round(float(checks[0]), 5),
        "noise": round(noise, 5),
    }  # fmt: skip
    if rise > max(CLEAR * noise, 0.1 * fall):
        return _after_the_best(values, steps, int(at[best]), rise, fall, evidence, held_out)
    # the earliest point that is as good as the best: what comes after it gains nothing
    settled = int(at[np.flatnonzero(checks <= checks[best] + 2 * noise)[0]])
    recent = max(2, len(checks) // 3)
    late_fall = float(checks[: -recent + 1][-1] - checks[-recent + 1 :].min())
    if fall > CLEAR * noise and late_fall > max(2 * noise, 0.05 * fall):
        text = f"It is learning: the validation loss still falls, by {_percent(fall, checks[0])} so far."
        return Verdict("good", text, [Finding("good", text, "", (), evidence)], int(at[best]), "learning")
    now = max(int(at[-1]), int(steps[-1]) if len(steps) else 0)
    waited = now - settled >= FAIR_STRETCH * now and (at > settled).sum() >= FAIR_CHECKS
    if fall > CLEAR * noise and not waited:
        text = f"It is learning: the validation loss has fallen by {_percent(fall, checks[0])}, of late more slowly."
        return Verdict("good", text, [Finding("good", text, "", (), evidence)], int(at[best]), "learning")
    if fall > CLEAR * noise:
        text = f"It has learned what it can: no gain since about step {settled}. Stop, or take that checkpoint."
        return Verdict("good", text, [Finding("good", text, "", (), evidence)], settled, "plateau")
    text = "The validation loss hardly moves: nothing has been learned that it can see."
    remedy = "Judge by the samples; if they do not change either, raise the learning rate or train longer."
    return Verdict("info", text, [Finding("info", text, remedy, (), evidence)], settled, "unclear")


def _after_the_best(
    values: Array, steps: Sequence[int], best: int, rise: float, fall: float, evidence: dict[str, Any], held_out: bool
) -> Verdict:
    """The validation loss has risen since `best`: by heart when the training loss did not rise along with it, and
    the validation's pictures are not among those that are trained on."""
    place = int(np.searchsorted(steps, best))
    before, after = values[max(0, place // 2) : place], values[place:]
    enough = len(before) >= 10 and len(after) >= 10
    if not held_out:
        text = f"The loss rises since step {best}, on pictures that are trained on: the training is getting worse."
        remedy = f"Take the checkpoint near step {best}, and lower the learning rate."
        return Verdict("warn", text, [Finding("warn", text, remedy, (), evidence)], best, "rising")
    if enough and trend(before, after).rises:
        text = f"The loss rises on all pictures since step {best}: the training is getting worse."
        remedy = f"Take the checkpoint near step {best}, and lower the learning rate."
        return Verdict("warn", text, [Finding("warn", text, remedy, (), evidence)], best, "rising")
    back = f", {rise / fall * 100:.0f} % of what was gained is lost again" if fall > 0 else ""
    text = f"It learns by heart since step {best}: validation gets worse{back}. Take the checkpoint near there."
    remedy = "Stop here. For the next run: fewer epochs, more different pictures, or a lower adapter.rank."
    return Verdict("warn", text, [Finding("warn", text, remedy, (), evidence)], best, "overfitting")


def _percent(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.0f} %" if share >= 1 else f"{share:.1f} %"
