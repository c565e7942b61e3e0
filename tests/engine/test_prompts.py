"""Weights in brackets, pieces of 75 tokens, and what they do to the text's states."""

from collections.abc import Callable

import pytest
import torch

from lora_studio.engine.brackets import escape, parse_weights
from lora_studio.engine.prompts import (
    apply_weights,
    chunk_tokens,
    chunks_for,
    token_rows,
    tokenize,
)
from tests.tiny import tokenizer


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", [("", 1.0)]),
        ("a cat, smile", [("a cat, smile", 1.0)]),
        ("a (cat) b", [("a ", 1.0), ("cat", 1.1), (" b", 1.0)]),
        ("(cat:1.3)", [("cat", 1.3)]),
        ("(cat : .5 )", [("cat ", 0.5)]),
        ("(cat:-1)", [("cat", -1.0)]),
        ("[cat]", [("cat", 1 / 1.1)]),
        ("([cat])", [("cat", 1.0)]),
        ("((a) b)", [("a", 1.1**2), (" b", 1.1)]),
        ("((a:1.5) b:2)", [("a", 3.0), (" b", 2.0)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("[a:1.2]", [("a:1.2", 1 / 1.1)]),  # a number belongs to round brackets only
        ("a:1.2) b", [("a:1.2) b", 1.0)]),
        ("(a", [("a", 1.1)]),
        ("a) b]", [("a) b]", 1.0)]),
        ("(a[b)c]", [("a", 1.1), ("b", 1.0), ("c", 1 / 1.1)]),  # either kind closes its own
        (r"ganyu \(genshin impact\)", [("ganyu (genshin impact)", 1.0)]),
        (r"(\(a\):1.2)", [("(a)", 1.2)]),
        (r"a\b \\", [("a\\b \\", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:1.0)b", [("ab", 1.0)]),
        ("(a:999)", [("a", 10.0)]),  # more than anyone can mean
        ("a:b, c", [("a:b, c", 1.0)]),
        ("((((a))))", [("a", 1.1**4)]),
    ],
)
def test_brackets_are_read_as_the_web_ui_reads_them(text: str, pieces: list[tuple[str, float]]) -> None:
    found = parse_weights(text)
    assert [piece for piece, _ in found] == [piece for piece, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces], rel=1e-12)


@pytest.mark.parametrize("text", ["(", "(a:1.2)", r"\(", "[[x]] (y:3) \\", "ganyu (genshin impact)", ":)", ""])
def test_an_escaped_text_is_read_as_itself(text: str) -> None:
    assert parse_weights(escape(text)) == [(text, 1.0)]


HOSTILE = [
    "(" * 50_000, ")" * 50_000, "[(" * 20_000 + "x" + ")]" * 20_000, "\\" * 9_999, "(a:" + "9" * 5_000 + ")",
    "(a:" + " " * 5_000 + "1)", ":1)" * 5_000, "\0\n\t", "\ud800 x", "(\udfff:1.2)", "e\u0301" * 100, "🦊" * 200,
    "<|endoftext|> <|startoftext|>", "(:1.2)", "()", "(a:１.２)", "(a:nan)", "(a:inf)", "(a:1e9)",
]  # fmt: skip


def test_nothing_one_can_write_raises(open_base: Callable) -> None:
    family = open_base("sdxl_base")
    for text in HOSTILE:
        shown = ascii(text[:40])
        assert all(-10 <= weight <= 10 for _, weight in parse_weights(text)), shown
        family.num_tokens([text])
        for weighted in (False, True):
            read = family.encode_text([text], 1, 2, weighted)
            assert read.states.shape == (1, 154, 40) and torch.isfinite(read.states).all(), shown
            assert torch.isfinite(read.pooled).all(), shown


def test_a_row_is_begin_tokens_end_and_padding() -> None:
    ids, weights = chunk_tokens([(5, 1.0), (6, 1.3)], 1, begin=512, end=513, pad=0)
    assert ids == [[512, 5, 6, 513, *[0] * 73]]
    assert weights == [[1.0, 1.0, 1.3, *[1.0] * 74]]


@pytest.mark.parametrize(("tokens", "chunks"), [(0, 1), (1, 1), (75, 1), (76, 2), (150, 2), (151, 3)])
def test_a_piece_holds_75_tokens(tokens: int, chunks: int) -> None:
    assert chunks_for(tokens) == chunks


def test_76_tokens_make_two_pieces_in_their_order() -> None:
    text = " ".join("abcdefghijklmnopqrstuvwxyz"[index % 26] for index in range(76))
    words = tokenizer()
    ids, weights = token_rows(words, [text, "b"], 2, weighted=False)
    all_tokens = [token for token, _ in tokenize(words, [text], False)[0]]
    assert len(all_tokens) == 76 and ids.shape == weights.shape == (4, 77)
    assert ids[0].tolist() == [512, *all_tokens[:75], 513]
    assert ids[1].tolist() == [512, all_tokens[75], 513, *[513] * 74]
    assert ids[2, :3].tolist() == [512, *[token for token, _ in tokenize(words, ["b"], False)[0]], 513]
    assert torch.equal(ids[3], token_rows(words, [""], 1, False)[0][0])  # the empty piece is the empty text


def test_an_exclamation_mark_is_a_word_though_openclip_pads_with_it() -> None:
    """As OpenCLIP's own tokenizer reads it; and the names of special tokens are letters like any other."""
    for text in ("a! !", "a <|endoftext|> b", "!!"):
        one, other = (tokenize(tokenizer(pad), [text], False)[0] for pad in ("!", "<|endoftext|>"))
        assert one == other and not {512, 513} & {token for token, _ in one}
    assert tokenize(tokenizer("!"), ["a !"], False)[0][-1][0] == 256  # the mark at a word's end, not padding's 0


def test_what_is_longer_than_its_pieces_is_cut_off() -> None:
    words = tokenizer()
    long, short = "a " * 200, "a " * 75
    assert torch.equal(token_rows(words, [long], 1, False)[0], token_rows(words, [short], 1, False)[0])


def test_each_token_carries_the_weight_of_its_piece() -> None:
    words = tokenizer()
    _, weights = token_rows(words, ["ab (cd:1.5) [e]"], 1, weighted=True)
    assert weights[0, :7].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.5, 1.5, 1 / 1.1, 1.0])
    assert torch.equal(token_rows(words, ["ab (cd:1.5) [e]"], 1, weighted=False)[1], torch.ones(1, 77))


def test_weights_scale_states_and_leave_their_mean() -> None:
    states = torch.rand(2, 77, 8) + 0.1
    weights = torch.ones(2, 77)
    weights[1, 3] = 1.5
    found = apply_weights(states, weights)
    assert torch.equal(found[0], states[0])
    assert found[1].mean().item() == pytest.approx(states[1].mean().item(), rel=1e-5)
    ratio = found[1] / states[1]
    assert torch.allclose(ratio[3] / ratio[4], torch.tensor(1.5))


def test_a_mean_that_changes_its_sign_is_left() -> None:
    states = torch.full((1, 77, 2), 0.01)
    weights = torch.ones(1, 77)
    weights[0, 1] = -100.0
    assert torch.equal(apply_weights(states, weights)[0, 5], states[0, 5])


@pytest.mark.parametrize("kind", ["base", "sd2_base", "sdxl_base"])
def test_weight_one_is_plain_encoding_to_the_bit(kind: str, open_base: Callable) -> None:
    family = open_base(kind)
    plain = family.encode_text(["zorbi, blue hair", "cat"], 1)
    written = family.encode_text(["(zorbi, blue:1.0) hair", r"([cat])"], 1, weighted=True)
    other = family.encode_text(["(zorbi:1.4), blue hair", "cat"], 1, weighted=True)
    for name, value in plain.tensors().items():
        assert torch.equal(value, written.tensors()[name]), name
    assert torch.equal(plain.states[1], other.states[1]) and not torch.equal(plain.states[0], other.states[0])


@pytest.mark.parametrize("kind", ["base", "sdxl_base"])
def test_a_long_text_is_its_pieces_one_behind_the_other(kind: str, open_base: Callable) -> None:
    family = open_base(kind)
    first, second = "a b c d e " * 15, "f g h"
    whole = family.encode_text([first + second], 1, 2)
    one, two = family.encode_text([first], 1), family.encode_text([second], 1)
    assert torch.allclose(whole.states, torch.cat([one.states, two.states], dim=1), atol=1e-6)
    if one.pooled is not None:
        assert torch.allclose(whole.pooled, one.pooled, atol=1e-6)
        assert not torch.allclose(one.pooled, two.pooled, atol=1e-3)


def test_what_a_caption_lacks_is_filled_with_the_empty_text(open_base: Callable) -> None:
    family = open_base("base")
    filled = family.encode_text(["cat", "a " * 80], 1, 2)
    assert torch.allclose(filled.states[0, 77:], family.encode_text([""], 1).states[0], atol=1e-6)
    assert torch.allclose(filled.states[0, :77], family.encode_text(["cat"], 1).states[0], atol=1e-6)
