"""The one door between the page's scripts and Python: named functions, every argument checked, every error a sentence.

The page calls `call("tagging.add", {"project": ..., "ids": [...], "tags": [...]})`; the answer is `{"value": ...}` or
`{"error": {"message", "remedy"}}`. Nothing raises through to the browser.
"""

import inspect
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from lora_studio.core.errors import UserError
from lora_studio.core.settings import SettingsError

log = logging.getLogger("lora_studio")
Function = Callable[..., Any]


def checked(function: Function) -> Function:
    """`function` taking one dict, whose names and types are checked against the signature. Raises UserError."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    fields: dict[str, Any] = {
        p.name: (p.annotation, ... if p.default is inspect.Parameter.empty else p.default) for p in parameters
    }
    config = ConfigDict(extra="forbid", strict=False, arbitrary_types_allowed=True, str_max_length=1_000_000)
    model = create_model(f"{function.__name__}_arguments", __config__=config, **fields)

    def call(arguments: Mapping[str, Any]) -> Any:
        try:
            values = model.model_validate(dict(arguments))
        except ValidationError as error:
            found = [f"{'.'.join(map(str, p['loc'])) or 'request'}: {p['msg']}" for p in error.errors()][:5]
            raise UserError("The page sent something that cannot be: " + "; ".join(found) + ".", "Reload it.") from None
        return function(**{name: getattr(values, name) for name in fields})

    return call


def plain(value: Any) -> Any:
    """The value as JSON can hold it: dataclasses and paths unfolded."""
    if value is None or type(value) in (str, int, float, bool):  # nearly all of them, when there are 10,000 pictures
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    return value.item() if hasattr(value, "item") else value


def problem(error: BaseException) -> dict[str, str]:
    """An error in words for the page."""
    if isinstance(error, UserError):
        return {"message": error.message, "remedy": error.remedy}
    if isinstance(error, SettingsError):
        return {"message": "\n".join(error.problems), "remedy": "Change these settings."}
    log.error("A handler of the page failed", exc_info=error)
    text = f"{type(error).__name__}: {error}"[:300]
    return {"message": text, "remedy": "This is a fault of the program; the terminal shows the details for a report."}


def dispatcher(functions: Mapping[str, Function]) -> Function:
    """The function behind the door: `{"name", "arguments"}` -> `{"value"}` or `{"error"}`."""
    ready = {name: checked(function) for name, function in functions.items()}

    def call(request: Any) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            name = request.get("name") if isinstance(request, dict) else request
            if not isinstance(name, str) or not isinstance(request, dict) or name not in ready:
                raise UserError(f"The page asked for {str(name)[:60]!r}, which is not known.", "Reload the page.")
            value = plain(ready[name](request.get("arguments") or {}))
            log.debug("%s %.0f ms", name, 1000 * (time.perf_counter() - started))
            return {"value": value}
        except Exception as error:  # the edge of the page: what went wrong is told there, never swallowed
            return {"error": problem(error)}

    return call
