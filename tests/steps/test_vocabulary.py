import os

from lora_studio.core.project import Plan, Project
from lora_studio.steps import vocabulary
from tests.core.test_project import add

WD = "tag_id,name,category,count\n1,general,9,5\n2,1girl,0,9\n3,hatsune_miku,4,7\n4,blorp_hat,0,3\n5,^_^,0,2\n"


def made(tmp_path, **plan) -> Project:
    project = Project.create(tmp_path, Plan(name="Zorbi", trigger="zorbi", **plan))
    ids = [add(project, colour) for colour in ("red", "green", "blue")]
    with project.edit("Captions") as edit:
        for image, caption in zip(ids, ("zorbi, Smile, blorp", "zorbi, Smile", "zorbi, gray hair"), strict=True):
            edit.set(image, caption=caption)
    return project


def test_the_words_of_the_project_come_first_with_their_counts(tmp_path):
    words = vocabulary.words(made(tmp_path))
    assert words[:3] == [("zorbi", "trigger", 3, ""), ("Smile", "expression", 2, ""), ("blorp", "other", 1, "")]
    by_name = {name: (category, count, usual) for name, category, count, usual in words}
    assert len(by_name) == len(words) > 1000
    assert by_name["gray hair"] == ("hair colour", 1, "grey hair")
    assert by_name["twin tails"] == ("hair", 0, "twintails") and by_name["mohawk"] == ("hair", 0, "")


def test_the_list_of_a_wd_tagger_is_read_where_it_lies(tmp_path):
    folder = tmp_path / "wd tagger"
    folder.mkdir()
    (folder / "selected_tags.csv").write_text(WD, "utf-8")
    project = made(tmp_path, tagger=str(folder))
    words = {name: category for name, category, _, _ in vocabulary.words(project)}
    assert words["hatsune miku"] == "character" and words["general"] == "quality" and "^_^" in words
    assert words["blorp hat"] == "headwear" and vocabulary.category("hatsune_miku", project.plan) == "character"


def test_a_new_list_is_read_anew_and_a_damaged_one_has_no_words(tmp_path):
    path = tmp_path / "selected_tags.csv"
    path.write_text(WD, "utf-8")
    plan = Plan(name="Zorbi", tagger=str(tmp_path))
    assert "hatsune miku" in vocabulary.tagger_words(plan)
    path.write_bytes(b"\xff\xfe\x00 no csv")
    os.utime(path, ns=(1, 1))
    assert vocabulary.tagger_words(plan) == {}
    path.unlink()
    assert vocabulary.tagger_words(plan) == {}


def test_a_wd_tagger_of_the_hub_is_read_from_its_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    folder = tmp_path / "models--owner--wd" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "selected_tags.csv").write_text(WD, "utf-8")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert vocabulary.tagger_words(Plan(name="Zorbi", tagger="owner/wd@main"))["hatsune miku"] == "character"
    assert vocabulary.tagger_words(Plan(name="Zorbi", tagger="owner/other")) == {}


def test_common_words_of_the_language_are_known():
    words = vocabulary.english()
    assert {"belly", "starring", "windows"} <= words and not {"smlie", "veiwer", "twintials"} & words
