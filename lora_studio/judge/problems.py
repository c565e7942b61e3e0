"""What a check of captions says, and the words that all checks share."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_studio.judge.common import Level

KINDS = (
    "uncaptioned", "file_name", "mojibake", "trigger_missing", "trigger_later", "contradiction", "typo", "underscores",
    "too_long", "alias", "not_visible", "prompt_syntax", "repeat", "redundant", "only_trigger", "identical", "single",
)  # fmt: skip
MAX_NAMED = 6
GRAVITY = ("bad", "warn", "info", "good")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in words for the artist."""

    kind: str
    """One of KINDS."""
    level: Level
    text: str
    remedy: str
    ids: tuple[int, ...]
    """The pictures that it is about."""
    fix: dict[str, Any] | None = None
    """The edit that mends it (the fields of `steps.caption_edits.CaptionEdit`), None when only the eye can tell."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """The numbers behind it; `tags`, and `pairs` of what stands there and what is meant."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "ids": list(self.ids)}


def gravest_first(problems: list[Problem]) -> list[Problem]:
    """In the order of their levels, else as they are."""
    return sorted(problems, key=lambda problem: GRAVITY.index(problem.level))


def named(tags: Sequence[str]) -> str:
    """`smile, hat and 3 more`."""
    return ", ".join(tags[:MAX_NAMED]) + and_more(len(tags) - MAX_NAMED)


def and_more(count: int) -> str:
    """What follows the ones that were named."""
    return f" and {count} more" if count > 0 else ""


def verb(things: Collection[Any], one: str, several: str) -> str:
    """`has` for one thing, `have` for several."""
    return one if len(things) == 1 else several
