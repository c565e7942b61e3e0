import itertools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_studio.core import images
from lora_studio.core.errors import UserError
from lora_studio.core.jobs import run_inline
from lora_studio.tagger import captioners, model
from tests.conftest import draw_picture
from tests.tagger import tiny_captioners

PICTURES = [images.decode(draw_picture(seed, size)) for seed, size in enumerate([(200, 120), (64, 64), (90, 300)])]
KINDS = ("coca", "llava", "blip")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioners ü")
    return {name: getattr(tiny_captioners, name)(root / name) for name in KINDS}


@pytest.fixture
def copy(folders, tmp_path):
    return lambda kind: shutil.copytree(folders[kind], tmp_path / "copy")


@pytest.mark.parametrize("kind", KINDS)
def test_each_picture_gets_its_text_the_same_alone_and_in_a_batch(folders, kind):
    describer = model.load(str(folders[kind]))
    texts = describer.describe(PICTURES, max_tokens=10)
    assert [describer.describe([picture], max_tokens=10)[0] for picture in PICTURES] == texts
    assert all(text and text == " ".join(text.split()) for text in texts)
    prepared = [describer.prepare(picture) for picture in PICTURES]
    assert describer.describe_prepared(prepared, max_tokens=10) == texts
    assert describer.describe([]) == []


@pytest.mark.parametrize("kind", ["coca", "llava"])
def test_the_picture_decides_what_is_said(folders, kind):
    assert len(set(captioners.load(folders[kind]).describe(PICTURES, max_tokens=10))) > 1


def test_a_model_that_chats_is_asked_with_the_prompt_and_does_not_repeat_it(folders):
    describer = captioners.load(folders["llava"])
    asked = describer.describe(PICTURES, "what is on the left", 10)
    assert asked != describer.describe(PICTURES, "what is it", 10)
    assert not any("what is on the left" in text for text in asked)
    inputs = describer._inputs([PICTURES[0]], "what is on the left")
    read = describer._tokenizer.decode(inputs["input_ids"][0])
    assert read.count("<image>") == 4 and "what is on the left" in read


def test_a_model_that_cannot_chat_describes_unasked_until_the_prompt_is_changed(folders):
    describer = captioners.load(folders["blip"])
    assert "input_ids" not in describer._inputs(PICTURES, captioners.PROMPT)
    assert "a picture of" in describer.describe(PICTURES, "a picture of", 5)[0]


def test_no_more_than_the_wanted_tokens_are_written(folders):
    for kind in KINDS:
        describer = captioners.load(folders[kind])
        short, long = (describer.describe(PICTURES[:1], max_tokens=count)[0] for count in (6, 14))
        assert len(short) <= len(long), kind


def test_cocas_search_finds_the_best_of_all_sentences_when_it_may_look_at_enough(folders, monkeypatch):
    """Three words and the end are all that is likely, so every sentence of at most three words can be tried."""
    describer = captioners.load(folders["coca"])
    model, end = describer._model, describer._tokenizer.eot_token_id
    words, start = [*describer._tokenizer.encode("hat cat dog"), end], describer._tokenizer.sot_token_id
    model.text_decoder.text_projection[:, words] *= 10
    model.text_decoder.text_projection[:, end] *= -3  # so that some sentences end early, found by trying
    pictures = [images.decode(draw_picture(seed)) for seed in range(8)]
    monkeypatch.setattr(captioners, "BEAMS", 100)
    monkeypatch.setattr(captioners, "MIN_TOKENS", 0)
    tries = [list(tries) for length in (1, 2, 3) for tries in itertools.product(words, repeat=length)]
    tries = [one for one in tries if end not in one[:-1] and (end in one or len(one) == 3)]
    pixels = torch.stack([torch.from_numpy(describer.prepare(picture)) for picture in pictures])
    with torch.inference_mode():
        found = describer._search(pixels, 3)
        for picture, tokens in zip(pixels, found, strict=True):

            def chance(one, picture=picture):
                logits = model(picture[None], torch.tensor([[start, *one]]), output_labels=False)["logits"][0]
                chances = logits.float().log_softmax(-1)
                return sum(float(chances[place, word]) for place, word in enumerate(one)) / len(one)

            best = max(tries, key=chance)
            assert tokens == [start, *best] + [0] * (3 - len(best))
    assert len({tuple(tokens) for tokens in found}) > 1 and any(end in tokens[:-1] for tokens in found)


def test_half_precision_says_something_too(folders):
    for kind in KINDS:
        assert all(captioners.load(folders[kind], half=True).describe(PICTURES, max_tokens=6)), kind


def test_large_pictures_are_made_smaller_ahead_of_the_model(folders):
    describer = captioners.load(folders["llava"])
    assert describer.prepare(PICTURES[0].resize((3000, 1000))).size == (1280, 427)


def test_what_was_thought_aloud_is_left_out():
    assert captioners._tidy("<think>a dog?\nno</think>\n A cat.\n On a mat. ") == "A cat. On a mat."
    assert captioners._tidy("<think>cut off") == ""


# --- bad models -----------------------------------------------------------------------------------------------------


def refused(folder, match):
    with pytest.raises(UserError, match=match) as caught:
        model.load(str(folder))
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(("kind", "file"), [("coca", "open_clip_model.safetensors"), ("llava", "model.safetensors")])
def test_weights_that_are_cut_off_are_refused(copy, kind, file):
    folder = copy(kind)
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: len(data) // 2])
    refused(folder, "damaged|cut off")


@pytest.mark.parametrize(("kind", "file"), [("coca", "open_clip_model.safetensors"), ("llava", "model.safetensors")])
def test_weights_that_lack_a_part_are_refused(copy, kind, file):
    folder = copy(kind)
    state = load_file(folder / file)
    state.pop(sorted(state)[0])
    save_file(state, folder / file, {"format": "pt"})
    refused(folder, "lack|does not fit")


def test_a_pickle_is_never_opened(copy):
    folder = copy("llava")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pickle|lacks")


def test_code_of_a_models_own_is_never_run(copy, tmp_path):
    folder, trap = copy("llava"), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Evil: pass\n")
    error = refused(folder, "code of its own|knows no such")
    assert not trap.exists() and str(folder) in error.message


def test_a_model_of_another_kind_is_refused(copy):
    folder = copy("llava")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    refused(folder, "cannot be used to describe pictures|knows no such")


# --- the job --------------------------------------------------------------------------------------------------------


def test_sentences_and_tags_of_one_job_stand_in_one_line(folders, tiny_tagger, picture_folder, tmp_path):
    files = sorted(picture_folder(3).iterdir())
    config = {
        "models": [str(tiny_tagger), str(folders["llava"])],
        "threshold": 0.01,
        "max_tokens": 8,
        "prompt": "what is it",
    }
    entries = [{"id": number, "file": str(file)} for number, file in enumerate(files)]
    run_inline(tmp_path / "job", "lora_studio.tagger.tag:tag", {"config": config, "images": entries})
    lines = [json.loads(line) for line in (tmp_path / "job" / "results.jsonl").read_text("utf-8").splitlines()]
    pictures = [images.decode(file) for file in files]
    assert [line["text"] for line in lines] == captioners.load(folders["llava"]).describe(pictures, "what is it", 8)
    assert all(line["tags"] for line in lines)
