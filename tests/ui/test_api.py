"""The door between the page and Python: arguments are checked, errors are sentences, nothing raises through."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from lora_studio.core.errors import UserError
from lora_studio.core.settings import SettingsError
from lora_studio.ui.api import dispatcher


@dataclass
class Thing:
    path: Path


def keep(project: str, ids: Annotated[list[int], Field(max_length=3)], how: Literal["keep", "reject"] = "keep") -> str:
    return f"{project} {ids} {how}"


def refuse() -> None:
    raise UserError("No such project.", "Choose one of the list.")


def mistake() -> None:
    raise ZeroDivisionError("one of ours")


def settings() -> None:
    raise SettingsError(["adapter.rank: too high", "run.epochs: too low"])


def thing() -> Thing:
    return Thing(Path("/a/b"))


call = dispatcher({"keep": keep, "refuse": refuse, "mistake": mistake, "settings": settings, "thing": thing})


def ask(name: str, **arguments):
    return call({"name": name, "arguments": arguments})


def test_a_good_call_answers_with_its_value():
    assert ask("keep", project="zorbi", ids=[1, 2]) == {"value": "zorbi [1, 2] keep"}


def test_dataclasses_and_paths_become_plain_values():
    assert ask("thing") == {"value": {"path": "/a/b"}}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"ids": [1]}, "project"),
        ({"project": "a", "ids": "all"}, "ids"),
        ({"project": "a", "ids": [1, 2, 3, 4]}, "ids"),
        ({"project": "a", "ids": [1], "how": "burn"}, "how"),
        ({"project": "a", "ids": [1], "more": 1}, "more"),
        ({"project": {"a": 1}, "ids": [1]}, "project"),
    ],
)
def test_an_argument_that_cannot_be_is_named(arguments, word):
    error = ask("keep", **arguments)["error"]
    assert word in error["message"]
    assert error["remedy"] == "Reload it."


@pytest.mark.parametrize("request_", [None, 3, "keep", {}, {"name": "__class__"}, {"name": ["keep"]}])
def test_an_unknown_name_is_refused(request_):
    assert "not known" in call(request_)["error"]["message"]


def test_errors_come_with_their_remedy():
    assert ask("refuse")["error"] == {"message": "No such project.", "remedy": "Choose one of the list."}
    assert ask("settings")["error"]["message"] == "adapter.rank: too high\nrun.epochs: too low"


def test_a_fault_of_ours_is_told_and_logged(caplog):
    error = ask("mistake")["error"]
    assert "ZeroDivisionError" in error["message"] and "fault of the program" in error["remedy"]
    assert "one of ours" in caplog.text
