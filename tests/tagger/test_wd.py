import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_studio.core.errors import UserError
from lora_studio.tagger.booru import square
from lora_studio.tagger.model import load
from lora_studio.tagger.models import folder_kind
from lora_studio.tagger.vocabulary import KAOMOJI, spaced
from tests.tagger.tiny_models import ARCHITECTURES, BOORU, build_onnx, build_wd, cut_off, write_tags


@pytest.fixture(scope="module")
def wd(tmp_path_factory):
    return build_wd(tmp_path_factory.mktemp("wd"))


@pytest.fixture
def copy(wd, tmp_path):
    return shutil.copytree(wd, tmp_path / "tägger (copy)")


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8), "RGB")


def test_a_picture_of_the_models_size_keeps_its_bytes_with_blue_first_and_white_around():
    picture = noise(445, 448)
    found = square(picture, 448)
    assert found.dtype == np.uint8 and found.shape == (448, 448, 3)
    assert (found[:, 1:446] == np.asarray(picture)[:, :, ::-1]).all()
    assert (found[:, :1] == 255).all() and (found[:, 446:] == 255).all()  # the odd column stands right


def test_the_odd_row_stands_below():
    found = square(noise(448, 441), 448)
    assert (found[:3] == 255).all() and (found[444:] == 255).all() and not (found[3] == 255).all()


def test_larger_pictures_shrink_by_areas():
    picture = noise(896, 896)
    blocks = np.asarray(picture)[:, :, ::-1].astype(int).reshape(448, 2, 448, 2, 3).sum((1, 3))
    assert (square(picture, 448) == (blocks + 2) // 4).all()


def test_areas_count_by_the_share_that_falls_into_a_pixel():
    picture = noise(700, 700)
    edges = np.arange(449) * 700 / 448
    share = np.clip(np.minimum(edges[1:, None], np.arange(1, 701)) - np.maximum(edges[:-1, None], np.arange(700)), 0, 1)
    share *= 448 / 700
    exact = np.einsum("yi,xj,ijc->yxc", share, share, np.asarray(picture)[:, :, ::-1].astype(float), optimize=True)
    assert np.abs(square(picture, 448) - exact).max() <= 0.51  # rounded to the nearest, nothing else


def test_smaller_pictures_grow_by_lanczos():
    picture = noise(200, 200)
    grown = np.asarray(picture.resize((448, 448), Image.Resampling.LANCZOS))[:, :, ::-1]
    assert (square(picture, 448) == grown).all()


def test_the_model_sees_minus_one_to_one(wd):
    picture = noise(50, 40)
    prepared = load(str(wd)).prepare(picture)
    assert prepared.dtype == np.float32
    assert (prepared == square(picture, 32).astype(np.float32).transpose(2, 0, 1) / np.float32(127.5) - 1).all()


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_probabilities_are_those_of_timm(family, tmp_path):
    folder = build_wd(tmp_path, family)
    assert folder_kind(folder) == "wd"
    tagger, pictures = load(str(folder)), [noise(60, 30), noise(20, 90, 1)]
    config = json.loads((folder / "config.json").read_text())
    model = timm.create_model(config["architecture"], num_classes=len(BOORU), **config["model_args"]).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    pixels = torch.from_numpy(np.stack([tagger.prepare(picture) for picture in pictures]))
    with torch.inference_mode():
        expected = model(pixels).sigmoid().numpy()
    found = tagger.score(pictures)
    assert found.shape == (2, len(BOORU)) and found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-6) and np.abs(found[0] - found[1]).max() > 1e-3


def test_half_precision_gives_nearly_the_same(wd):
    pictures = [noise(60, 30), noise(20, 90, 1)]
    assert np.allclose(load(str(wd), half=True).score(pictures), load(str(wd)).score(pictures), atol=0.02)


def test_tags_have_their_category_and_its_level_and_faces_keep_their_underscores(wd):
    known = load(str(wd)).vocabulary
    assert known.names[4:] == ("1girl", "long hair", ">_<", "o_o", "hatsune miku")
    assert known.categories == ("rating",) * 4 + ("general",) * 4 + ("character",)
    assert known.thresholds[4:] == (0.35,) * 4 + (0.85,)


def test_the_faces_drawn_with_letters_are_these():
    listed = "0_0 (o)_(o) +_+ +_- ._. <o>_<o> <|>_<|> =_= >_< 3_3 6_9 >_o @_@ ^_^ o_o u_u x_x |_| ||_||"
    assert sorted(KAOMOJI) == sorted(listed.split()) and all(spaced(face) == face for face in KAOMOJI)
    assert spaced("x_x_x") == "x x x" and spaced("hair_over_one_eye") == "hair over one eye"


FAULTS = {
    "no list": (lambda folder: (folder / "selected_tags.csv").unlink(), "selected_tags.csv"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"lacks model\.safetensors"),
    "a pickle": (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickle"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"lacks config\.json"),
    "a tag less": (lambda folder: write_tags(folder, BOORU[:-1]), "9 classes, but selected_tags.csv has 8 tags"),
    "an empty list": (lambda folder: (folder / "selected_tags.csv").write_text("tag_id,name,category\n"), "no tags"),
    "a list without names": (lambda folder: (folder / "selected_tags.csv").write_text("id,tag\n1,a\n"), "no column"),
    "half the weights": (lambda folder: cut_off(folder / "model.safetensors"), "damaged"),
    "no json": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json cannot be read"),
    "another model": (lambda folder: _config(folder, architecture="resnet18", model_args={}), "does not fit"),
    "a name that leads elsewhere": (
        lambda folder: _config(folder, architecture="hf-hub:zorbi/tiny"),
        "none of its architectures",
    ),
    "a file beside": (lambda folder: _config(folder, model_args={"checkpoint_path": "evil.pth"}), "from elsewhere"),
    "no such model": (lambda folder: _config(folder, architecture="vit_of_nowhere"), "no model that timm"),
}


def _config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_wrong_is_refused_with_the_reason(fault, copy):
    spoil, words = FAULTS[fault]
    spoil(copy)
    with pytest.raises(UserError, match=words) as caught:
        load(str(copy))
    assert caught.value.remedy


# --- ONNX -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [("N", 32, 32, 3), (2, 32, 32, 3)], ids=["any number", "two at a time"])
def test_an_onnx_file_answers_for_pictures_from_0_to_255(shape, tmp_path):
    pytest.importorskip("onnxruntime")
    weights = build_onnx(tmp_path, shape)
    assert folder_kind(tmp_path) == "onnx"
    tagger, pictures = load(str(tmp_path)), [noise(60, 30), noise(20, 90, 1), noise(32, 32, 2)]
    assert (tagger.prepare(pictures[0]) == square(pictures[0], 32)).all()
    means = np.stack([square(picture, 32).mean((0, 1)) / 255 for picture in pictures])
    assert np.allclose(tagger.score(pictures), 1 / (1 + np.exp(-means @ weights)), atol=1e-5)


ONNX_FAULTS = {
    "no such file": (lambda folder: (folder / "model.onnx").write_bytes(b"no graph"), "damaged or no ONNX model"),
    "a tag less": (lambda folder: write_tags(folder, BOORU[:-1]), "9 classes, but selected_tags.csv has 8 tags"),
    "another form": (lambda folder: build_onnx(folder, ("N", 32, 32, "C")), "height, width, 3"),
}


@pytest.mark.parametrize("fault", ONNX_FAULTS)
def test_an_onnx_file_that_is_wrong_is_refused_with_the_reason(fault, tmp_path):
    pytest.importorskip("onnxruntime")
    build_onnx(tmp_path)
    spoil, words = ONNX_FAULTS[fault]
    spoil(tmp_path)
    with pytest.raises(UserError, match=words):
        load(str(tmp_path))


def test_without_onnxruntime_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    build_onnx(tmp_path)
    with pytest.raises(UserError, match="needs onnxruntime") as caught:
        load(str(tmp_path))
    assert "lora-studio[onnx]" in caught.value.remedy
