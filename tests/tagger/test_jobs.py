import json

import numpy as np
import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import JobContext, run_inline
from lora_studio.core.settings import SettingsError
from lora_studio.tagger.tag import tag

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
