"""Settings are declared once: a pydantic field with bounds and a docstring. Form, check, preset, command line and
docs are read off it."""

import difflib
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class SettingsError(ValueError):
    """Settings that cannot be used; `problems` holds one sentence each, all found at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseModel):
    """Base of every group of settings: frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Self:
        """Check `data` and build the settings. Raises SettingsError with every problem found."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise SettingsError([_sentence(cls, problem) for problem in error.errors()]) from None

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """A copy with dotted settings replaced, e.g. `{"adapter.rank": "16"}`; texts are read as the field's type.

        Raises SettingsError with every problem found.
        """
        data = self.to_dict()
        problems = []
        for name, value in changes.items():
            *sections, last = name.split(".")
            group: Any = data
            for section in sections:
                group = group.get(section) if isinstance(group, dict) else None
            if not isinstance(group, dict) or last not in group:
                problems.append(_unknown(type(self), tuple(name.split("."))))
            else:
                group[last] = _parse(value, _field_type(type(self), name.split(".")))
        try:
            changed = type(self).load(data)
        except SettingsError as error:
            raise SettingsError(problems + error.problems) from None
        if problems:
            raise SettingsError(problems)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON and TOML can hold (None values are kept)."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class SettingInfo:
    """What a form, a command line or a docs page needs to know of one setting."""

    name: str
    """Dotted, e.g. `adapter.rank`."""
    section: str
    title: str
    doc: str
    type: str
    """`int`, `float`, `bool`, `str`, `choice` or `list`."""
    default: Any
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    when: tuple[str, tuple[str, ...]] | None = None
    """Another setting and its values with which alone this one counts."""


def only(when: str, **bounds: Any) -> Any:
    """A field's bounds, for a setting that counts only with values of another: `only("kind=lokr|loha", ge=1)`, named
    as it is called in the same section."""
    return Field(**bounds, json_schema_extra={"when": when})


def describe(model: type[Settings], prefix: str = "") -> list[SettingInfo]:
    """Every setting of `model`, sections unfolded, in order of declaration."""
    found = []
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            found += describe(field.annotation, f"{dotted}.")
            continue
        kind, choices = _kind(field.annotation)
        limits = {key: _limit(field.metadata, key) for key in ("ge", "gt", "le", "lt")}
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        found.append(
            SettingInfo(
                name=dotted,
                section=dotted.rpartition(".")[0],
                title=field.title or name.replace("_", " ").capitalize(),
                doc=" ".join((field.description or "").split()),
                type=kind,
                default=list(default) if isinstance(default, tuple) else default,
                minimum=limits["ge"] if limits["ge"] is not None else limits["gt"],
                maximum=limits["le"] if limits["le"] is not None else limits["lt"],
                choices=choices,
                when=_when(field.json_schema_extra, prefix),
            )
        )
    return found


def _when(extra: Any, prefix: str) -> tuple[str, tuple[str, ...]] | None:
    if not isinstance(extra, dict) or "when" not in extra:
        return None
    name, _, values = str(extra["when"]).partition("=")
    return f"{prefix}{name}", tuple(values.split("|"))


def _limit(metadata: list[Any], name: str) -> float | None:
    return next((getattr(item, name) for item in metadata if hasattr(item, name)), None)


def _kind(annotation: Any) -> tuple[str, tuple[str, ...]]:
    origin = get_origin(annotation)
    if origin is Literal:
        return "choice", tuple(str(choice) for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return _kind(next(part for part in get_args(annotation) if part is not type(None)))
    if origin in (list, tuple):
        return "list", ()
    return {int: "int", float: "float", bool: "bool"}.get(annotation, "str"), ()


def _field_type(model: type[BaseModel], path: list[str]) -> str:
    for section in path[:-1]:
        model = model.model_fields[section].annotation  # type: ignore[assignment]
    return _kind(model.model_fields[path[-1]].annotation)[0]


def _parse(value: Any, kind: str) -> Any:
    """Texts from a command line become lists where the field is a list; pydantic reads numbers and booleans."""
    if not isinstance(value, str) or kind != "list":
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return value
    return [part.strip() for part in text.split(",") if part.strip()]


def _unknown(model: type[BaseModel], path: tuple[Any, ...]) -> str:
    for section in path[:-1]:
        field = model.model_fields.get(str(section))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            path = path[: path.index(section) + 1]
            break
        model = field.annotation
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{'.'.join(map(str, path))}: no such setting; {hint}known here: {', '.join(known)}"


def _sentence(model: type[BaseModel], problem: Any) -> str:
    path = problem["loc"]
    if problem["type"] == "extra_forbidden":
        return _unknown(model, path)
    name = ".".join(map(str, path))
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not name:
        return message
    if problem["type"] == "missing":
        return f"{name}: is missing"
    given = problem["input"]
    shown = "" if isinstance(given, dict) else f" (given: {json.dumps(given, default=str)[:80]})"
    return f"{name}: {message[:1].lower()}{message[1:]}{shown}"
