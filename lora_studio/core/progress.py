"""What a job tells: one line of JSON each in its `events.jsonl`. Pages only read."""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    def to_json(self) -> str:
        """One line: the fields, the class name as `event`, and the wall clock as `time` (Unix seconds)."""
        return json.dumps({"event": type(self).__name__, "time": round(time.time(), 3), **asdict(self)})


@dataclass(frozen=True)
class Phase(Event):
    """A new part of the work has begun, e.g. name `load`, text "Loading the base model"."""

    name: str
    text: str


@dataclass(frozen=True)
class Progress(Event):
    """`done` of `total` things of the present phase."""

    done: int
    total: int
    text: str = ""


@dataclass(frozen=True)
class Step(Event):
    """One optimizer step is done; `lr` by parameter group, `seconds` it took."""

    step: int
    total: int
    epoch: int
    loss: float
    lr: dict[str, float]
    seconds: float
    grad_norm: float = 0.0


@dataclass(frozen=True)
class Validation(Event):
    """Mean loss over the validation pictures at fixed noise."""

    step: int
    loss: float


@dataclass(frozen=True)
class FileWritten(Event):
    """A file is complete on disk; `path` is relative to the job's folder."""

    path: str
    kind: Literal["checkpoint", "sample", "result", "state"]
    step: int = 0
    epoch: int = 0
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Note(Event):
    """A sentence for the user that ends nothing."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class Paused(Event):
    """The job waits for resume or stop."""


@dataclass(frozen=True)
class Resumed(Event):
    """The job goes on after a pause."""


@dataclass(frozen=True)
class Failed(Event):
    """The job ended by an error: what, the way out, and details for a bug report."""

    message: str
    remedy: str = ""
    details: str = ""


@dataclass(frozen=True)
class Finished(Event):
    """The job ended; `state` is done, stopped or failed."""

    state: str
    summary: dict[str, Any] = field(default_factory=dict)
