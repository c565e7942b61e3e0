"""A form read off the settings: one field for each, with its bounds and its sentence; and the way back."""

import json
from typing import Any, TypeVar

from lora_studio.core.settings import SettingInfo, Settings, SettingsError, describe
from lora_studio.ui.quick import gr

WORDS = {"lr": "learning rate", "unet": "UNet", "snr": "SNR", "num": "number of", "ff": "FF"}
S = TypeVar("S", bound=Settings)
LONG = ("prompts", "preservation_prompts", "negative", "include", "exclude", "ranks", "rates")
"""Fields of several lines; lists among them have one entry a line, for entries may hold commas."""


def title(info: SettingInfo) -> str:
    """A readable name: `optimizer.unet_lr` -> `UNet learning rate`; a bare `kind` is named by its section."""
    name = info.name.rpartition(".")[2]
    if name == "kind":
        return info.section.rpartition(".")[2].capitalize()
    if info.title != name.replace("_", " ").capitalize():
        return info.title
    text = " ".join(WORDS.get(word, word) for word in name.split("_"))
    return text[0].upper() + text[1:]


def infos(model: type[Settings], names: tuple[str, ...]) -> list[SettingInfo]:
    """The settings of these names, in this order. A name that is not there is a bug."""
    known = {info.name: info for info in describe(model)}
    return [known[name] for name in names]


def field(info: SettingInfo, **changes: Any) -> Any:
    """The gradio component for one setting, with its default."""
    common: dict[str, Any] = {
        "label": title(info),
        "info": info.doc,
        "value": shown(info, info.default),
        "elem_id": f"ls-set-{info.name.replace('.', '-')}",
        "min_width": 120,
        **changes,
    }
    if info.type == "choice":
        return gr.Dropdown([(choice.replace("_", " "), choice) for choice in info.choices], filterable=False, **common)
    if info.type == "bool":
        return gr.Checkbox(**common)
    if info.type == "int":
        return gr.Number(precision=0, **common)
    return gr.Textbox(lines=3 if info.name.rpartition(".")[2] in LONG else 1, max_length=20_000, **common)


def shown(info: SettingInfo, value: Any) -> Any:
    """A setting's value as its field holds it."""
    if info.type == "list":
        parts = [str(part) for part in value or ()]
        return ("\n" if _by_line(info) else ", ").join(parts)
    if info.type == "float":
        return number(value)
    return value


def number(value: Any) -> str:
    """A float without noise: 0.0005, 8, 1e-06."""
    return "" if value is None else f"{float(value):.10g}"


def dotted(data: dict[str, Any], name: str) -> Any:
    """`{"adapter": {"rank": 8}}`, `adapter.rank` -> 8"""
    for part in name.split("."):
        data = data[part]
    return data


def values(config: Settings, drawn: list[SettingInfo]) -> list[Any]:
    """What the fields show for a configuration."""
    data = config.to_dict()
    return [shown(info, dotted(data, info.name)) for info in drawn]


def visible(drawn: list[SettingInfo], shown_values: list[Any]) -> list[bool]:
    """For each field, whether its setting counts with what stands in the others."""
    now = {info.name: value for info, value in zip(drawn, shown_values, strict=True)}
    return [info.when is None or str(now.get(info.when[0])) in info.when[1] for info in drawn]


def read(base: S, drawn: list[SettingInfo], given: tuple[Any, ...]) -> S:
    """`base` with what stands in the fields. Raises SettingsError with every problem."""
    changes: dict[str, Any] = {}
    problems = []
    for info, value in zip(drawn, given, strict=True):
        if info.type in ("int", "float") and value in (None, ""):
            problems.append(f"{info.name}: is empty; write a number")
        elif info.type == "list":
            changes[info.name] = _parts(info, value or "")
        else:
            changes[info.name] = value.strip() if isinstance(value, str) else value
    if problems:
        raise SettingsError(problems)
    return base.with_changes(changes)


def _by_line(info: SettingInfo) -> bool:
    return info.name.rpartition(".")[2] in LONG or "prompts" in info.name


def _parts(info: SettingInfo, text: str) -> list[Any]:
    if _by_line(info):
        return [line.strip() for line in text.splitlines() if line.strip()]
    parts = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    return [_number(part) for part in parts]


def _number(text: str) -> Any:
    """A number where the text is one, else the text: pydantic says what is wrong with it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
