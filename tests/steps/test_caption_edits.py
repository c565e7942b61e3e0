"""Bulk edits of captions: what each does, that it is seen before it happens, and that it is one undo."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.project import Plan, Project
from lora_studio.core.settings import SettingsError
from lora_studio.steps import caption_edits, captioning, curation, vocabulary
from lora_studio.steps.caption_edits import CaptionEdit
from tests.core.test_project import add


def edit(do: str, **values) -> CaptionEdit:
    return CaptionEdit.load({"do": do, **values})


def texts(project: Project, field: str = "caption") -> list[str]:
    return list(project.texts(field).values())


def with_texts(projects: Path, *lines: str, field: str = "caption", **plan) -> Project:
    """A project with one picture for each text."""
    project = Project.create(projects, Plan(**{"name": "Zorbi", "trigger": "zorbi", **plan}))
    for number, line in enumerate(lines):
        add(project, f"#{number:06x}", **{field: line})
    return project


CASES = [
    (edit("add", tags=["smile", "Hat"]), "zorbi, hat", "zorbi, hat, smile"),
    (edit("add", tags=["a, b"]), "zorbi", "zorbi, a, b"),
    (edit("remove", tags=["HAT"]), "zorbi, hat, red hat", "zorbi, red hat"),
    (edit("remove", tags=["zorbi"]), "zorbi, hat", "hat"),
    (edit("rename", tags=["hat"], new="cap"), "zorbi, hat, red hat", "zorbi, cap, red hat"),
    (edit("rename", tags=["hat"], new="cap, red"), "zorbi, hat, smile", "zorbi, cap, red, smile"),
    (edit("rename", tags=["hat"], new="Hat"), "zorbi, hat", "zorbi, Hat"),
    (edit("rename", tags=["hat"], new="smile"), "zorbi, hat, x, smile", "zorbi, smile, x"),
    (edit("merge", tags=["cap", "hat"], new="headwear"), "zorbi, x, hat, y, cap", "zorbi, x, headwear, y"),
    (edit("front", tags=["b", "a"]), "zorbi, c, a, b", "zorbi, b, a, c"),
    (edit("front", tags=["b"]), "zorbi, c", "zorbi, c"),
    (edit("place", tags=["new"], at=1), "zorbi, a, b", "zorbi, new, a, b"),
    (edit("place", tags=["new"], at=2), "a, b, c", "a, new, b, c"),
    (edit("place", tags=["a"], at=-1), "zorbi, a, b", "zorbi, b, a"),
    (edit("place", tags=["new"], at=-2), "a, b, c", "a, b, new, c"),
    (edit("place", tags=["new"], at=99), "zorbi, a", "zorbi, a, new"),
    (edit("regex", pattern="^red (.+)$", by=r"\1, red"), "zorbi, red hat, infrared", "zorbi, hat, red, infrared"),
    (edit("regex", pattern="hat", by=""), "zorbi, hat, red hat", "zorbi, red"),
    (edit("text", pattern="ed h", by="ose b"), "zorbi, red hat", "zorbi, rose bat"),
    (edit("text", pattern=".", by="!"), "zorbi, hat", "zorbi, hat"),
    (edit("sort"), "zorbi, b, A, c", "zorbi, A, b, c"),
    (edit("dedupe"), "zorbi,hat ,, Hat", "zorbi, hat"),
    (edit("underscores"), "zorbi, red_hat, ^_^, (o)_(o), ||_||", "zorbi, red hat, ^_^, (o)_(o), ||_||"),
    (edit("trigger"), "a, Zorbi, b", "zorbi, a, b"),
    (edit("trigger"), "", "zorbi"),
    (edit("prune", tags=["hat"]), "zorbi, hat", "zorbi"),
    (edit("prune"), "zorbi, green hair", "zorbi"),
    (edit("clear"), "zorbi, hat", ""),
    (edit("mojibake"), "zorbi, cafÃ©, naÃ¯ve", "zorbi, café, naïve"),
    (edit("rename", tags=["<b>hat</b>"], new="&amp;"), "zorbi, <b>hat</b>", "zorbi, &amp;"),
    (edit("rename", tags=["🎩"], new="שלום"), "zorbi, 🎩 , x", "zorbi, שלום, x"),
    (edit("rename", tags=["hat (red)"], new=r"hat \(red\)"), "zorbi, hat (red)", r"zorbi, hat \(red\)"),
]


@pytest.mark.parametrize(("change", "before", "after"), CASES, ids=[f"{c[0].do}: {c[1]}" for c in CASES])
def test_what_each_edit_makes_of_tags(projects, change, before, after):
    project = with_texts(projects, before, "", prune_tags=("green hair",))
    ids = caption_edits.apply(project, [1], change)
    assert texts(project) == [after, ""] and ids == ([1] if before != after else [])


PROSE = [
    (
        edit("text", field="prose", pattern="hat", by="cap"),
        "A hat,  a Hat,\n and a hat. ",
        "A cap,  a Hat,\n and a cap. ",
    ),
    (edit("regex", field="prose", pattern=r"(\w+) hat", by=r"hat of \1"), "A red hat, so.", "A hat of red, so."),
    (edit("trigger", field="prose"), "A robot.", "zorbi, A robot."),
    (edit("trigger", field="prose"), "A robot, Zorbi.", "A robot, Zorbi."),
    (edit("trigger", field="prose"), "", ""),
    (edit("clear", field="prose"), "A hat.", ""),
    (edit("mojibake", field="prose"), "Itâ€™s a cafÃ©, isnâ€™t it", "It’s a café, isn’t it"),
]


@pytest.mark.parametrize(("change", "before", "after"), PROSE, ids=[f"{c[0].do}: {c[1]}" for c in PROSE])
def test_sentences_are_changed_only_where_the_edit_says(projects, change, before, after):
    project = with_texts(projects, before, field="prose")
    caption_edits.apply(project, None, change)
    assert texts(project, "prose") == [after]


REFUSED = {
    "needs tags": {"do": "remove", "tags": [" , "]},
    "new name": {"do": "rename", "tags": ["a"], "new": " "},
    "one tag": {"do": "merge", "tags": ["a", "b"], "new": "c, d"},
    "needs a pattern": {"do": "regex"},
    "places count from 1": {"do": "place", "tags": ["a"], "at": 0},
    "works on tags": {"do": "sort", "field": "prose"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_an_edit_that_makes_no_sense_is_refused_with_the_reason(message):
    with pytest.raises(SettingsError, match=message):
        CaptionEdit.load(REFUSED[message])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("regex", pattern="(a"), "no regular expression"),
        (edit("regex", pattern="hat", by=r"\7"), "cannot be put in"),
        (edit("regex", pattern="(h+a+)+(t+)+!", by=""), "longer than"),
    ],
)
def test_a_regular_expression_that_cannot_be_used_changes_nothing(projects, change, message, monkeypatch):
    monkeypatch.setattr(caption_edits, "SECONDS", 0.2)
    before = ["zorbi, hat, " + "ha" * 30 + "t" * 3000]
    project = with_texts(projects, *before)
    with pytest.raises(UserError, match=message):
        caption_edits.apply(project, None, change)
    assert texts(project) == before and project.undo_label() is None


def test_a_caption_that_would_grow_beyond_what_is_kept_is_refused_and_a_long_one_can_still_be_cut(projects):
    long = ", ".join(f"tag {number}" for number in range(10_000))
    project = with_texts(projects, long, "zorbi, hat")
    with pytest.raises(UserError, match="letters long"):
        caption_edits.apply(project, None, edit("text", pattern="t", by="t" * 2000))
    assert caption_edits.apply(project, None, edit("remove", tags=["tag 7"])) == [1]
    assert len(captions.split(texts(project)[0])) == 9_999


def test_the_scope_is_all_pictures_those_in_use_or_those_named(projects):
    project = with_texts(projects, "hat", "hat", "hat")
    curation.reject(project, [2])
    change = edit("remove", tags=["hat"])
    found = [[one.id for one in caption_edits.preview(project, ids, change).changes] for ids in (None, "used", [3, 9])]
    assert found == [[1, 2, 3], [1, 3], [3]]


def test_the_preview_says_what_will_happen_and_another_state_of_affairs_is_told(projects):
    project = with_texts(projects, "zorbi, hat", "zorbi", "zorbi, hat, x")
    change = edit("rename", tags=["hat"], new="cap")
    page = caption_edits.preview(project, None, change).page()
    assert page["count"] == 2 and page["label"] == "Replace hat by cap"
    assert page["changes"][0] == {"id": 1, "field": "caption", "before": "zorbi, hat", "after": "zorbi, cap"}
    captioning.set_text(project, 3, "zorbi, hat, y")
    with pytest.raises(UserError, match="changed since the preview"):
        caption_edits.apply(project, None, change, page["digest"])
    assert texts(project)[0] == "zorbi, hat" and project.undo_label() == "Edit a caption"
    assert caption_edits.apply(project, None, change, caption_edits.preview(project, None, change).digest) == [1, 3]


ALPHABET = ["a", "B", "é", "_", "(", ")", "<", "&", '"', "\\", "🎩", "ש", "中", " ", "1", "{", "|", "\u200f", "\t"]


def some_tag(dice: random.Random) -> str:
    return "".join(dice.choice(ALPHABET) for _ in range(dice.randrange(1, 6))).strip() or "x"


def test_on_any_tags_order_is_kept_the_trigger_leads_and_undo_gives_every_byte_back_after_reopening(projects):
    dice = random.Random(5)
    lines = [captions.join(["zorbi", *(some_tag(dice) for _ in range(dice.randrange(12)))]) for _ in range(40)]
    project = with_texts(projects, *lines)
    for number in range(40):
        before = texts(project)
        named = [some_tag(dice), dice.choice(captions.split(dice.choice(before)))]
        do = dice.choice(["add", "remove", "rename", "merge", "front", "place", "sort", "underscores", "trigger"])
        new = some_tag(dice)
        changed = caption_edits.apply(project, None, edit(do, tags=named, new=new, at=dice.choice([-2, 1, 3])))
        after = texts(project)
        for one, was, now in zip(range(1, 41), map(captions.split, before), map(captions.split, after), strict=True):
            assert captions.split(captions.join(now)) == now
            assert (was != now) == (one in changed)
            if "zorbi" in now:
                assert now[0] == "zorbi"
            if do not in ("sort", "front", "place", "underscores"):  # what stays, stays in order
                kept = {tag.casefold() for tag in was} & {tag.casefold() for tag in now} - {"zorbi", new.casefold()}
                orders = [[tag.casefold() for tag in tags if tag.casefold() in kept] for tags in (was, now)]
                assert orders[0] == orders[1]
        if changed and number % 2:
            project = Project.open(project.root, project.slug)
            project.undo()
            assert texts(project) == before
            project.redo()
            assert texts(project) == after
    while project.undo():
        pass
    assert texts(project) == lines


def test_on_any_sentences_all_is_byte_identical_but_what_was_replaced(projects):
    dice = random.Random(6)
    lines = ["".join(dice.choice([*ALPHABET, ",", "\n", ". ", "hat"]) for _ in range(60)) for _ in range(60)]
    project = with_texts(projects, *lines, field="prose")
    for pattern, by in (("hat", "cap"), (", ", " ,"), ("\n", ""), ("🎩", "x")):
        before = texts(project, "prose")
        caption_edits.apply(project, None, edit("text", field="prose", pattern=pattern, by=by))
        assert texts(project, "prose") == [by.join(text.split(pattern)) for text in before]


KILLED = {
    "UPDATE images": (1, 150),
    "INSERT INTO journal": (1,),
    "UPDATE meta": (1,),
    "COMMIT": (2,),  # the first is of reading the captions
    "nothing": (1,),
}


def test_an_edit_killed_at_any_point_has_happened_wholly_or_not_at_all(projects):
    """The process ends itself before a statement of its choice, by the signal that nothing can catch."""
    lines = [f"zorbi, hat, thing {number}" for number in range(300)]
    project = with_texts(projects, *lines)
    code = f"""
import os, signal, sqlite3, sys
from pathlib import Path
from lora_studio.core import database
from lora_studio.core.project import Project
from lora_studio.steps import caption_edits
from lora_studio.steps.caption_edits import CaptionEdit

word, left = sys.argv[1], int(sys.argv[2])
connect = sqlite3.connect

def watched(*args, **kwargs):
    connection = connect(*args, **kwargs)
    def seen(statement):
        global left
        left -= statement.startswith(word)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    connection.set_trace_callback(seen)
    return connection

project = Project.open(Path({str(projects)!r}), "zorbi")
database.sqlite3.connect = watched
caption_edits.apply(project, None, CaptionEdit(do="rename", tags=("hat",), new="cap"))
"""
    for word, places in KILLED.items():
        for place in places:
            here = Path(__file__).parents[2]
            ended = subprocess.run([sys.executable, "-c", code, word, str(place)], check=False, cwd=here)
            if word == "nothing":
                assert ended.returncode == 0 and texts(project) == [line.replace("hat", "cap") for line in lines]
                assert project.undo() == "Replace hat by cap" and texts(project) == lines
            else:
                assert ended.returncode == -signal.SIGKILL, f"{word} {place} never came"
                assert texts(project) == lines and project.undo_label() is None


@pytest.mark.parametrize(
    ("do", "before", "after"),
    [
        ("aliases", "zorbi, Grey Hair, smile", "zorbi, {usual}, smile"),
        ("implications", "zorbi, {narrow}", "zorbi, {narrow}, {wide}"),
        ("implications", "zorbi, {wide}, {narrow}", "zorbi, {wide}, {narrow}"),
        ("redundant", "zorbi, {wide}, x, {narrow}", "zorbi, x, {narrow}"),
        ("redundant", "zorbi, {wide}", "zorbi, {wide}"),
    ],
)
def test_usual_names_and_what_tags_imply_come_from_the_vocabulary(projects, do, before, after):
    alias, usual = next(iter(vocabulary.aliases().items()))
    implied = vocabulary.implications()
    narrow, [wide] = next((tag, wider) for tag, wider in implied.items() if len(wider) == 1 and wider[0] not in implied)
    words = {"usual": usual, "narrow": narrow, "wide": wide}
    project = with_texts(projects, before.format(**words).replace("Grey Hair", alias.title()))
    caption_edits.apply(project, None, edit(do))
    assert texts(project) == [after.format(**words)]


def test_a_text_of_one_picture_is_tidied_and_one_too_long_is_refused_whole(projects):
    project = with_texts(projects, "zorbi, hat")
    assert captioning.set_text(project, 1, " a ,, b\0, A, \ud800") == "a, b, ?" and texts(project) == ["a, b, ?"]
    assert captioning.set_text(project, 1, "  A, b,, c. \n", field="prose") == "A, b,, c."
    with pytest.raises(UserError, match="20001 letters"):
        captioning.set_text(project, 1, "x" * 20_001)
    with pytest.raises(captioning.Conflict) as caught:
        captioning.set_text(project, 1, "mine", before="what I saw")
    assert caught.value.now == "a, b, ?" and texts(project) == ["a, b, ?"]
