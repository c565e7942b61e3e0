import json
import shutil

import numpy as np
import open_clip
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from lora_studio.core import images, paths
from lora_studio.core.errors import UserError
from lora_studio.core.progress import Phase
from lora_studio.tagger import models, zero_shot
from lora_studio.tagger.clip import Clip
from lora_studio.tagger.model import load, load_model
from lora_studio.tagger.zero_shot import words_of
from tests.tagger.tiny_models import build_clip, build_siglip

PICTURES = [Image.new("RGB", (40, 60), "red"), Image.new("RGB", (200, 32), "blue")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_STUDIO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return build_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "my words.txt"
    path.write_text("\ufeffred hat\r\nblue_hat, smile\n\n  long   hair\nred hat\n", "utf-8")
    return path


@pytest.fixture
def texts_read(monkeypatch):
    """The texts that models were given to read."""
    read, embed = [], Clip.embed_texts
    monkeypatch.setattr(Clip, "embed_texts", lambda self, texts: (read.extend(texts), embed(self, texts))[1])
    return read


def test_a_list_of_words_is_the_vocabulary(siglip, words):
    tagger = load(str(siglip), vocabulary=words)
    assert tagger.vocabulary.names == ("red hat", "blue hat", "smile", "long hair")
    assert tagger.vocabulary.categories == ("headwear", "headwear", "expression", "hair")
    scores = tagger.score(PICTURES)
    assert scores.shape == (2, 4) and scores.dtype == np.float32 and ((scores >= 0) & (scores <= 1)).all()
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


def test_the_list_of_a_booru_tagger_can_be_used(siglip, tmp_path):
    path = tmp_path / "selected_tags.csv"
    path.write_text("tag_id,name,category\n1,long_hair,0\n2,hatsune_miku,4\n")
    known = load(str(siglip), vocabulary=path).vocabulary
    assert known.names == ("long hair", "hatsune miku") and known.categories == ("general", "character")
    assert known.thresholds[0] == known.thresholds[1]


@pytest.mark.parametrize("build", [build_siglip, build_clip])
def test_embeddings_are_those_of_open_clip(build, tmp_path, words):
    folder = build(tmp_path / "model")
    assert models.folder_kind(folder) == "zero_shot"
    tagger = load(str(folder), vocabulary=words)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["red hat", "long hair"])
    expected = model.eval().encode_text(tokens, normalize=True).detach().numpy()
    assert np.allclose(tagger.embed_texts(["red hat", "long hair"]), expected, atol=1e-5)
    pixels = transform(PICTURES[0])
    assert (tagger.prepare(PICTURES[0]) == pixels.numpy()).all()
    expected = model.encode_image(pixels[None], normalize=True).detach().numpy()
    assert np.allclose(tagger.embed_images(PICTURES[:1]), expected, atol=1e-5)


def test_words_are_read_once_for_each_model_and_list(siglip, words, tmp_path, texts_read):
    events = []
    first = load(str(siglip), events.append, vocabulary=words).score(PICTURES)
    assert "a picture of blue hat" in texts_read and any(isinstance(event, Phase) for event in events)
    texts_read.clear()
    events.clear()
    assert (load(str(siglip), events.append, vocabulary=words).score(PICTURES) == first).all()
    assert not texts_read and not events
    words.write_text("red hat\nsmile")
    load(str(siglip), vocabulary=words)
    assert "a picture of smile" in texts_read
    texts_read.clear()
    other = shutil.copytree(siglip, tmp_path / "other")
    state = load_file(other / models.CLIP_WEIGHTS)
    save_file({name: tensor * 1.5 for name, tensor in state.items()}, other / models.CLIP_WEIGHTS)
    load(str(other), vocabulary=words)
    assert "a picture of smile" in texts_read


def test_a_damaged_cache_is_read_anew(siglip, words, cache):
    first = load(str(siglip), vocabulary=words).score(PICTURES)
    (file,) = cache.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    assert (load(str(siglip), vocabulary=words).score(PICTURES) == first).all()


def test_the_studios_own_list_leaves_out_what_cannot_be_seen():
    known = zero_shot.own_vocabulary()
    assert len(known) > 1000 and {"long hair", "smile", "from above"} <= set(known.names)
    assert not {"masterpiece", "^_^", ":d"} & set(known.names)
    assert "hair" in known.categories and set(known.thresholds) == {0.5}


# --- One threshold for every word -------------------------------------------------------------------------------


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_word_that_is_near_to_everything_is_not_given_to_everything():
    """All texts share a direction, in which pictures lie too; some words have more of it than others."""
    draw = np.random.default_rng(0)
    common = unit(draw.normal(size=(1, 64)))
    meanings = unit(draw.normal(size=(300, 64)))
    texts = unit(meanings + common * draw.uniform(0.5, 3, (300, 1)))
    pictures = unit(unit(draw.normal(size=(500, 64))) + 2 * common)
    raw = pictures @ texts.T
    assert (raw.mean(0).max() - raw.mean(0).min()) > 4 * raw.std(0).mean()  # no threshold could fit them all
    given = (words_of(texts[:40], texts).score(pictures) >= 0.5).mean(0)
    assert given.min() > 0.003 and given.max() < 0.07  # 2 in 100 of unrelated pictures, for each word


def test_the_right_word_is_found_among_the_others():
    draw = np.random.default_rng(1)
    texts, common = unit(draw.normal(size=(200, 64))), unit(draw.normal(size=(1, 64)))
    pictures = unit(texts[:40] + 0.6 * unit(draw.normal(size=(40, 64))) - 2 * common)
    scores = words_of(texts[:40], texts).score(pictures)
    assert np.diag(scores).mean() > 0.9 and (scores.argmax(1) == np.arange(40)).sum() >= 38


def test_half_means_better_than_98_of_100_words():
    bank = np.eye(4, dtype=np.float32)[:, :2]
    words = zero_shot.Words(
        np.array([[1, 0]], np.float32), np.array([[x, 0] for x in np.linspace(-1, 1, 201)], np.float32)
    )
    spread = 1.4826 * 0.5
    assert words.score(bank[:1])[0, 0] == pytest.approx(1 / (1 + np.exp(-1.8 * (1 / spread - 2))), abs=1e-4)


def test_a_longer_list_needs_surer_words():
    """So that about five of them are reached by chance."""
    assert zero_shot.level_for(2500) == pytest.approx(1 / (1 + np.exp(-1.8 * (2.878 - 2))), abs=1e-3)
    assert (
        zero_shot.level_for(10) == zero_shot.level_for(40) < 0.5 < zero_shot.level_for(500) < zero_shot.level_for(2500)
    )


def test_the_shipped_model_finds_its_tags_by_their_words_alone(tmp_path):
    """Against its trained head, on the samples of all three kinds, one threshold for all tags."""
    for name in (models.CLIP_CONFIG, models.CLIP_WEIGHTS, models.MERGES):
        shutil.copy(models.starter() / name, tmp_path / name)
    trained = load("starter")
    (tmp_path / "words.txt").write_text("\n".join(trained.vocabulary.names))
    tagger = load(str(tmp_path), vocabulary=tmp_path / "words.txt")
    files = sorted((paths.assets() / "starter" / "samples").glob("*/images/*_[0-9][0-9].png"))
    pictures = [images.decode(file) for file in files]
    right, found = (one.score(pictures) >= one.vocabulary.levels for one in (trained, tagger))
    often = right.sum(0) >= 3
    f1 = 2 * (right & found).sum(0)[often] / (right.sum(0) + found.sum(0))[often]
    assert len(pictures) > 60 and often.sum() > 30 and f1.mean() > 0.75


# --- Other doors ------------------------------------------------------------------------------------------------


def test_it_can_look_at_the_pictures_of_a_project(siglip, monkeypatch):
    monkeypatch.setattr(zero_shot, "own_vocabulary", lambda: zero_shot.Vocabulary(("hat",), ("wear",), (0.5,)))
    tagger = load_model(str(siglip))
    embeddings = tagger.embed_images(PICTURES)
    assert embeddings.shape == (2, 16) and np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert np.allclose(tagger.tag_scores(embeddings), tagger.score(PICTURES))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "has no words"), (b"\n , ,\n", "has no words"), (b"\xff\xfe\x00a", "cannot be read"), (b"a\n" * 3, None)],
)
def test_a_list_that_cannot_be_used_is_named(siglip, tmp_path, content, words):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    if words is None:
        assert load(str(siglip), vocabulary=path).vocabulary.names == ("a",)
        return
    with pytest.raises(UserError, match=rf"list\.txt.*{words}") as caught:
        load(str(siglip), vocabulary=path)
    assert caught.value.remedy


def _without_tower(folder):
    config = json.loads((folder / models.CLIP_CONFIG).read_text())
    del config["model_cfg"]["vision_cfg"]
    (folder / models.CLIP_CONFIG).write_text(json.dumps(config))


def _larger(folder):
    config = json.loads((folder / models.CLIP_CONFIG).read_text())
    config["model_cfg"]["embed_dim"] = 24
    (folder / models.CLIP_CONFIG).write_text(json.dumps(config))


FAULTS = {
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"lacks tokenizer\.json"),
    "a damaged tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be read"),
    "a pickle": (
        lambda folder: (folder / models.CLIP_WEIGHTS).rename(folder / "open_clip_pytorch_model.bin"),
        "open_clip_pytorch_model.bin is a pickle",
    ),
    "no config": (lambda folder: (folder / models.CLIP_CONFIG).unlink(), r"lacks open_clip_config\.json"),
    "no vision tower": (_without_tower, "describes no open_clip model"),
    "other weights": (_larger, "does not fit"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_wrong_is_refused_with_the_reason(fault, siglip, words, tmp_path):
    folder = shutil.copytree(siglip, tmp_path / "copy")
    spoil, reason = FAULTS[fault]
    spoil(folder)
    with pytest.raises(UserError, match=reason) as caught:
        load(str(folder), vocabulary=words)
    assert caught.value.remedy


def test_nothing_in_a_models_folder_is_run(siglip, words, tmp_path):
    folder = shutil.copytree(siglip, tmp_path / "copy")
    mark = tmp_path / "it ran"
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast\n"
        "class Evil(PreTrainedTokenizerFast): pass\n"
    )
    config = json.loads((folder / "tokenizer_config.json").read_text())
    changes = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | changes))
    config = json.loads((folder / models.CLIP_CONFIG).read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"]["trust_remote_code"] = True
    (folder / models.CLIP_CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        load(str(folder), vocabulary=words)
    assert not mark.exists()


def test_a_vision_tower_from_elsewhere_is_refused(siglip, words, tmp_path):
    folder = shutil.copytree(siglip, tmp_path / "copy")
    config = json.loads((folder / models.CLIP_CONFIG).read_text())
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "hf-hub:zorbi/tiny"
    (folder / models.CLIP_CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="timm knows no hf-hub:zorbi/tiny"):
        load(str(folder), vocabulary=words)


def test_weights_of_an_older_form_are_understood(tmp_path, words):
    """The scale as a list of one number, half precision."""
    folder = build_clip(tmp_path / "model")
    expected = load(str(folder), vocabulary=words).score(PICTURES)
    state = load_file(folder / models.CLIP_WEIGHTS)
    state["logit_scale"] = state["logit_scale"].reshape(1)
    save_file({name: tensor.half() for name, tensor in state.items()}, folder / models.CLIP_WEIGHTS)
    assert np.allclose(load(str(folder), vocabulary=words).score(PICTURES), expected, atol=0.05)
