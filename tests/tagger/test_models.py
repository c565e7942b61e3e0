"""What stands behind a name, and how it gets here."""

import hashlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.core.progress import Note, Phase, Progress
from lora_studio.tagger import models
from lora_studio.tagger.model import at_hand, load, load_model
from tests.hub import TOKEN, serve
from tests.tagger.tiny_models import build_clip, build_siglip, build_wd, cut_off, write_tags

PICTURE = Image.new("RGB", (40, 60), "red")
JUNK = ("model.onnx", "pytorch_model.bin", "sw_jax_cv_config.msgpack", "README.md", "evil.py", "image.png")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's client."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LORA_STUDIO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hub"


@pytest.fixture
def server(tmp_path, monkeypatch, cache):
    """A hub with a WD model as `zorbi/tiny`, and much beside it that must never be fetched."""
    folder = build_wd(tmp_path / "remote")
    for name in JUNK:
        (folder / name).write_bytes(b"do not fetch")
    yield from serve(folder, monkeypatch)


# --- Names ------------------------------------------------------------------------------------------------------


def test_every_card_says_what_one_needs_to_choose(cache):
    found = models.cards()
    assert found[0].name == "starter" and found[0].present and found[0].bytes > 10**6
    assert {card.kind for card in found} == {"starter", "wd", "zero_shot", "captioner"}
    assert sum(card.kind == "wd" for card in found) == 5 and len({card.name for card in found}) == len(found)
    assert all(card.title and card.about and card.speed and card.licence and card.source for card in found)
    assert all((card.kind == "captioner") == (card.answers == "sentences") for card in found)
    assert not any(card.present for card in found[1:])


def test_cards_and_kinds_are_known_without_torch():
    code = "import sys\nfrom lora_studio.tagger import models\nmodels.cards()\nmodels.kind_of('ViT-B-32:openai')\n"
    code += "print({'torch', 'timm', 'open_clip', 'transformers', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_folder_is_known_by_its_files(tmp_path):
    assert models.kind_of(str(build_wd(tmp_path / "wd"))) == "wd"
    assert models.kind_of(str(build_clip(tmp_path / "clip"))) == "zero_shot"
    assert models.kind_of(str(build_siglip(tmp_path / "siglip"))) == "zero_shot"
    assert models.kind_of(str(models.starter())) == "open_clip"
    assert models.kind_of(" starter ") == "starter"


def test_names_of_open_clip_are_known_by_their_architecture():
    assert models.kind_of("ViT-B-16-SigLIP:webli") == "zero_shot"
    assert models.kind_of("coca_ViT-B-32:laion2b_s13b_b90k") == "captioner"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "no tagger at nowhere"),
        ("", "no tagger"),
        ("../../no/where", "no tagger at"),
        ("ViT-Z-99:openai", "no architecture ViT-Z-99"),
        ("a/b/c", "no tagger"),
    ],
)
def test_what_is_no_name_is_refused(name, words):
    with pytest.raises(UserError, match=words) as caught:
        models.kind_of(name)
    assert caught.value.remedy


def test_a_file_is_no_tagger(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    with pytest.raises(UserError, match="is a file"):
        models.kind_of(str(file))


def test_a_checkpoint_that_open_clip_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(UserError, match="no checkpoint mine of ViT-B-32") as caught:
        at_hand("ViT-B-32:mine")
    assert "laion2b_s34b_b79k" in caught.value.remedy


REFUSED = {
    "empty": (lambda folder: [path.unlink() for path in folder.iterdir()], "no tagger that is known"),
    "a pickle only": (
        lambda folder: (
            [path.unlink() for path in folder.iterdir() if path.name != "model.safetensors"]
            and (folder / "model.safetensors").rename(folder / "model.ckpt")
        ),
        r"model\.ckpt is a pickle",
    ),
    "half there": (lambda folder: (folder / "config.json").unlink(), r"lacks config\.json"),
    "cut off": (lambda folder: cut_off(folder / "model.safetensors"), "cut off"),
    "other classes": (lambda folder: write_tags(folder, [("a", 0)]), "9 classes, but selected_tags.csv has 1 tags"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_folder_is_refused_before_anything_is_loaded(case, tmp_path):
    folder = build_wd(tmp_path / "wd")
    spoil, words = REFUSED[case]
    spoil(folder)
    with pytest.raises(UserError, match=words) as caught:
        models.kind_of(str(folder))
    assert caught.value.remedy


# --- The hub ----------------------------------------------------------------------------------------------------


def test_a_tagger_is_fetched_once_with_progress_and_only_what_it_needs(server, cache):
    events = []
    assert models.kind_of("zorbi/tiny") == "wd" and not server.fetched
    tagger = load("zorbi/tiny", events.append)
    assert sorted(server.fetched) == ["config.json", "model.safetensors", "selected_tags.csv"]
    assert tagger.score([PICTURE]).shape == (1, 9)
    assert isinstance(events[0], Phase) and any(isinstance(event, Note) for event in events)
    progress = [event for event in events if isinstance(event, Progress)]
    assert (
        progress[-1].done == progress[-1].total == sum((server.folder / name).stat().st_size for name in server.fetched)
    )
    server.asked = 0
    events.clear()
    assert np.array_equal(load("zorbi/tiny", events.append).score([PICTURE]), tagger.score([PICTURE]))
    assert server.asked == 0 and not events and models.on_disk("zorbi/tiny") is not None


def test_what_is_here_works_without_a_network(server, cache, monkeypatch):
    load("zorbi/tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert models.kind_of("zorbi/tiny") == "wd" and load("zorbi/tiny").score([PICTURE]).shape == (1, 9)


def test_without_a_network_what_is_not_here_is_told(cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="cannot be reached") as caught:
        load("SmilingWolf/wd-vit-tagger-v3")
    assert TOKEN not in str(caught.value)


def test_a_broken_connection_is_taken_up_where_it_broke(server, cache):
    server.cut["model.safetensors"] = 1000
    assert load("zorbi/tiny").score([PICTURE]).shape == (1, 9)
    assert [start for name, start in server.started if name == "model.safetensors"] == [0, 1000]


def test_a_fetch_that_was_ended_goes_on_where_it_stopped(server, cache):
    """What a program that was killed has left: a part of the file under the name of its content."""
    data = (server.folder / "model.safetensors").read_bytes()
    blobs = cache / "models--zorbi--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(data).hexdigest()}.part").write_bytes(data[:1234])
    assert models.on_disk("zorbi/tiny") is None
    assert load("zorbi/tiny").score([PICTURE]).shape == (1, 9)
    assert [start for name, start in server.started if name == "model.safetensors"] == [1234]
    assert not list(blobs.glob("*.part"))


@pytest.mark.parametrize("name", ["model.safetensors", "selected_tags.csv"])
def test_what_arrives_altered_is_refused_and_fetched_anew(name, server, cache):
    server.damage.add(name)
    with pytest.raises(UserError, match=f"{name} of zorbi/tiny did not arrive whole") as caught:
        load("zorbi/tiny")
    assert "Try again" in caught.value.remedy and models.on_disk("zorbi/tiny") is None
    server.damage.clear()
    assert load("zorbi/tiny").score([PICTURE]).shape == (1, 9)


def test_a_model_that_is_a_pickle_there_is_refused_before_anything_is_fetched(server, cache):
    (server.folder / "model.safetensors").unlink()
    (server.folder / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle"):
        load("zorbi/tiny")
    assert not server.fetched


def test_where_there_is_only_an_onnx_file_it_is_that_which_is_fetched(server, cache):
    (server.folder / "model.safetensors").unlink()
    assert models.kind_of("zorbi/tiny") == "onnx"
    at_hand("zorbi/tiny")
    assert sorted(server.fetched) == ["model.onnx", "selected_tags.csv"]


def test_a_model_of_open_clip_comes_with_its_tokenizer(server, cache, tmp_path):
    for path in server.folder.iterdir():
        path.unlink()
    build_siglip(server.folder)
    (server.folder / "open_clip_pytorch_model.bin").write_bytes(b"do not fetch")
    words = tmp_path / "words.txt"
    words.write_text("red hat\ndog")
    tagger = load("zorbi/tiny", vocabulary=words)
    assert tagger.score([PICTURE]).shape == (1, 2)
    assert {"tokenizer.json", "open_clip_config.json", "open_clip_model.safetensors"} <= set(server.fetched)
    assert not any(name.endswith(".bin") for name in server.fetched)
    assert load_model("zorbi/tiny").embed_images([PICTURE]).shape == (1, 16)


def test_a_name_that_the_hub_does_not_know_is_told(server, cache):
    with pytest.raises(UserError, match="no model zorbi/none"):
        models.kind_of("zorbi/none")


def test_a_list_of_words_for_a_model_with_tags_of_its_own_is_told(tmp_path):
    events = []
    folder = build_wd(tmp_path / "wd")
    load(str(folder), events.append, vocabulary=shutil.copy(__file__, tmp_path / "words.txt"))
    assert any(isinstance(event, Note) and "words.txt is not used" in event.text for event in events)
