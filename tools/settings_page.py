"""Write docs/settings.md from the settings themselves: `python -m tools.settings_page`. A test holds it true."""

from pathlib import Path

from lora_studio.core.settings import SettingInfo, describe
from lora_studio.engine.config import TrainConfig

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings of a training

Every setting with its default. On the command line: `train PROJECT --set adapter.rank=16 --set optimizer.kind=prodigy`;
lists take commas, or JSON where an entry holds a comma. In a preset (`presets/*.toml`) each section is a table. All
problems are told at once, misspelt names with their nearest neighbour.

This page is made from the settings by `python -m tools.settings_page`.
"""


def page() -> str:
    """The whole page."""
    found = describe(TrainConfig)
    sections = list(dict.fromkeys(info.section for info in found))
    parts = [HEAD]
    for section in sections:
        parts.append(f"\n## {section}\n\n| setting | default | |\n|---|---|---|\n")
        parts += [_row(info) for info in found if info.section == section]
    return "".join(parts)


def _row(info: SettingInfo) -> str:
    name = info.name.rpartition(".")[2]
    only = f" Counts only with {info.when[0].rpartition('.')[2]} = {' or '.join(info.when[1])}." if info.when else ""
    return f"| `{name}` | {_default(info)} | {info.doc.replace('|', chr(92) + '|')}{only}{_range(info)} |\n"


def _default(info: SettingInfo) -> str:
    if info.default in ("", []):
        return "(empty)"
    if isinstance(info.default, bool):
        return "on" if info.default else "off"
    return ", ".join(map(str, info.default)) if isinstance(info.default, list) else str(info.default)


def _range(info: SettingInfo) -> str:
    if info.choices:
        return f" One of {', '.join(f'`{choice}`' for choice in info.choices)}."
    if info.minimum is None and info.maximum is None:
        return ""
    return f" ({info.minimum:g} to {info.maximum:g})" if info.maximum is not None else f" (from {info.minimum:g})"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
