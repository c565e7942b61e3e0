"""One picture of a whole test grid, to look at and to share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lora_studio.steps.grid import Cell

CELL, GAP, LEFT, TOP = 160, 6, 250, 44
INK, PAPER, FAINT = "#e6e8ee", "#14171f", "#8a93a6"


def contact_sheet(folder: Path, cells: Sequence[Cell], labels: Mapping[str, str]) -> Image.Image:
    """Columns: base, then checkpoints x strengths; rows: prompts, first seed only. Missing pictures stay dark."""
    seed = cells[0].seed
    shown = [cell for cell in cells if cell.seed == seed]
    columns = list(dict.fromkeys((cell.checkpoint, cell.strength) for cell in shown))
    rows = list(dict.fromkeys((cell.prompt, cell.role) for cell in shown))
    sheet = Image.new("RGB", (LEFT + len(columns) * (CELL + GAP), TOP + len(rows) * (CELL + GAP)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (checkpoint, strength) in enumerate(columns):
        text = "base" if checkpoint is None else f"{labels[checkpoint]} @ {strength:g}"
        draw.text((LEFT + number * (CELL + GAP) + 4, 14), text, INK, font)
    for number, (prompt, role) in enumerate(rows):
        top = TOP + number * (CELL + GAP)
        for line, words in enumerate(_wrapped(prompt, 34)[:6]):
            draw.text((10, top + 10 + 18 * line), words, INK, font)
        draw.text((10, top + CELL - 24), "must show it" if role == "learn" else "must not change", FAINT, font)
    for cell in shown:
        path = folder / cell.file
        if path.exists():
            with Image.open(path) as image:
                side = image.convert("RGB").resize((CELL, CELL), _filter(image.width))
            column, row = columns.index((cell.checkpoint, cell.strength)), rows.index((cell.prompt, cell.role))
            sheet.paste(side, (LEFT + column * (CELL + GAP), TOP + row * (CELL + GAP)))
    return sheet


def _filter(width: int) -> Image.Resampling:
    return Image.Resampling.BICUBIC if width < CELL else Image.Resampling.LANCZOS


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{word} "
    return [line.strip()[:width] for line in lines if line]
