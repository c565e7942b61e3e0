"""Weights in brackets, as the AUTOMATIC1111 web UI and its followers write them. No torch.

`(word)` is 1.1 times as strong, `[word]` 1 / 1.1 times, `(word:1.3)` 1.3 times; brackets nest, and `\\(` is a bracket
that is meant as one.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass

STEP = 1.1  # what one pair of brackets multiplies
MOST = 10.0  # the largest weight, either sign: far above what a picture survives, and far below where numbers overflow
_TOKEN = re.compile(
    r"(?P<escaped>\\[()\[\]\\])"
    r"|(?P<open>[(\[])"
    r"|(?P<weight>:\s{0,9}(?P<number>[+-]?(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}))\s{0,9}\))"
    r"|(?P<close>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|.)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Piece:
    """A stretch of a text that has one weight."""

    text: str
    """As it is read: without the brackets and numbers of weights."""
    weight: float
    starts: tuple[tuple[int, int], ...]
    """Where its runs come from: (place in `text`, place in the whole text), in order."""

    def place(self, index: int) -> int:
        """The place in the whole text of the character `index` of this piece."""
        inside, outside = self.starts[bisect_right(self.starts, index, key=lambda start: start[0]) - 1]
        return outside + index - inside


def parse_weights(text: str) -> list[tuple[str, float]]:
    """Pieces of the text with their weights, in order; neighbours of one weight are one piece. Never raises.

    A closing bracket without an opening one is text; an opening one that is never closed holds to the end.
    """
    return [(piece.text, piece.weight) for piece in read_weights(text)]


def read_weights(text: str) -> list[Piece]:
    """As `parse_weights`, with the places that the pieces come from."""
    marks = list(_TOKEN.finditer(text))
    factors, closing = _pair(marks)
    shown: list[tuple[list[str], float, list[tuple[int, int]]]] = []
    length = 0  # of the last piece
    depth = 0  # round brackets without a number less square ones: an exact count, so that (([[x]])) is 1 again
    products = [1.0]  # of the numbers around us
    for index, mark in enumerate(marks):
        if mark["open"]:
            number = factors.get(index)
            if mark[0] == "(":
                products.append(_limit(products[-1] * (1.0 if number is None else number)))
            if number is None:
                depth += 1 if mark[0] == "(" else -1
        elif index in closing:
            if mark[0] == "]":
                depth += 1
            else:
                products.pop()
                depth -= 0 if mark["number"] else 1
        else:
            word, start = (mark[0][1:], mark.start() + 1) if mark["escaped"] else (mark[0], mark.start())
            weight = _limit(STEP ** max(-30, min(30, depth)) * products[-1])
            if not shown or shown[-1][1] != weight:
                shown.append(([], weight, []))
                length = 0
            shown[-1][0].append(word)
            shown[-1][2].append((length, start))
            length += len(word)
    return [Piece("".join(words), weight, tuple(starts)) for words, weight, starts in shown] or [
        Piece("", 1.0, ((0, 0),))
    ]


def _pair(marks: list[re.Match[str]]) -> tuple[dict[int, float], set[int]]:
    """Numbers by the index of their opening bracket, and the indices of closing brackets that have a partner."""
    waiting: dict[str, list[int]] = {"(": [], "[": []}
    factors: dict[int, float] = {}
    closing: set[int] = set()
    for index, mark in enumerate(marks):
        if mark["open"]:
            waiting[mark[0]].append(index)
        elif mark["close"] or mark["weight"]:
            partners = waiting["[" if mark[0] == "]" else "("]
            if partners:
                partner = partners.pop()
                closing.add(index)
                if mark["number"]:
                    factors[partner] = float(mark["number"])
    return factors, closing


def _limit(weight: float) -> float:
    return max(-MOST, min(MOST, weight))


def escape(text: str) -> str:
    """The text with its brackets marked as meant: what `parse_weights` reads back as the text itself, weight 1."""
    return re.sub(r"([()\[\]\\])", r"\\\1", text)
