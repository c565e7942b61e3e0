"""Tokens counted without the model are the tokens that the model is given."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_studio.core import paths
from lora_studio.core.errors import UserError
from lora_studio.engine.brackets import parse_weights, read_weights
from lora_studio.engine.families.latent import LatentFamily
from lora_studio.engine.families.parts import load_tokenizer
from lora_studio.engine.prompts import chunk_tokens, token_rows, tokenize
from lora_studio.engine.tokens import CHUNK, Counter, clip_vocabulary
from tests.engine.conftest import KINDS
from tests.engine.original import tiny_parts, whole_state, write

TEXTS = [
    "",
    "   \n\t ",
    "zorbi, green hair, smile",
    "ZORBI's Hair, don't, 1girl, 2024",
    "ganyu (genshin impact), (red:1.3), [blue], \\(x\\), ((a) b:0.5), (a:b:1.2",
    "🦊🦊 👩‍👩‍👧 ☃️ zorbi",
    "مرحبا بالعالم, שלום, zorbi",
    "初音ミク, 長い髪, ｆｕｌｌ",
    "e\u0301cole, \u1e9b\u0323, ﬁ, İstanbul, ß",
    "\ud800 x \udfff",
    "\0, \x07, \u200b, \u3000, \xa0x",
    "<|endoftext|> <|startoftext|> a! !! !, </w>",
    "<b>tag</b> &amp; {a|b} @#$%^*",
    ", ".join(f"tag {number}" for number in range(90)),
    "a " * 300,
]


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def single_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "base.safetensors"
    return write(path, whole_state(request.param, tiny_parts(request.param)))


def agree(base: Path, encoders: tuple[str, ...]) -> None:
    """The counter gives what training's own tokenizers and reading of weights give."""
    tokenizers = [load_tokenizer(base, name.replace("text_encoder", "tokenizer")) for name in encoders]
    for weighted in (False, True):
        counter = Counter.open(base, weighted)
        assert counter.encoders == encoders
        counted = counter.count(TEXTS)
        for place, (encoder, tokenizer) in enumerate(zip(encoders, tokenizers, strict=True)):
            for text, counts, expected in zip(TEXTS, counted, tokenize(tokenizer, TEXTS, weighted), strict=True):
                tokens = counter.tokens(text)[encoder]
                assert [(token.id, token.weight) for token in tokens] == expected, ascii(text[:40])
                assert counts[place] == len(expected)
                assert counter.ids(text)[encoder] == [one for one, _ in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_training_in_every_family(kind: str, request: pytest.FixtureRequest) -> None:
    agree(request.getfixturevalue(kind), KINDS[kind].text_parts)


def test_tokens_are_those_of_training_for_the_starter() -> None:
    agree(Path(paths.resolve_base("starter")), ("text_encoder",))


def test_tokens_are_those_of_training_in_single_files(single_file: Path) -> None:
    xl = ("text_encoder", "text_encoder_2")
    agree(single_file, xl if "sdxl" in str(single_file) else xl[:1])


def test_older_folders_without_tokenizer_json_are_read_alike(tmp_path: Path) -> None:
    words, merges = clip_vocabulary()
    for name in ("text_encoder", "tokenizer"):
        (tmp_path / name).mkdir()
    (tmp_path / "tokenizer/vocab.json").write_text(json.dumps(words))
    (tmp_path / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (tmp_path / "tokenizer/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    agree(tmp_path, ("text_encoder",))


def test_a_base_without_words_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text encoder"):
        Counter.open(tmp_path)
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        Counter.open(tmp_path)
    (tmp_path / "tokenizer/tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(UserError, match="cannot be read"):
        Counter.open(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be opened"):
        Counter.open(tmp_path / "x.safetensors")


# --- the cut ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("limit", [75, 150, 225])
def test_the_cut_lies_where_the_trained_rows_end(
    limit: int, weighted: bool, open_base: Callable[..., LatentFamily], sdxl_base: Path
) -> None:
    """What is kept, tokenized token for token, fills the rows that the encoder is given, and no more."""
    family, counter = open_base("sdxl_base"), Counter.open(sdxl_base, weighted)
    cuts = [
        (text, tokenizer, encoder, cut)
        for text in TEXTS
        for tokenizer, (encoder, cut) in zip(family.tokenizers, counter.cut(text, limit).items(), strict=True)
    ]
    for text, tokenizer, encoder, cut in cuts:
        ids, _ = token_rows(tokenizer, [text], limit // CHUNK, weighted)
        end = tokenizer.eos_token_id
        read = [number for row in ids.tolist() for number in row[1 : row.index(end)]]
        tokens = counter.tokens(text)[encoder]
        assert [token.id for token in tokens[:limit]] == read and cut.count == len(tokens)
        assert cut.over == len(tokens) - len(read)
        kept = [token for token in tokens if token.end <= cut.kept_chars]
        assert len(kept) <= len(read) < len(kept) + 16  # a letter of up to 4 bytes that is read in half is not kept
        assert cut.kept_chars == len(text) if not cut.over else cut.kept_chars <= tokens[limit].start
        assert cut.pieces == tuple(tokens[place].start for place in range(CHUNK, len(read), CHUNK))


def test_the_cut_is_told_at_the_very_letter() -> None:
    counter = Counter.open(Path(paths.resolve_base("starter")))
    text = "smile, " * 40
    cut = counter.cut(text, 75)["text_encoder"]
    assert (cut.count, cut.over) == (80, 5) and text[: cut.kept_chars] == "smile, " * 37 + "smile"
    long = counter.cut(text, 150)["text_encoder"]
    assert (long.over, long.kept_chars) == (0, len(text)) and text[long.pieces[0] :] == ", smile, smile, "
    foxes = counter.cut("🦊" * 40, 75)["text_encoder"]
    assert foxes.kept_chars == counter.tokens("🦊" * 40)["text_encoder"][75].start < 40


def test_tokens_know_their_letters_through_weights_and_escapes() -> None:
    counter = Counter.open(Path(paths.resolve_base("starter")), weighted=True)
    text = r"(smile:1.3), \(green\) [hair], ((red)) hat"
    tokens = counter.tokens(text)["text_encoder"]
    assert {token.text: text[token.start : token.end] for token in tokens}.items() >= {
        ("smile", "smile"), ("green", "green"), ("hair", "hair"), ("red", "red"),
    }  # fmt: skip
    assert all(token.text == text[token.start : token.end] for token in tokens if token.text)
    assert next(token.weight for token in tokens if token.text == "smile") == 1.3


@pytest.mark.parametrize("text", [*TEXTS, "(((a)", "a\\\\(b\\)", "(a:1.0)b"])
def test_every_letter_of_a_weighted_piece_has_its_place(text: str) -> None:
    pieces = read_weights(text)
    assert [(piece.text, piece.weight) for piece in pieces] == parse_weights(text)
    assert all(text[piece.place(place)] == letter for piece in pieces for place, letter in enumerate(piece.text))


def test_a_row_of_previewed_tokens_is_the_row_that_is_trained(sdxl_base: Path) -> None:
    tokenizer = load_tokenizer(sdxl_base, "tokenizer_2")
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    ids = Counter.open(sdxl_base).ids("zorbi, 🦊 smile!")["text_encoder_2"]
    rows, _ = chunk_tokens([(one, 1.0) for one in ids], 2, *special)
    assert rows == token_rows(tokenizer, ["zorbi, 🦊 smile!"], 2, False)[0].tolist()


def test_encoders_with_the_same_words_share_them(sdxl_base: Path) -> None:
    counter = Counter.open(sdxl_base)
    tokens = counter.tokens("zorbi")
    assert tokens["text_encoder"] is tokens["text_encoder_2"]


def test_counting_loads_no_torch() -> None:
    code = "import sys, pathlib\nfrom lora_studio.engine.tokens import Counter\n"
    code += "from lora_studio.steps import seen, tokens, trigger\n"
    code += f"print(Counter.open(pathlib.Path({paths.resolve_base('starter')!r})).count(['smile, zorbi']))\n"
    code += "print(sorted({'torch', 'transformers', 'open_clip', 'timm', 'diffusers'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["[(6,)]", "[]"]
