"""Tokens of a project's captions, counted as the text encoders of its base read them. No torch."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from lora_studio.core import paths
from lora_studio.core.errors import UserError
from lora_studio.core.project import Project
from lora_studio.engine import hub
from lora_studio.engine.config import TrainConfig
from lora_studio.engine.tokens import Counter
from lora_studio.steps import training
from lora_studio.steps.wording import words_of

KEPT = 50_000  # captions whose counts are remembered for a base: five times a large set


def counter(project: Project, config: TrainConfig | None = None) -> Counter | None:
    """The tokenizers of the project's base (of the base of `config`, where one is given); None while it lies on the hub
    and was not fetched yet. Raises UserError when it cannot be read."""
    found = _counter(config or training.current(project))
    return found[0] if found else None


def counts(project: Project, ids: Iterable[int] | None = None) -> dict[int, tuple[int, ...]]:
    """Tokens of each picture's caption as it is trained, for each encoder, by picture; of all used pictures when `ids`
    is None. Empty while the base is not here."""
    plan, config = project.plan, training.current(project)
    found = _counter(config)
    if found is None:
        return {}
    words, known = found
    wanted = None if ids is None else set(ids)
    texts = {
        image.id: words_of(image, plan).whole(config.data).text
        for image in (project.used_images() if wanted is None else project.images())
        if wanted is None or image.id in wanted
    }
    new = [text for text in dict.fromkeys(texts.values()) if text not in known]
    if len(known) + len(new) > KEPT:
        known.clear()
        new = list(dict.fromkeys(texts.values()))
    known.update(zip(new, words.count(new), strict=True))
    return {image_id: known[text] for image_id, text in texts.items()}


def table(project: Project) -> dict[str, Any]:
    """`{"encoders", "limit": data.max_tokens, "captions": [{"id", "file", "text", "tokens": one for each encoder,
    "over": tokens that are cut off, "kept": characters that are read (as Python counts them), "lost": the rest}]}` of
    all used pictures. Raises UserError while the base is not here."""
    config = training.current(project)
    words = counter(project, config)
    if words is None:
        raise UserError(f"{config.base.model} is not on this computer yet.", "The first training fetches it.")
    plan, limit, found = project.plan, config.data.max_tokens, counts(project)
    rows = []
    for image in project.used_images():
        text, numbers = words_of(image, plan).whole(config.data).text, found[image.id]
        kept = len(text)
        if max(numbers) > limit:
            kept = min(cut.kept_chars for cut in words.cut(text, limit).values())
        row = {"id": image.id, "file": image.name, "text": text, "tokens": list(numbers)}
        rows.append({**row, "over": max(0, max(numbers) - limit), "kept": kept, "lost": text[kept:]})
    return {"encoders": list(words.encoders), "limit": limit, "captions": rows}


def _counter(config: TrainConfig) -> tuple[Counter, dict[str, tuple[int, ...]]] | None:
    base = Path(paths.resolve_base(config.base.model)).expanduser()
    if not base.exists():
        fetched = hub.on_disk(config.base.model)
        if fetched is None and hub.is_name(config.base.model):
            return None
        base = fetched or base
    return _opened(base, _stamp(base), config.data.weighted_captions)


@lru_cache(maxsize=8)
def _opened(base: Path, stamp: tuple[int, ...], weighted: bool) -> tuple[Counter, dict[str, tuple[int, ...]]]:
    """The base's tokenizers, and the counts that they gave so far; anew when its files change."""
    return Counter.open(base, weighted), {}


def _stamp(base: Path) -> tuple[int, ...]:
    files = sorted(base.glob("tokenizer*/*")) if base.is_dir() else [base]
    return tuple(number for file in files if file.exists() for number in (file.stat().st_mtime_ns, file.stat().st_size))
