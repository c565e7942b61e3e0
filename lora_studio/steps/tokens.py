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
from lora_studio.steps.wording import trained, words_of

Known = dict[tuple[str, str, str, str, bool], tuple[int, ...]]
"""Tags, sentences, what the plan makes of them -> tokens for each encoder."""
KEPT = 50_000  # captions whose counts are remembered for a base: five times a large set


def counter(project: Project, config: TrainConfig | None = None) -> Counter | None:
    """The tokenizers of the project's base (of the base of `config`, where one is given); None while it lies on the hub
    and was not fetched yet. Raises UserError when it cannot be read."""
    found = _counter(config or training.current(project))
    return found[0] if found else None


def counts(project: Project, ids: Iterable[int] | None = None) -> dict[int, tuple[int, ...]]:
    """Tokens of each picture's caption as it is trained, for each encoder, by picture; of all pictures when `ids` is
    None. Empty while the base is not here. What has not changed since the last call is not counted again."""
    config = _settings(project.root, project.slug, _changed(project))
    opened = _counter(config)
    if opened is None:
        return {}
    words, known = opened
    plan, prose = project.plan, project.texts("prose")
    written = {image_id: (caption, prose.get(image_id, "")) for image_id, caption in project.texts("caption").items()}
    if ids is not None:
        written = {image_id: written[image_id] for image_id in ids if image_id in written}
    manner = (plan.captions, plan.trigger, config.data.wildcards)
    wanted = {image_id: (*texts, *manner) for image_id, texts in written.items()}
    new = set(wanted.values()) - known.keys()
    if len(known) + len(new) > KEPT:
        known.clear()
        new = set(wanted.values())
    texts = [trained(caption, prose_, plan).whole(config.data).text for caption, prose_, *_ in new]
    known.update(zip(new, words.count(texts), strict=True))
    return {image_id: known[key] for image_id, key in wanted.items()}


def _changed(project: Project) -> tuple[int, ...]:
    files = (project.folder / "project.toml", project.folder / "train.json")
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)


@lru_cache(maxsize=8)
def _settings(root: Path, slug: str, changed: tuple[int, ...]) -> TrainConfig:
    """Base and reading of captions do not hang on the pictures, so they are not looked at again with every caption."""
    return training.current(Project(root, slug))


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


def _counter(config: TrainConfig) -> tuple[Counter, Known] | None:
    base = Path(paths.resolve_base(config.base.model)).expanduser()
    if not base.exists():
        fetched = hub.on_disk(config.base.model)
        if fetched is None and hub.is_name(config.base.model):
            return None
        base = fetched or base
    return _opened(base, _stamp(base), config.data.weighted_captions)


@lru_cache(maxsize=8)
def _opened(base: Path, stamp: tuple[int, ...], weighted: bool) -> tuple[Counter, Known]:
    """The base's tokenizers, and the counts that they gave so far; anew when its files change."""
    return Counter.open(base, weighted), {}


def _stamp(base: Path) -> tuple[int, ...]:
    files = sorted(base.glob("tokenizer*/*")) if base.is_dir() else [base]
    return tuple(number for file in files if file.exists() for number in (file.stat().st_mtime_ns, file.stat().st_size))
