"""Several taggers' tags for one picture made into one list. Pure functions; imports no torch."""

from collections.abc import Sequence

from lora_studio.tagger.choose import RATING, Chosen
from lora_studio.tagger.config import TagConfig


def combine(found: Sequence[Sequence[Chosen]], config: TagConfig, kinds: Sequence[str] = ()) -> list[Chosen]:
    """The tags that each tagger chose for a picture -> those to write, as `config.combine` says.

    A tag counts with the highest probability that a tagger gives it (intersection: the lowest), and with the kind that
    the first tagger knows it by. Of `one_of` kinds the likeliest is left, at most `max_tags` in all. Kinds come in the
    order of `kinds` (then as they come), within a kind the surest first, and the rating last.
    """
    if len(found) == 1:
        return list(found[0])
    together = config.combine == "intersection"
    merged: dict[str, Chosen] = {}
    for tags in found:
        for name, probability, kind in tags:
            known = merged.get(name.casefold())
            if known is None:
                merged[name.casefold()] = (name, probability, kind)
            else:
                surer = min if together else max
                merged[name.casefold()] = (known[0], surer(known[1], probability), known[2])
    if together:
        of_all = set.intersection(*({tag[0].casefold() for tag in tags} for tags in found)) if found else set()
        merged = {key: tag for key, tag in merged.items() if key in of_all}
    single = {kind.casefold() for kind in config.one_of} | {RATING}
    taken: set[str] = set()
    kept: list[Chosen] = []
    for tag in sorted(merged.values(), key=lambda tag: -tag[1]):
        kind = tag[2].casefold()
        if kind in single and kind in taken:
            continue
        taken.add(kind)
        kept.append(tag)
    order = {kind: place for place, kind in enumerate(dict.fromkeys([*kinds, *(tag[2] for tag in kept)]))}
    return sorted(kept[: config.max_tags], key=lambda tag: (tag[2].casefold() == RATING, order[tag[2]], -tag[1]))
