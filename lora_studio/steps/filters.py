"""The filter language of the grid: `smile and not hat`, `blur < 0.3 not keep`, `/^zorbi,/ or tokens > 75`.

    filter  = one "or" one "or" ...
    one     = part ["and"] part ["and"] ...      side by side means and
    part    = "not" part | "(" filter ")" | word | number-word < 3 | text-word : words | "words" | /regular expression/

A word that is none of the language is a tag of the project; "in quotation marks" it is looked for as a tag, and where
no picture has such a tag, in names, captions and sentences. A regular expression is looked for in captions and
sentences, or where it is asked for: `name:/^a/`.

What is not known of a picture (nobody has looked for faces yet) is neither true nor false: it is shown by neither
`faces > 0` nor `not faces > 0`. Nothing is ever evaluated as code.
"""

import difflib
import operator
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn, Protocol

import regex

from lora_studio.core.errors import UserError
from lora_studio.core.project import Project
from lora_studio.judge import dataset
from lora_studio.steps import curation
from lora_studio.steps.rows import FLAGS, HAS, NUMBERS, STATES, TEXTS, Row, rows

MAX_LENGTH = 1000
MAX_DEPTH = 40
"""Of parentheses and `not`s."""
SECONDS = 1.0
"""All of a regular expression's work; a pattern that needs longer would hang."""
SAME = 0.0005
"""Numbers nearer than this are equal: nobody writes `aspect = 1.7777778`."""
Answer = bool | None
Test = Callable[[Row], Answer]
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": lambda found, asked: abs(found - asked) < SAME,
    "!=": lambda found, asked: abs(found - asked) >= SAME,
}
UNITS = {"": 1.0, "%": 0.01, "px": 1.0, "kb": 1 / 1000, "mb": 1.0, "mp": 1.0}
"""`size` is in MB and `pixels` in millions, so that `size > 300kb` and `lettering > 5%` mean what they say."""
JOINERS = {"and": "and", "&": "and", "&&": "and", "or": "or", "|": "or", "||": "or", "not": "not", "!": "not"}
FIELDS: dict[str, str] = {
    **{name: about for name, (about, _) in NUMBERS.items()},
    **{name: about for name, (about, _) in TEXTS.items()},
    **{name: about for name, (about, _) in STATES.items()},
    **FLAGS,
}
"""All words with what they mean, for the help."""
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<quoted>"(?:[^"\\]|\\.)*")
        | (?P<regex>/(?:[^/\\]|\\.)+/)(?=\s|\)|$)
        | (?P<open>\() | (?P<close>\))
        | (?P<sign><=|>=|!=|==|<|>|=|:|&&|\|\||&|\||!)
        | (?P<word>[^\s()"<>=:&|!]+)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    """quoted, regex, open, close, sign, word or end."""
    text: str
    place: int
    """From 1."""


def find(project: Project, text: str, audit: dataset.Audit | None = None) -> list[int]:
    """Ids of the pictures that fit, in order of import; all of them for an empty filter. Raises UserError that names
    the word that was not understood, its place, and what is known."""
    audit = curation.audit(project) if audit is None and asks_for_flags(text) else audit
    every = rows(project, audit.flags if audit else {})
    return select(every, parse(text, every))


def select(every: Iterable[Row], test: Test) -> list[int]:
    """Ids of the rows for which the test says yes."""
    return [row.image.id for row in every if test(row) is True]


def order(
    project: Project, ids: Iterable[int], key: str, down: bool = False, every: Sequence[Row] | None = None
) -> list[int]:
    """The ids sorted by a number or a text, equal ones by id, and those of which it is not known last. Raises UserError
    for an unknown key."""
    if key not in NUMBERS and key not in TEXTS:
        known = [*NUMBERS, *TEXTS]
        raise UserError(f"Nothing can be sorted by {key[:40]}.{_near(key, known)}", f"Known: {', '.join(known)}.")
    value = (NUMBERS.get(key) or TEXTS[key])[1]
    wanted = set(ids)
    chosen = [row for row in (rows(project) if every is None else every) if row.image.id in wanted]
    known_rows = [(_sortable(found), row.image.id) for row in chosen if (found := value(row)) is not None]
    unknown = [row.image.id for row in chosen if value(row) is None]
    known_rows.sort(key=lambda pair: pair[0], reverse=down)  # stable: equal ones stay in order of id
    return [image_id for _, image_id in known_rows] + unknown


def parse(text: str, every: Iterable[Row] = ()) -> Test:
    """The filter as a function of a row; the words that are tags of the rows `every` may stand by themselves. Raises
    UserError, and so does the function when a regular expression of it takes too long."""
    if len(text) > MAX_LENGTH:
        raise UserError(f"This filter is {len(text)} letters long.", f"At most {MAX_LENGTH} are read.")
    parser = _Parser(_tokens(text), every)
    if parser.here.kind == "end":
        return lambda row: True
    test = parser.any_of()
    if parser.here.kind != "end":
        parser.refuse("there is no ( before it")
    return test


def asks_for_flags(text: str) -> bool:
    """Whether the filter needs what the judge found. Raises UserError for a filter that cannot be read."""
    return any(
        token.text.lower() in FLAGS or token.text.lower() in ("flag", "flagged", "flags") for token in _tokens(text)
    )


def _tokens(text: str) -> list[_Token]:
    found, place = [], 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None:
            quote = text.index('"', place) + 1  # all else is matched
            raise UserError(f"The quotation mark at letter {quote} has no end.", 'Write it as "two words".')
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind) + 1))
        place = match.end()
    return [*found, _Token("end", "", len(text) + 1)]


@dataclass
class _Parser:
    tokens: list[_Token]
    every: Iterable[Row] = ()
    at: int = 0
    depth: int = 0

    @cached_property
    def tags(self) -> Set[str]:
        """All tags of the rows, in small letters."""
        return {tag.casefold() for row in self.every for tag in row.facts.tags}

    @property
    def here(self) -> _Token:
        return self.tokens[self.at]

    def take(self) -> _Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def joiner(self) -> str:
        token = self.here
        return JOINERS.get(token.text.lower(), "") if token.kind in ("word", "sign") else ""

    def any_of(self) -> Test:
        tests = [self.all_of()]
        while self.joiner() == "or":
            self.take()
            tests.append(self.all_of())
        return tests[0] if len(tests) == 1 else lambda row: _any(test(row) for test in tests)

    def all_of(self) -> Test:
        tests = [self.part()]
        while self.here.kind not in ("end", "close") and self.joiner() != "or":
            if self.joiner() == "and":
                self.take()
            tests.append(self.part())
        return tests[0] if len(tests) == 1 else lambda row: _all(test(row) for test in tests)

    def part(self) -> Test:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse("it is nested too deeply")
        test = self._part()
        self.depth -= 1
        return test

    def _part(self) -> Test:
        if self.joiner() == "not":
            self.take()
            test = self.part()
            return lambda row: None if (answer := test(row)) is None else not answer
        token = self.here
        if token.kind == "open":
            self.take()
            test = self.any_of()
            if self.here.kind != "close":
                self.refuse(f"the ( at letter {token.place} has no )")
            self.take()
            return test
        if token.kind == "quoted":
            words = _unquoted(self.take().text)
            return _tagged(words) if words.casefold() in self.tags else _contains(words)
        if token.kind == "regex":
            pattern = self.pattern(self.take(), whole=False)
            return lambda row: bool(pattern.search(row.image.caption) or pattern.search(row.image.prose))
        if token.kind != "word" or self.joiner():
            self.refuse("a word is missing before it" if token.kind != "end" else "a word is missing")
        return self.term(self.take())

    def term(self, word: _Token) -> Test:
        name = word.text.lower()
        sign = self.here.text if self.here.kind == "sign" and self.here.text not in JOINERS else ""
        if not sign:
            return self.bare(word, name)
        self.take()
        value = self.here
        if value.kind not in ("word", "quoted", "regex"):
            self.refuse(f"after {word.text} {sign} a value is missing")
        self.take()
        if name in NUMBERS:
            return self.number(name, sign, value)
        if name in TEXTS:
            return self.words(name, sign, value)
        if name in STATES or name in FLAGS:
            self.refuse(f"{name} stands by itself; leave out {sign} {value.text}", word)
        self.unknown(word)

    def bare(self, word: _Token, name: str) -> Test:
        if name in STATES:
            return STATES[name][1]
        if name in FLAGS:  # before the numbers: `aspect` alone is the flag
            return lambda row: any(flag.name == name for flag in row.flags)
        if name in NUMBERS:
            self.refuse(f"{name} is a number: compare it, e.g. {name} > 1", word)
        if name in TEXTS:
            self.refuse(f"{name} asks for words, e.g. {name}:{'trigger' if name == 'has' else 'hat'}", word)
        if name.casefold() in self.tags:
            return _tagged(name)
        self.unknown(word)

    def number(self, name: str, sign: str, value: _Token) -> Test:
        match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+|-\d+(?:\.\d+)?)(%|px|kb|mb|mp)?", _unquoted(value.text).lower())
        ratio = re.fullmatch(r"(\d{1,5})", self._after_colon() or "")
        if match is None:
            self.refuse(f"{name} is compared with a number, and {value.text[:40]} is none", value)
        limit = float(match[1]) * UNITS[match[2] or ""]
        if ratio:
            if not int(ratio[1]):
                self.refuse("nothing can be divided by 0", value)
            limit /= int(ratio[1])
            self.at += 2
        compare, read = COMPARE["=" if sign in (":", "==") else sign], NUMBERS[name][1]
        return lambda row: None if (found := read(row)) is None else compare(found, limit)

    def _after_colon(self) -> str:
        """The word after a colon, as in `aspect = 3:2`; it is not taken yet."""
        if self.here.text == ":" and self.at + 1 < len(self.tokens):
            return self.tokens[self.at + 1].text
        return ""

    def words(self, name: str, sign: str, value: _Token) -> Test:
        if sign not in (":", "=", "==", "!="):
            self.refuse(f"{name} holds words: ask {name}:{value.text} or {name}={value.text}", value)
        if name == "has" and _unquoted(value.text).lower() not in HAS:
            self.refuse(f"has asks for one of {', '.join(HAS)}", value)
        pattern = self.pattern(value, whole=sign != ":" or name in ("tag", "decision", "has"))
        read = TEXTS[name][1]
        if name in ("tag", "flag", "has"):
            return _negated(lambda row: any(pattern.search(word) for word in read(row).split("\n")), sign == "!=")
        return _negated(lambda row: bool(pattern.search(read(row))), sign == "!=")

    def pattern(self, value: _Token, whole: bool) -> "_Pattern":
        """What is looked for; a regular expression says itself whether it means the whole."""
        if value.kind != "regex":
            return _pattern(_unquoted(value.text), whole)
        try:
            return _Timed(value.text)
        except regex.error as error:
            self.refuse(f"this is no regular expression ({error})", value)

    def unknown(self, word: _Token) -> NoReturn:
        near = _near(word.text.casefold(), [*FIELDS, *self.tags])
        remedy = f'To look for it in names and captions, write it in quotation marks: "{word.text[:40]}".'
        what = "is no word of the filter and no tag here" if self.tags else "is no word of the filter"
        raise UserError(f"{word.text[:40]} (letter {word.place}) {what}.{near}", remedy)

    def refuse(self, why: str, token: _Token | None = None) -> NoReturn:
        token = token or self.here
        where = "At the end" if token.kind == "end" else f"At letter {token.place} ({token.text[:40]})"
        raise UserError(f"{where}: {why}.", "An example: blur < 0.3 and not keep")


class _Pattern(Protocol):
    def search(self, text: str, /) -> object: ...


class _Timed:
    """A regular expression, whatever the case, that gives up when all of its work takes too long."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.left = SECONDS
        self._pattern = regex.compile(text[1:-1].replace("\\/", "/"), regex.IGNORECASE)

    def search(self, text: str, /) -> object:
        begin = time.perf_counter()
        try:
            return self._pattern.search(text, timeout=max(self.left, 1e-3))
        except TimeoutError as error:
            raise UserError(
                f"{self.text[:60]} takes longer than {SECONDS:g} seconds.",
                "Write it without repeats inside repeats, such as (a+)+.",
            ) from error
        finally:
            self.left -= time.perf_counter() - begin


def _near(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 3, 0.6)
    return f" Close to it: {', '.join(close)}." if close else ""


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _pattern(words: str, whole: bool) -> re.Pattern[str]:
    """Whatever the case; `*` stands for anything."""
    body = ".*".join(re.escape(part) for part in words.split("*"))
    return re.compile(rf"^(?:{body})$" if whole else body, re.IGNORECASE | re.DOTALL)


def _contains(words: str) -> Test:
    pattern = _pattern(words, whole=False)
    return lambda row: any(map(pattern.search, (row.image.name, row.image.caption, row.image.prose)))


def _tagged(tag: str) -> Test:
    key = tag.casefold()
    return lambda row: key in map(str.casefold, row.facts.tags)


def _negated(test: Callable[[Row], bool], negate: bool) -> Test:
    return (lambda row: not test(row)) if negate else test


def _any(answers: Iterable[Answer]) -> Answer:
    found = list(answers)
    return True if True in found else None if None in found else False


def _all(answers: Iterable[Answer]) -> Answer:
    found = list(answers)
    return False if False in found else None if None in found else True


def _sortable(value: float | str) -> float | str:
    return value.casefold() if isinstance(value, str) else value


def help_table() -> Mapping[str, Mapping[str, str]]:
    """The words of the language by group, with what they mean."""
    return {
        "numbers": {name: about for name, (about, _) in NUMBERS.items()},
        "words": {name: about for name, (about, _) in TEXTS.items()},
        "states": {name: about for name, (about, _) in STATES.items()},
        "flags": dict(FLAGS),
    }
