import json

import numpy as np
import pytest

from lora_studio.judge.lora import Shot, pixel_stats, scorecard

WIDTH = 32
TAGS = ("green hair", "twintails", "smile", "blue shirt")
SUBJECT = np.random.default_rng(7).normal(size=WIDTH)


def unit(vector):
    return vector / np.linalg.norm(vector)


def references(count=20):
    generator = np.random.default_rng(8)
    return np.stack([unit(SUBJECT + 2 * generator.normal(size=WIDTH)) for _ in range(count)])


def shot(checkpoint, strength, prompt, role, seed, learned=0.0, bleed=0.0):
    """A picture whose embedding is moved towards the subject by `learned` (or `bleed` where it must stay)."""
    generator = np.random.default_rng(abs(hash_of(prompt)) + seed)
    start = generator.normal(size=WIDTH)
    moved = learned if role == "learn" else bleed
    noise = np.random.default_rng(abs(hash_of(f"{checkpoint}{strength}{prompt}")) + seed).normal(size=WIDTH)
    wobble = 0.05 * noise if checkpoint else 0
    found = 0.05 + 0.85 * moved
    tags = {"green hair": found, "twintails": found, "smile": 0.8, "blue shirt": 0.3}
    return Shot(
        checkpoint, strength, prompt, role, seed, unit((1 - moved) * start + moved * SUBJECT * 1.3 + wobble), tags
    )


def hash_of(text):
    return sum(ord(letter) * (place + 1) for place, letter in enumerate(text))


def shots(variants, prompts=4, bleed_prompts=3, seeds=(1, 2)):
    """`variants`: {(checkpoint, strength): (learned, bleed)}; the base is added."""
    found = []
    for (checkpoint, strength), (learned, bleed) in {(None, 0.0): (0, 0), **variants}.items():
        for seed in seeds:
            for number in range(prompts):
                found.append(shot(checkpoint, strength, f"zorbi, p{number}", "learn", seed, learned))
            for number in range(bleed_prompts):
                found.append(shot(checkpoint, strength, f"someone, q{number}", "bleed", seed, bleed=bleed))
    return found


def judged(variants, **sizes):
    return scorecard(shots(variants, **sizes), references(), ["green hair", "twintails"])


def test_a_lora_that_learned_and_leaves_the_rest_alone_is_recommended():
    card = judged({("early", 1.0): (0.1, 0.0), ("right", 1.0): (0.6, 0.05), ("late", 1.0): (0.75, 0.9)})
    assert (card.recommendation.checkpoint, card.recommendation.strength) == ("right", 1.0)
    assert card.recommendation.ties == [] and "well learned" in card.headline
    assert any("bleed costs more" in reason for reason in card.recommendation.reasons)


def test_learned_and_bleed_grow_with_what_was_put_in():
    card = judged({("a", strength): (strength, strength / 2) for strength in (0.2, 0.5, 0.8)})
    (curve,) = card.to_dict()["strength_curves"].values()
    assert [point["strength"] for point in curve] == [0.2, 0.5, 0.8]
    learned, bleed = ([point[name] for point in curve] for name in ("learned", "bleed"))
    assert learned == sorted(learned) and learned[-1] - learned[0] > 0.4
    assert bleed == sorted(bleed) and bleed[-1] - bleed[0] > 0.15


def test_intervals_hold_their_value_and_shrink_with_more_pictures():
    few, many = judged({("a", 1.0): (0.5, 0.3)}, seeds=(1, 2)), judged({("a", 1.0): (0.5, 0.3)}, seeds=range(20))
    widths = []
    for card in (few, many):
        closeness = card.variants[0].closeness
        assert closeness.low <= closeness.value <= closeness.high
        widths.append(closeness.high - closeness.low)
    assert widths[1] < widths[0] / 2


def test_a_lora_without_effect_is_said_so():
    base = shots({})
    same = [Shot("dead", 1.0, one.prompt, one.role, one.seed, one.embedding, one.tags) for one in base]
    card = scorecard([*base, *same], references(), ["green hair"])
    assert card.recommendation is None and "no checkpoint is worth" in card.headline
    assert card.findings[0].text == card.headline and card.findings[0].remedy
    assert card.findings[1].level == "bad" and "no effect" in card.findings[1].text
    assert card.variants[0].bleed.value == 0 and card.variants[0].closeness.value == 0
    assert not any("no effect" in finding.text for finding in judged({("a", 1.0): (0.5, 0.1)}).findings)


def test_variants_that_cannot_be_told_apart_are_named():
    card = judged({("one", 1.0): (0.6, 0.1), ("two", 1.0): (0.6, 0.1), ("far", 1.0): (0.0, 0.0)})
    ties = [checkpoint for checkpoint, _ in card.recommendation.ties]
    assert ties in (["one"], ["two"]) and any("told apart" in reason for reason in card.recommendation.reasons)


@pytest.mark.parametrize(("sizes", "said"), [({"prompts": 1, "bleed_prompts": 1}, True), ({}, False)])
def test_too_few_pictures_are_said(sizes, said):
    findings = judged({("a", 1.0): (0.5, 0.1)}, **sizes).findings
    assert any("take it as a hint" in finding.text for finding in findings) is said


def test_an_attribute_that_was_not_learned_is_named():
    made = shots({("a", 1.0): (0.7, 0.0)})
    for one in made:
        one.tags["twintails"] = 0.05
    findings = scorecard(made, references(), ["green hair", "twintails"]).findings
    assert [finding.text for finding in findings if "Not learned" in finding.text] == ["Not learned: twintails."]


def test_strong_bleed_and_leaking_attributes_are_warned_of():
    text = " ".join(finding.text for finding in judged({("a", 1.0): (0.8, 0.8)}).findings)
    assert "change strongly" in text and "not asked for" in text


def test_the_trigger_counts_only_what_it_adds():
    free, tied = (judged({("a", 1.0): (0.7, bleed)}).variants[0].trigger.value for bleed in (0.7, 0.0))
    assert tied > free + 0.3


def test_pictures_that_are_all_the_same_lose_variety():
    made = shots({("a", 1.0): (0.5, 0.0)})
    same = [
        one if one.checkpoint is None or one.role == "bleed" else Shot(*astuple_with(one, unit(SUBJECT)))
        for one in made
    ]
    card = scorecard(same, references(), [])
    assert card.variants[0].variety < 0.1 and any("resemble" in finding.text for finding in card.findings)


def astuple_with(one, embedding):
    return one.checkpoint, one.strength, one.prompt, one.role, one.seed, embedding, one.tags


def test_burnt_colours_are_damage():
    gray = np.full((64, 64, 3), 120, np.uint8)
    gray[::2] = 140
    burnt = np.zeros((64, 64, 3), np.uint8)
    burnt[::2, :, 0] = 255
    made = []
    for one in shots({("a", 1.0): (0.5, 0.1)}):
        pixels = pixel_stats(burnt if one.checkpoint else gray)
        made.append(Shot(*astuple_with(one, one.embedding), pixels))
    card = scorecard(made, references(), [])
    assert card.variants[0].damage > 1 and any("burnt" in finding.text for finding in card.findings)
    assert judged({("a", 1.0): (0.5, 0.1)}).variants[0].damage is None


def test_without_references_the_attributes_count_alone():
    card = scorecard(shots({("a", 1.0): (0.6, 0.1)}), np.zeros((0, WIDTH)), ["green hair"])
    (variant,) = card.variants
    assert variant.closeness.value is None and variant.learned.value == pytest.approx(variant.attributes.value)
    assert card.recommendation is not None


def test_without_anything_to_measure_nothing_is_recommended():
    card = scorecard(shots({("a", 1.0): (0.6, 0.1)}), np.zeros((0, WIDTH)), [])
    assert card.recommendation is None and "by eye" in card.headline
    assert scorecard([], references(), []).variants == []


def test_the_card_can_be_written_as_json():
    data = json.loads(json.dumps(judged({("a", 1.0): (0.6, 0.1)}, bleed_prompts=0).to_dict()))
    assert data["recommendation"]["checkpoint"] == "a" and data["variants"][0]["bleed"]["value"] is None
    assert data["variants"][0]["tags"]["green hair"] == [0.05, 0.56]


def test_what_the_base_draws_already_is_not_called_learned():
    """The base is half sure of the wanted tags by itself, so `learned` is high with pictures that gain nothing."""
    made = shots({("idle", 1.0): (0.0, 0.0)}, prompts=6)
    for one in made:
        one.tags["green hair"] = one.tags["twintails"] = 0.5
    card = scorecard(made, references(), ["green hair", "twintails"])
    assert card.variants[0].learned.low > 0.1
    assert card.recommendation is None and card.findings[0].level == "bad"


def test_a_variant_without_effect_never_wins_over_one_that_learned_with_bleed():
    card = judged({("idle", 1.0): (0.0, 0.0), ("strong", 1.0): (0.15, 0.9)})
    idle, strong = card.variants
    assert idle.score.value > strong.score.value, "the case: by score alone the idle one would win"
    assert card.recommendation.checkpoint == "strong"


@pytest.mark.parametrize(("strength", "asked"), [(0.4, True), (1.0, False)])
def test_nothing_at_a_low_strength_asks_for_a_higher_one(strength, asked):
    card = judged({("a", strength): (0.0, 0.0)})
    assert card.recommendation is None and ("higher strength" in card.findings[0].remedy) is asked
