"""Tokens of a project's captions, counted as the text encoders of its base read them. No torch."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from lora_studio.core import paths
from lora_studio.core.project import Project
from lora_studio.engine import hub
from lora_studio.engine.tokens import Counter
from lora_studio.steps import training
from lora_studio.steps.wording import words_of

KEPT = 50_000  # captions whose counts are remembered for a base: five times a large set


def counter(project: Project) -> Counter | None:
    """The tokenizers of the project's base; None while it lies on the hub and was not fetched yet. Raises UserError
    when it cannot be read."""
    found = _counter(project)
    return found[0] if found else None


def counts(project: Project, ids: Iterable[int] | None = None) -> dict[int, tuple[int, ...]]:
    """Tokens of each picture's caption as it is trained, for each encoder, by picture; of all used pictures when `ids`
    is None. Empty while the base is not here."""
    found = _counter(project)
    if found is None:
        return {}
    words, known = found
    plan, config = project.plan, training.current(project)
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


def _counter(project: Project) -> tuple[Counter, dict[str, tuple[int, ...]]] | None:
    config = training.current(project)
    base = Path(paths.resolve_base(project.plan.base)).expanduser()
    if not base.exists():
        fetched = hub.on_disk(project.plan.base)
        if fetched is None and hub.is_name(project.plan.base):
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
