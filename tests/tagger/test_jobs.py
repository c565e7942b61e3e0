import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import JobContext, run_inline
from lora_studio.core.settings import SettingsError
from lora_studio.tagger.config import TagConfig
from lora_studio.tagger.pipeline import Prepared
from lora_studio.tagger.tag import answers, tag
from lora_studio.tagger.vocabulary import Vocabulary

TAG, EMBED = "lora_studio.tagger.tag:tag", "lora_studio.tagger.embed:embed"


@pytest.fixture
def files(picture_folder):
    return sorted(path for path in picture_folder(7).iterdir() if path.suffix in (".png", ".jpg", ".webp"))


def config(tiny_tagger, files, **settings):
    images = [{"id": number, "file": str(file)} for number, file in enumerate(files, 1)]
    return {"config": {"models": [str(tiny_tagger)], "batch_size": 2, "threshold": 0.01, **settings}, "images": images}


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text("utf-8").splitlines()]


def test_every_picture_gets_a_line_with_tags(tiny_tagger, files, tmp_path):
    events = []
    summary = run_inline(tmp_path, TAG, config(tiny_tagger, files), listen=events.append)
    found = lines(tmp_path)
    assert [line["id"] for line in found] == list(range(1, len(files) + 1))
    assert all(line["error"] == "" and line["tags"] for line in found)
    name, probability, category = found[0]["tags"][0]
    assert isinstance(name, str) and 0 < probability < 1 and category == "style"
    assert summary == {"written": len(files), "failed": []}
    done = [event["done"] for event in events if event["event"] == "Progress"]
    assert done == sorted(done) and done[-1] == len(files)


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_tagged(tiny_tagger, files, tmp_path):
    files[2].write_bytes(b"no picture")
    summary = run_inline(tmp_path, TAG, config(tiny_tagger, files))
    (failed,) = summary["failed"]
    assert failed["id"] == 3 and failed["file"] == files[2].name and failed["reason"]
    assert summary["written"] == len(files) - 1 and lines(tmp_path)[2]["error"] == failed["reason"]


def test_nothing_written_is_a_failure(tiny_tagger, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="Not one of 2") as caught:
        run_inline(tmp_path / "job", TAG, config(tiny_tagger, [tmp_path / "bad.png", tmp_path / "gone.png"]))
    assert caught.value.remedy


class Interrupted(JobContext):
    """Asked to stop once four pictures are done, as a person would do in the middle."""

    def should_stop(self):
        path = self.folder / "results.jsonl"
        return path.exists() and path.read_text("utf-8").count("\n") >= 4


def test_a_stop_keeps_what_is_done_and_the_next_start_does_only_the_rest(tiny_tagger, files, tmp_path):
    settings = config(tiny_tagger, files)
    summary = tag(settings, Interrupted(tmp_path))
    assert summary["written"] == 4 and len(lines(tmp_path)) == 4
    first = (tmp_path / "results.jsonl").read_text("utf-8")
    for file in files[:4]:
        file.unlink()  # were they looked at again, they would fail
    with (tmp_path / "results.jsonl").open("a") as torn:
        torn.write('{"id": 5, "ta')
    summary = tag(settings, JobContext(tmp_path))
    assert summary == {"written": len(files), "failed": []}
    text = (tmp_path / "results.jsonl").read_text("utf-8")
    assert text.startswith(first) and [line["id"] for line in lines(tmp_path)] == list(range(1, len(files) + 1))


def test_results_of_other_settings_are_made_anew(tiny_tagger, files, tmp_path):
    tag(config(tiny_tagger, files), JobContext(tmp_path))
    tag(config(tiny_tagger, files, max_tags=1), JobContext(tmp_path))
    assert all(len(line["tags"]) == 1 for line in lines(tmp_path)) and len(lines(tmp_path)) == len(files)


def test_a_picture_that_failed_is_tried_again(tiny_tagger, files, tmp_path):
    good = files[0].read_bytes()
    files[0].write_bytes(b"")
    tag(config(tiny_tagger, files), JobContext(tmp_path))
    files[0].write_bytes(good)
    assert tag(config(tiny_tagger, files), JobContext(tmp_path))["failed"] == []
    found = {line["id"]: line for line in lines(tmp_path)}
    assert sorted(found) == list(range(1, len(files) + 1)) and found[1]["tags"] and not found[1]["error"]


def test_embeddings_of_pictures_and_texts_go_into_one_file(tiny_tagger, files, tmp_path):
    files[1].write_bytes(b"no picture")
    images = [{"id": number, "file": str(file)} for number, file in enumerate(files, 10)]
    data = {"model": str(tiny_tagger), "images": images, "texts": ["green hair", "scar"]}
    summary = run_inline(tmp_path, EMBED, data)
    assert summary["embedded"] == len(files) - 1 and summary["failed"][0]["file"] == files[1].name
    with np.load(tmp_path / "embeddings.npz") as found:
        assert list(found["image_ids"]) == [10, *range(12, 10 + len(files))]
        assert found["image"].shape == (len(files) - 1, 16) and found["text"].shape == (2, 16)
        assert found["scores"].shape == (len(files) - 1, 6) and found["tags"][0] == "voxel art"


def test_a_file_outside_the_jobs_folder_is_refused(tiny_tagger, files, tmp_path):
    data = {"model": str(tiny_tagger), "images": [{"id": 1, "file": str(files[0])}], "out": "../../evil.npz"}
    with pytest.raises(UserError, match="outside"):
        run_inline(tmp_path, EMBED, data)


def test_wrong_settings_are_all_named_before_any_work(tmp_path):
    with pytest.raises(SettingsError) as caught:
        run_inline(tmp_path, TAG, {"config": {"treshold": 1, "max_tags": 0}, "images": []})
    assert "did you mean threshold" in str(caught.value) and "config.max_tags" in str(caught.value)


# --- several taggers, and taggers that fail -------------------------------------------------------------------------


@pytest.fixture
def other_tagger(tiny_tagger, tmp_path):
    """Another one that knows the same tags and finds others."""
    folder = shutil.copytree(tiny_tagger, tmp_path / "other")
    head = load_file(folder / "tag_head.safetensors")
    save_file({"weight": -head["weight"], "bias": head["bias"]}, folder / "tag_head.safetensors")
    return folder


def test_several_taggers_give_what_any_or_all_of_them_find(tiny_tagger, other_tagger, files, tmp_path):
    def found(name, **settings):
        data = config(tiny_tagger, files, **{"threshold": 0.5, "one_of": [], **settings})
        (tmp_path / name).mkdir()
        tag(data, JobContext(tmp_path / name))
        return [{name for name, _, _ in line["tags"]} for line in lines(tmp_path / name)]

    both = [str(tiny_tagger), str(other_tagger)]
    one, two = found("one"), found("two", models=both[1:])
    assert one != two
    assert found("any", models=both) == [a | b for a, b in zip(one, two, strict=True)]
    assert found("all", models=both, combine="intersection") == [a & b for a, b in zip(one, two, strict=True)]


def test_a_tagger_that_broke_meanwhile_costs_nothing_of_what_is_done(other_tagger, files, tmp_path):
    settings = config(other_tagger, files)
    tag(settings, Interrupted(tmp_path))
    before = (tmp_path / "results.jsonl").read_bytes()
    (other_tagger / "tag_head.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="tag_head"):
        tag(settings, JobContext(tmp_path))
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_a_stop_before_the_first_picture_writes_nothing(tiny_tagger, files, tmp_path):
    job = JobContext(tmp_path)
    job.ask_to_stop()
    assert tag(config(tiny_tagger, files), job) == {"written": 0, "failed": []}
    assert not (tmp_path / "results.jsonl").exists()


def test_pictures_are_tagged_over_the_background_of_their_project(tiny_tagger, tmp_path):
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (40, 40), "#204060").save(tmp_path / "painted.png")
    for name, file, more in (
        ("a", "clear.png", {"background": "#204060"}),
        ("b", "painted.png", {}),
        ("c", "clear.png", {}),
    ):
        (tmp_path / name).mkdir()
        tag({**config(tiny_tagger, [tmp_path / file]), **more}, JobContext(tmp_path / name))
    a, b, c = (lines(tmp_path / name) for name in "abc")
    assert a == b != c


class Scores:
    """A tagger whose answers the test decides; the pipeline takes anything of this form."""

    vocabulary = Vocabulary(("hat",), ("general",), (0.5,))

    def __init__(self, answer):
        self._answer = answer

    def score_prepared(self, batch):
        return self._answer(batch)


def full_memory(batch):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("answer", "said"),
    [(full_memory, "does not hold 8 pictures"), (lambda batch: np.full((len(batch), 1), np.nan), "not numbers")],
)
def test_a_full_card_and_answers_that_are_no_numbers_are_told(answer, said):
    batch = [Prepared(number, "a.png", [None]) for number in range(8)]
    with pytest.raises(UserError, match=said) as caught:
        answers([Scores(answer)], batch, TagConfig(models=("mine",)))
    assert "mine" in caught.value.message and caught.value.remedy
