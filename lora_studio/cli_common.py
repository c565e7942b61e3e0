"""What the commands share: the options that many take, and how they answer. Fast to import."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Projects = Annotated[Path | None, typer.Option("--projects", metavar="DIR", help="Projects folder.")]
Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document on stdout.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one setting, e.g. adapter.rank=16.")
]
Named = Annotated[str, typer.Argument(metavar="PROJECT", help="Folder name or name of the project.")]


class Stopped(Exception):
    """The work was stopped by the user; `answer` is what there is so far."""

    def __init__(self, answer: dict[str, Any], text: str) -> None:
        super().__init__(text)
        self.answer = answer


def answer(data: dict[str, Any], as_json: bool, text: str = "") -> None:
    """The command's answer: the data for machines, the text for people."""
    if as_json:
        print(json.dumps(data, ensure_ascii=False, indent=1))
    elif text:
        print(text)


def root_of(projects: Path | None) -> Path:
    """The projects folder that was named, or the usual one."""
    from lora_studio.core import paths

    return projects.expanduser().resolve() if projects else paths.default_projects()


def open_project(projects: Path | None, name: str) -> Any:
    """The project of that name. Raises UserError."""
    from lora_studio.core.project import Project

    return Project.open(root_of(projects), name)


def changes(words: list[str] | None) -> dict[str, str]:
    """`["adapter.rank=16"]` -> `{"adapter.rank": "16"}`. Raises SettingsError naming every word without a `=`."""
    from lora_studio.core.settings import SettingsError

    words = words or []
    wrong = [f"--set {word}: write it as NAME=VALUE, e.g. adapter.rank=16" for word in words if "=" not in word]
    if wrong:
        raise SettingsError(wrong)
    return {name.strip(): value.strip() for name, _, value in (word.partition("=") for word in words)}
