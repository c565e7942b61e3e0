import gzip
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lora_studio.core import paths
from lora_studio.core.errors import UserError
from lora_studio.tagger.choose import choose
from lora_studio.tagger.config import TagConfig
from lora_studio.tagger.embed import embed_files
from lora_studio.tagger.model import FILES, load_model

PICTURES = [
    Image.new("RGB", size, colour) for size, colour in (((40, 60), "red"), ((200, 32), "blue"), ((32, 32), "white"))
]


@pytest.fixture
def copy(tiny_tagger, tmp_path):
    return shutil.copytree(tiny_tagger, tmp_path / "tägger (copy)")


def test_scores_are_probabilities_of_every_tag_for_every_picture(tiny_tagger):
    model = load_model(str(tiny_tagger))
    scores = model.score(PICTURES)
    assert scores.shape == (3, 6) and model.vocabulary.names[2] == "green hair"
    assert ((scores > 0) & (scores < 1)).all() and not np.allclose(scores[0], scores[1])


def test_scores_are_the_head_over_the_normalised_embedding(tiny_tagger):
    model = load_model(str(tiny_tagger))
    embeddings, head = model.embed_images(PICTURES), load_file(tiny_tagger / "tag_head.safetensors")
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    by_hand = 1 / (1 + np.exp(-(embeddings @ head["weight"].numpy().T + head["bias"].numpy())))
    assert np.allclose(model.score(PICTURES), by_hand, atol=1e-5)


def test_a_picture_gets_the_same_answer_alone_and_in_a_batch(tiny_tagger):
    model = load_model(str(tiny_tagger))
    alone = np.concatenate([model.score([picture]) for picture in PICTURES])
    assert np.allclose(alone, model.score(PICTURES), atol=1e-5)


def test_texts_are_embedded_beside_pictures_however_long(tiny_tagger):
    model = load_model(str(tiny_tagger))
    embeddings = model.embed_texts(["green hair", "", "green " * 200, "ünï 中文"])
    assert embeddings.shape == (4, 16) and np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_named(copy, missing):
    (copy / missing).unlink()
    with pytest.raises(UserError, match=missing.replace(".", r"\.")) as caught:
        load_model(str(copy))
    assert caught.value.remedy


def test_a_pickle_in_place_of_the_weights_is_never_opened(copy):
    (copy / "open_clip_model.safetensors").rename(copy / "open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match="pickle"):
        load_model(str(copy))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_model(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("open_clip_model.safetensors", b"not weights"),
        ("open_clip_config.json", b"{"),
        ("open_clip_config.json", b'{"model_cfg": {"embed_dim": 8}}'),
        ("vocabulary.json", b'{"tags": [{"name": "a, b"}]}'),
        ("vocabulary.json", b'{"tags": []}'),
        ("vocabulary.json", b'{"tags": [{"name": "a", "threshold": 7}]}'),
        ("bpe_simple_vocab.txt.gz", b"not gzip"),
        ("tag_head.safetensors", b""),
    ],
)
def test_a_damaged_file_is_named_with_a_remedy(copy, file, content):
    (copy / file).write_bytes(content)
    with pytest.raises(UserError, match=file.replace(".", r"\.")) as caught:
        load_model(str(copy))
    assert caught.value.remedy


def test_a_head_for_another_vocabulary_is_refused(copy):
    tags = json.loads((copy / "vocabulary.json").read_text())["tags"]
    (copy / "vocabulary.json").write_text(json.dumps({"tags": tags[:-1]}))
    with pytest.raises(UserError, match="does not fit"):
        load_model(str(copy))


def test_merges_of_another_model_are_refused(copy):
    with gzip.open(copy / "bpe_simple_vocab.txt.gz", "at", encoding="utf-8") as file:
        file.write("\nh a\nha ir</w>")
    with pytest.raises(UserError, match="another model"):
        load_model(str(copy))


def test_weights_that_are_not_numbers_are_refused(copy):
    head = load_file(copy / "tag_head.safetensors")
    save_file({**head, "bias": torch.full_like(head["bias"], float("nan"))}, copy / "tag_head.safetensors")
    with pytest.raises(UserError, match="not numbers"):
        load_model(str(copy))


@pytest.mark.parametrize(("kind", "least"), [("character", 0.6), ("concept", 0.6)])
def test_the_shipped_tagger_recognises_the_samples(kind, least):
    """The sample's style is one the tagger was trained on; its people are held out."""
    style = {"character": "voxel art", "concept": "comic style"}[kind]
    model = load_model()
    files = sorted((paths.assets() / "starter" / "samples" / kind / "images").glob("*_[0-9][0-9].png"))
    chosen = [choose(scores, model.vocabulary, TagConfig()) for scores in embed_files(model, files).scores]
    share = np.mean([style in [name for name, _, _ in tags] for tags in chosen])
    assert len(files) >= 20 and share >= least
