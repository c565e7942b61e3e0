"""What a picture's caption is in a step: tags shuffled and thinned out, wildcards drawn, sentences as they are, and the
trigger in front. No torch, so that the page can show what training shows.

A function of seed, epoch and picture alone, so that a resumed run goes on as it would have.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lora_studio.core import captions
from lora_studio.engine.config import DataConfig, TrainConfig

Pick = Callable[[Sequence[str]], int]
"""Says which of the choices of a wildcard is taken, from 0."""


@dataclass(frozen=True)
class Words:
    """What is written of a picture."""

    caption: str = ""
    """Tags with commas."""
    prose: str = ""
    """Sentences: never split, never shuffled."""
    trigger: str = ""
    """The word that calls the LoRA; empty for regularisation pictures."""

    @property
    def led(self) -> "Words":
        """The same with the trigger in front, in the tags where there are some, else in the sentences."""
        if not self.trigger:
            return self
        if self.prose.strip() and not self.caption.strip():
            return replace(self, prose=_led_prose(self.prose, self.trigger))
        return replace(self, caption=_led_tags(self.caption, self.trigger))

    def chosen(self, pick: "Pick") -> "Words":
        """The same with one choice of each wildcard."""
        return replace(self, caption=choose(self.caption, pick), prose=choose(self.prose, pick))

    def whole(self, config: DataConfig) -> "Shown":
        """All of it, without chance: of each wildcard the first choice."""
        return self.alternatives(config)[0]

    def alternatives(self, config: DataConfig) -> "list[Shown]":
        """All of it once for each choice of its wildcards: the first choices of all, the second ones, and so on."""
        if not has_wildcards(self, config):
            led = self.led
            return [Shown(led.caption, led.prose, self.trigger)]
        most = 1

        def nth(number: int) -> Pick:
            def pick(choices: Sequence[str]) -> int:
                nonlocal most
                most = max(most, len(choices))
                return number % len(choices)

            return pick

        found: list[Shown] = []
        while len(found) < most:
            led = self.chosen(nth(len(found))).led
            found.append(Shown(led.caption, led.prose, self.trigger))
        return found


@dataclass(frozen=True)
class Shown:
    """The words of a picture as they come up."""

    tags: str
    prose: str
    trigger: str = ""
    dropped: tuple[str, ...] = ()
    """Tags that are left out this time."""

    @property
    def text(self) -> str:
        """What the text encoders are given: the tags, then the sentences."""
        return ", ".join(part for part in (self.tags, self.prose) if part)

    @property
    def without_trigger(self) -> str:
        """The text without the trigger's words: what the base alone is asked when it shall be preserved."""
        tags = without_trigger(self.tags, self.trigger)
        return ", ".join(part for part in (tags, _prose_without(self.prose, self.trigger)) if part)


# --- by chance --------------------------------------------------------------------------------------------------------


def chance_of(config: TrainConfig, epoch: int, picture: str, turn: int, resolution: int) -> random.Random:
    """The generator of all chance about one sample: the picture `picture`, which of its repeats it is (`turn`, from 0),
    and the size it is trained at. `draw` comes first; what else is drawn comes after."""
    size = "" if resolution == config.data.resolution else f" {resolution}"
    return random.Random(f"{config.run.seed} sample {epoch} {picture} {turn}{size}")


def draw(words: Words, config: DataConfig, chance: random.Random) -> tuple[bool, Shown]:
    """Whether the picture is mirrored, and its words."""
    flip = config.flip and chance.random() < 0.5
    return flip, vary(words, config, chance)


def vary(words: Words, config: DataConfig, chance: random.Random) -> Shown:
    """The words as shown this time: dropped, wildcards drawn, tags shuffled and thinned out. The trigger stays in
    front, and so do the first `keep_tokens` tags (it counts among them)."""
    if chance.random() < config.caption_dropout:
        return Shown("", "", words.trigger, tuple(captions.split(words.led.caption)))
    if has_wildcards(words, config):
        words = words.chosen(lambda choices: chance.randrange(len(choices)))
    words = words.led
    if not words.caption or not (config.shuffle_tags or config.tag_dropout):
        return Shown(words.caption, words.prose, words.trigger)
    tags = captions.split(words.caption)
    keep = max(config.keep_tokens, 1 if words.trigger and _is_tag(tags[0], words.trigger) else 0)
    kept, rest = tags[:keep], tags[keep:]
    if config.tag_dropout:
        rest = [tag for tag in rest if chance.random() >= config.tag_dropout]
    left = {tag.casefold() for tag in rest}
    dropped = tuple(tag for tag in tags[keep:] if tag.casefold() not in left)
    if config.shuffle_tags:
        chance.shuffle(rest)
    return Shown(captions.join(kept + rest), words.prose, words.trigger, dropped)


def varies(words: Words, config: DataConfig) -> bool:
    """Whether chance changes the words beyond leaving all of them out."""
    return has_wildcards(words, config) or bool(words.caption and (config.shuffle_tags or config.tag_dropout))


# --- the trigger ------------------------------------------------------------------------------------------------------


def without_trigger(caption: str, trigger: str) -> str:
    """Tags without the trigger's words, as a tag or within one, ignoring case."""
    words = [word for word in captions.split(trigger) if word]
    if not words:
        return caption
    tags = captions.split(captions.remove(caption, words))
    return captions.join(" ".join(_pattern(words).sub(" ", tag).split()) for tag in tags)


def _prose_without(prose: str, trigger: str) -> str:
    words = [word for word in captions.split(trigger) if word]
    if not words or not prose:
        return prose
    return " ".join(_pattern(words).sub(" ", prose).split()).lstrip(" ,")


def _pattern(words: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words), re.IGNORECASE)


def _led_tags(caption: str, trigger: str) -> str:
    """The tags as they are where they begin with the trigger, else with it in front."""
    if _is_tag(caption.partition(",")[0], trigger):
        return caption
    return captions.join(captions.with_trigger_first(captions.split(caption), trigger))


def _led_prose(prose: str, trigger: str) -> str:
    """The sentences as they are where they begin with the trigger, else with it and a comma in front."""
    if re.match(rf"\s*{re.escape(trigger)}(?!\w)", prose, re.IGNORECASE):
        return prose
    return f"{trigger}, {prose.lstrip()}"


def _is_tag(text: str, tag: str) -> bool:
    return text.strip().casefold() == tag.strip().casefold()


def mentions(caption: str, prose: str, tag: str) -> bool:
    """Whether the tag is among the tags, or stands as words in the sentences; ignoring case."""
    if tag.casefold() in (one.casefold() for one in captions.split(caption)):
        return True
    return bool(prose and tag and _pattern([tag]).search(prose))


# --- wildcards --------------------------------------------------------------------------------------------------------


def has_wildcards(words: Words, config: DataConfig) -> bool:
    """Whether there is something to choose from, and it is asked for."""
    return config.wildcards and any("{" in text and "|" in text for text in (words.caption, words.prose))


def choose(text: str, pick: Pick) -> str:
    """The text with one of `a` and `b` where `{a|b}` stands; `pick` is given the choices and says which, from 0.

    They nest, inner ones first. Braces without a bar or without a partner are text.
    """
    levels: list[list[list[str]]] = [[[]]]  # of open braces: their choices, each a list of pieces
    for piece in re.split(r"([{|}])", text):
        if piece == "{":
            levels.append([[]])
        elif piece == "|" and len(levels) > 1:
            levels[-1].append([])
        elif piece == "}" and len(levels) > 1:
            choices = ["".join(choice) for choice in levels.pop()]
            levels[-1][-1].append(choices[pick(choices)] if len(choices) > 1 else f"{{{choices[0]}}}")
        else:
            levels[-1][-1].append(piece)
    pieces = levels[0][0]
    for choices in levels[1:]:  # never closed
        pieces += ["{", "|".join("".join(choice) for choice in choices)]
    return "".join(pieces)
