"""Where a project stands in the six steps, and what each step still lacks: a pure function of a few facts."""

from dataclasses import dataclass
from typing import Literal

STEPS: dict[str, str] = {
    "conception": "Conception",
    "gathering": "Gathering",
    "curation": "Curation",
    "tagging": "Tagging",
    "training": "Training",
    "testing": "Testing",
}
State = Literal["done", "busy", "next", "open"]


@dataclass(frozen=True)
class Facts:
    """What the states are made of. Counts are of pictures that are not rejected, unless said otherwise."""

    trigger: str = ""
    pictures: int = 0
    rejected: int = 0
    wanted: int = 15
    """From how many pictures on the step counts as done: advice, for what was trained on was enough to begin with."""
    undecided: int = 0
    """Pictures that were flagged and neither kept nor rejected."""
    curated: bool = False
    """Whether anybody has decided anything, or there is nothing to decide."""
    untagged: int = 0
    checkpoints: int = 0
    tests: int = 0
    exports: int = 0
    busy: tuple[tuple[str, str], ...] = ()
    """(step, text) of what is running, e.g. ("training", "34 %")."""


@dataclass(frozen=True)
class StepState:
    """One step of the bar. `text` is short; `action` is the sentence on the Next button when it is this step's turn."""

    id: str
    title: str
    state: State
    text: str
    action: str


def pictures(count: int) -> str:
    """`1 picture`, `8 pictures`."""
    return f"{count} picture{'' if count == 1 else 's'}"


def steps_state(facts: Facts) -> list[StepState]:
    """The six steps in order. A step is done by what exists, never by having been visited."""
    f, busy = facts, dict(facts.busy)
    empty = f.pictures == 0
    rows = {
        "conception": (bool(f.trigger), "trigger word missing", f.trigger, "Choose a trigger word"),
        "gathering": (
            f.pictures >= f.wanted or f.checkpoints > 0,
            f"{f.wanted} or more" if empty else f"{f.pictures} of {f.wanted} or more",
            pictures(f.pictures),
            "Gather pictures" if empty else "Gather more pictures",
        ),
        "curation": (
            not empty and f.undecided == 0 and f.curated,
            "no pictures yet" if empty else (f"{f.undecided} flagged" if f.undecided else "look through once"),
            f"{f.rejected} taken out" if f.rejected else "all good",
            f"Decide on {f.undecided} flagged" if f.undecided else "Look through the pictures",
        ),
        "tagging": (
            not empty and f.untagged == 0,
            "no pictures yet" if empty else f"{f.untagged} without tags",
            "all tagged",
            f"Tag {pictures(f.untagged)}",
        ),
        "training": (f.checkpoints > 0, "not trained yet", f"{f.checkpoints} saved", "Train the LoRA"),
        "testing": (
            f.exports > 0,
            ("test it, then export" if not f.tests else "ready to export") if f.checkpoints else "train first",
            "exported",
            "Export the LoRA" if f.tests else "Test the LoRA",
        ),
    }
    turn = next((step for step, (done, *_) in rows.items() if not done), "")
    states = []
    for step, (done, lacks, has, action) in rows.items():
        state: State = "busy" if step in busy else "done" if done else "next" if step == turn else "open"
        states.append(StepState(step, STEPS[step], state, busy.get(step) or (has if done else lacks), action))
    return states
