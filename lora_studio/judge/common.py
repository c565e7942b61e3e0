"""What every verdict is made of."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["good", "info", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """One sentence for the artist, the way out, the pictures it is about, and the numbers behind it."""

    level: Level
    text: str
    remedy: str = ""
    images: tuple[int | str, ...] = ()
    """Ids of the pictures concerned; empty when it is about the whole."""
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def plural(count: int, noun: str) -> str:
    """`1 picture`, `3 pictures`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
