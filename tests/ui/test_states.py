"""The six-step bar: what is done, what comes next, what is missing."""

from dataclasses import replace

import pytest

from lora_studio.ui.states import Facts, steps_state

READY = Facts(
    trigger="zorbi", pictures=24, rejected=3, wanted=15, curated=True, untagged=0, checkpoints=2, tests=1, exports=1
)


def by_id(facts: Facts) -> dict:
    return {step.id: step for step in steps_state(facts)}


def test_a_finished_project_has_six_done_steps():
    assert [step.state for step in steps_state(READY)] == ["done"] * 6


def test_a_new_project_asks_for_pictures_and_says_how_many():
    steps = by_id(Facts(trigger="zorbi", wanted=15))
    assert steps["conception"].state == "done"
    assert steps["gathering"].state == "next"
    assert steps["gathering"].text == "15 or more"
    assert steps["training"].state == "open"


@pytest.mark.parametrize(
    ("change", "step", "text", "action"),
    [
        ({"trigger": ""}, "conception", "trigger word missing", "Choose a trigger word"),
        ({"pictures": 14, "checkpoints": 0}, "gathering", "14 of 15 or more", "Gather more pictures"),
        ({"undecided": 3}, "curation", "3 flagged", "Decide on 3 flagged"),
        ({"curated": False}, "curation", "look through once", "Look through the pictures"),
        ({"untagged": 5}, "tagging", "5 without tags", "Tag 5 pictures"),
        ({"checkpoints": 0}, "training", "not trained yet", "Train the LoRA"),
        ({"exports": 0}, "testing", "ready to export", "Export the LoRA"),
        ({"exports": 0, "tests": 0}, "testing", "test it, then export", "Test the LoRA"),
    ],
)
def test_the_first_step_that_lacks_something_is_next(change, step, text, action):
    found = by_id(replace(READY, **change))[step]
    assert (found.state, found.text, found.action) == ("next", text, action)


def test_only_one_step_is_next():
    assert [step.state for step in steps_state(Facts(wanted=15))].count("next") == 1


def test_a_running_job_is_shown_on_its_step():
    step = by_id(replace(READY, busy=(("training", "34 %"),)))["training"]
    assert (step.state, step.text) == ("busy", "34 %")


def test_few_pictures_are_no_reproach_once_they_were_trained_on():
    assert by_id(replace(READY, pictures=6))["gathering"].state == "done"
