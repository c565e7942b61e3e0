"""`lora-studio keys`: the user's keys for boards that ask for one."""

import sys
from typing import Annotated

import typer

from lora_studio.cli_common import Json, answer
from lora_studio.core.errors import UserError


def keys(
    host: Annotated[str, typer.Argument(metavar="[HOST]", help="The board's host, e.g. gelbooru.com.")] = "",
    user: Annotated[str, typer.Option(help="Your name or number there, as the board's interface wants it.")] = "",
    forget: Annotated[bool, typer.Option("--forget", help="Remove the key for HOST.")] = False,
    as_json: Json = False,
) -> None:
    """Keys for boards that ask for one: list them, or store one for HOST. The key itself is asked for, or read from
    standard input; it is never shown."""
    from lora_studio.steps.sources import keys as store

    if host and forget:
        store.forget(host)
    elif host:
        if not user:
            raise UserError("Whose key is it?", f"lora-studio keys {host} --user NAME")
        store.put(
            host, user, typer.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read()
        )
    elif user or forget:
        raise UserError("For which board?", "lora-studio keys HOST --user NAME")
    known = store.hosts()
    lines = [f"{name}: {whose}" for name, whose in sorted(known.items())]
    answer({"keys": known, "file": str(store.path())}, as_json, "\n".join(lines) or "No keys are stored.")
