"""Tags that are perhaps misspelt, found by edit distance to known and to frequent tags, fast for thousands of them.

Two words within one edit share a form with one letter taken out (symmetric deletes), so an index of these forms finds
all near words without comparing every pair.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from lora_studio.core.tags import Book, key

SHORTEST = 4
"""Letters of a word in which one wrong letter is told from another word, among others that are right: `bleu hair`,"""
ALONE = 5
"""and of one that is the whole tag: `smlie`."""
TWO_EDITS = 9
"""Letters from which two wrong ones are: `expresionles`."""
RARE = 2
"""A tag on more pictures is no slip of the hand, though it may be one of the tagger's list or a search-and-replace."""
FREQUENT = 3
"""Pictures from which a tag that no list knows counts as one that is meant,"""
MORE_OFTEN = 3
"""and so many times the pictures of the doubtful one."""
BRITISH = {
    "gray": "grey",
    "colour": "color",
    "coloured": "colored",
    "multicoloured": "multicolored",
    "armour": "armor",
    "jewellery": "jewelry",
    "pyjamas": "pajamas",
    "blond": "blonde",
}
"""Words that the lists write in one way only."""


def misspelt(
    counts: Mapping[str, int], book: Book, more: Collection[str] = (), words: Collection[str] = ()
) -> dict[str, str]:
    """Doubtful tag -> the one that is probably meant. counts: tag in small letters -> pictures; `more` are further tags
    and `words` words of the language that are known to be right.

    Words that differ as whole words (red hair, blue hair), by a digit or in their first letter are different tags. A
    word of the language is doubted only where two of its letters swapped make a known tag: `bleu hair`.
    """
    known = book.tags.keys() | book.aliases.keys() | set(more)
    frequent = {tag for tag, count in counts.items() if count >= FREQUENT and tag not in known}
    right = known | frequent
    tables = [_of(book), _tables(set(more)), _tables(frequent)]
    found = {}
    for tag, count in counts.items():
        name = key(tag)
        if name in known:
            continue
        right_words = [known_words for _, known_words, _ in tables[: 2 if tag in frequent else 3]]
        options = {*_british(name), *_near(name, tables, right_words, words)}
        options.update(other for joined, _, _ in tables for other in joined.get(_bare(name), ()))
        good = [one for one in options if one in right and one != name and _believed(one, count, counts, known)]
        if good:
            best = min(good, key=lambda one: (one not in counts, -counts.get(one, 0), abs(len(one) - len(name)), one))
            found[tag] = book.aliases.get(best, best)
    return found


Tables = tuple[Mapping[str, list[str]], frozenset[str], Mapping[str, list[str]]]


@lru_cache(maxsize=2)
def _of(book: Book) -> Tables:
    return _tables([*book.tags, *book.aliases])


def _tables(tags: Collection[str]) -> Tables:
    """Tags by their letters, their words, and the index of these."""
    words = frozenset(word for tag in tags for word in tag.split(" "))
    return _joined(tags), words, _index(word for word in words if len(word) >= SHORTEST)


def _believed(other: str, count: int, counts: Mapping[str, int], known: Collection[str]) -> bool:
    """A known tag is meant whatever the count; one of the project must be much more frequent, and the doubtful rare."""
    return other in known or (count <= RARE and counts.get(other, 0) >= MORE_OFTEN * count)


def _bare(tag: str) -> str:
    return tag.replace(" ", "").replace("-", "")


def _joined(tags: Iterable[str]) -> dict[str, list[str]]:
    """Tags by their letters without blanks and hyphens."""
    found: dict[str, list[str]] = {}
    for tag in tags:
        if len(tag) >= ALONE:
            found.setdefault(_bare(tag), []).append(tag)
    return found


def _british(tag: str) -> Iterator[str]:
    words = tag.split(" ")
    other = [BRITISH.get(word, word) for word in words]
    if other != words:
        yield " ".join(other)


def _near(
    tag: str, tables: Sequence[Tables], known: Sequence[Collection[str]], english: Collection[str]
) -> Iterator[str]:
    """The tag with one of its words, that is no known one, replaced by each known word near it."""
    parts = tag.split(" ")
    for place, word in enumerate(parts):
        short = len(word) < (SHORTEST if len(parts) > 1 else ALONE)
        if short or any(word in words for words in known) or any(char.isdigit() for char in word):
            continue
        for other in _candidates(word, [index for _, _, index in tables]):
            if word not in english or (len(parts) > 1 and sorted(word) == sorted(other)):
                yield " ".join([*parts[:place], other, *parts[place + 1 :]])


def _candidates(word: str, indexes: Sequence[Mapping[str, list[str]]]) -> set[str]:
    near = {other for form in _forms(word) for index in indexes for other in index.get(form, ())}
    return {other for other in near if other[0] == word[0] and within(word, other, _edits(word, other))}


def _edits(one: str, other: str) -> int:
    return 2 if min(len(one), len(other)) >= TWO_EDITS else 1


def _index(words: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        for form in _forms(word):
            found.setdefault(form, []).append(word)
    return found


def _forms(word: str) -> set[str]:
    """The word, and with one letter less; long words with two letters less as well."""
    once = {word[:place] + word[place + 1 :] for place in range(len(word))}
    twice = {form[:place] + form[place + 1 :] for form in once for place in range(len(form))}
    return {word} | once | (twice if len(word) >= TWO_EDITS else set())


def within(one: str, other: str, most: int) -> bool:
    """Whether `most` edits make one word of the other: a letter added, lost, changed, or two neighbours swapped
    (optimal string alignment distance, Damerau 1964)."""
    if abs(len(one) - len(other)) > most:
        return False
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        row = [i]
        for j, right in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (left != right))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1] <= most
