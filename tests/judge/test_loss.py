import math

import numpy as np
import pytest

from lora_studio.judge.loss import smooth, verdict

STEPS = list(range(1, 401))
SEEDS = range(40)
SHAPES = {
    "falls": lambda x: 1 - 0.15 * x,
    "falls fast": lambda x: 1 - 0.6 * (1 - np.exp(-3 * x)),
    "settles": lambda x: 1 - 0.5 * (1 - np.exp(-25 * x)),
    "flat": lambda x: 1 + 0 * x,
    "rises": lambda x: 1 + np.clip(x - 0.4, 0, 1),
    "diverges": lambda x: np.where(x > 0.7, 1 + 40 * (x - 0.7), 1 - 0.1 * x),
}
CHECKS = {
    "falls": lambda x: 1 - 0.1 * x,
    "settles": lambda x: 1 - 0.1 * (1 - np.exp(-8 * x)),
    "turns": lambda x: 1 - 0.1 * np.where(x < 0.5, 2 * x, 1.5 - x),
    "flat": lambda x: 1 + 0 * x,
}


def losses(shape, seed, noise=0.6, count=400):
    """Lognormal noise of 60 % around the shape: about what single steps of diffusion training scatter."""
    deviation = math.sqrt(math.log(1 + noise**2))
    scatter = np.random.default_rng(seed).normal(0, deviation, count) - deviation**2 / 2
    return 0.55 * SHAPES[shape](np.linspace(0, 1, count)) * np.exp(scatter)


def checks(shape, seed, count=12, noise=0.002):
    generator = np.random.default_rng(1000 + seed)
    values = 0.55 * CHECKS[shape](np.linspace(0, 1, count)) * (1 + noise * generator.normal(size=count))
    return [(round(400 * (number + 1) / count), float(value)) for number, value in enumerate(values)]


def phases(shape, validation=None):
    found = [verdict(STEPS, losses(shape, seed), checks(validation, seed) if validation else ()) for seed in SEEDS]
    return [one.phase for one in found], found


@pytest.mark.parametrize(("shape", "phase", "least"), [("diverges", "diverged", 40), ("rises", "rising", 36)])
def test_getting_worse_is_seen(shape, phase, least):
    assert phases(shape)[0].count(phase) >= least


@pytest.mark.parametrize("shape", ["falls", "falls fast", "settles", "flat"])
def test_a_run_that_is_well_is_hardly_ever_called_ill(shape):
    ill = [phase for phase in phases(shape)[0] if phase in ("diverged", "rising", "unstable", "overfitting")]
    assert len(ill) <= 2, ill


def test_a_rise_too_slight_to_matter_is_no_alarm_however_sure():
    values = losses("flat", 0, noise=0.1, count=8000) * np.linspace(1, 1.06, 8000)
    assert verdict(range(8000), values).phase == "unclear"


def test_a_clear_fall_is_seen_without_validation_and_a_slight_one_is_not_made_up():
    assert set(phases("falls fast")[0]) <= {"learning", "plateau"}
    assert phases("settles")[0].count("learning") <= 4
    assert phases("flat")[0].count("unclear") >= 34


@pytest.mark.parametrize(
    ("validation", "phase", "least"),
    [("falls", "learning", 40), ("settles", "plateau", 36), ("turns", "overfitting", 34)],
)
def test_validation_decides(validation, phase, least):
    assert phases("falls", validation)[0].count(phase) >= least


@pytest.mark.parametrize("validation", ["falls", "settles", "flat"])
def test_validation_that_does_not_rise_is_hardly_ever_called_overfitting(validation):
    assert phases("falls", validation)[0].count("overfitting") <= 1


def test_the_step_to_stop_at_lies_near_the_turn():
    best = [one.best_step for one in phases("falls", "turns")[1] if one.phase == "overfitting"]
    assert 170 <= np.median(best) <= 250 and all(140 <= step <= 290 for step in best)


def test_validation_that_rises_with_the_training_loss_is_no_learning_by_heart():
    found = [verdict(STEPS, losses("rises", seed), checks("turns", seed)).phase for seed in SEEDS]
    assert "overfitting" not in found or found.count("overfitting") <= 6
    assert found.count("rising") >= 20


def test_the_first_steps_say_nothing():
    found = verdict(STEPS[:10], losses("falls", 0)[:10])
    assert found.phase == "early" and found.best_step is None and "10 of" in found.headline
    assert verdict([], []).phase == "early"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_its_step_and_the_last_good_check(value):
    values = losses("falls", 0)
    values[200] = value
    found = verdict(STEPS, values, [(100, 0.5), (150, 0.4), (300, float("nan"))])
    assert found.phase == "diverged" and "step 201" in found.headline and found.best_step == 150


def test_jumps_are_called_unstable_and_a_single_one_only_noted():
    many, one = losses("falls", 1), losses("falls", 1)
    many[20::30] = 20
    one[200] = 20
    assert verdict(STEPS, many).phase == "unstable"
    found = verdict(STEPS, one)
    assert found.phase != "unstable" and any("201" in finding.text for finding in found.findings)


def test_losses_that_differ_by_noise_level_as_in_real_training_raise_no_alarm():
    ill = 0
    for seed in SEEDS:
        levels = np.random.default_rng(seed).uniform(0, 1, 400)
        ill += verdict(STEPS, 0.02 + 0.9 * levels**3).phase in ("diverged", "rising", "unstable")
    assert ill <= 1


def test_smoothing_keeps_a_constant_and_follows_a_step():
    assert np.allclose(smooth([2.0] * 20, 5), 2)
    followed = smooth([0.0] * 50 + [1.0] * 50, 10)
    assert followed[49] == 0 and 0.85 < followed[60] < 1 and followed[-1] > 0.99


def test_without_held_out_pictures_nothing_is_called_learning_by_heart_and_the_reader_is_told():
    for seed in SEEDS:
        blind = verdict(STEPS, losses("falls", seed), checks("turns", seed), held_out=False)
        assert blind.phase != "overfitting" and "by heart" not in blind.headline
        (told,) = [finding for finding in blind.findings if "by heart" in finding.text]
        assert told.level == "info" and "trained on" in told.text and "validation_share" in told.remedy
        seen = verdict(STEPS, losses("falls", seed), checks("turns", seed))
        assert not any("trained on" in finding.text for finding in seen.findings)


@pytest.mark.parametrize("held_out", [True, False])
def test_too_few_checks_say_why_learning_by_heart_is_not_seen(held_out):
    found = verdict(STEPS, losses("falls fast", 0), checks("falls", 0)[:2], held_out=held_out)
    told = " ".join(finding.text for finding in found.findings)
    assert ("too few" in told) is held_out and ("trained on" in told) is not held_out


def settled(step, last, every=10):
    """Checks that fall until `step` and stay there until `last`."""
    return [(at, 0.6 - 0.1 * min(at, step) / step) for at in range(every, last + 1, every)]


@pytest.mark.parametrize(
    ("step", "last", "phase"),
    [(150, 150, "learning"), (150, 160, "learning"), (150, 190, "learning"), (150, 210, "plateau")],
)
def test_no_gain_is_said_only_after_a_fair_stretch_without_one(step, last, phase):
    found = verdict(range(1, last + 1), losses("falls", 0, count=last), settled(step, last))
    assert found.phase == phase and ("no gain" in found.headline) is (phase == "plateau")


def test_one_late_check_is_no_fair_stretch_however_long():
    points = [*settled(150, 150), (400, 0.5)]
    assert verdict(range(1, 401), losses("falls", 0, count=400), points).phase == "learning"
