"""Is a trigger a good one? Read off the base's words, and tried on the base itself."""

from pathlib import Path

import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import JobContext, Jobs
from lora_studio.core.progress import Finished
from lora_studio.core.project import Plan, Project
from lora_studio.engine.tokens import Counter
from lora_studio.steps import tokens, training, trigger


@pytest.fixture
def project(projects: Path) -> Project:
    return Project.create(projects, Plan(name="Zorbi", trigger="zorbi", base="starter"))


@pytest.mark.parametrize(
    ("word", "level", "split", "common", "said"),
    [
        ("zorbi", "ok", True, False, "z + or + b + i"),
        ("smile", "warn", False, True, "smile is a common word"),
        ("Smile", "warn", False, True, "Smile is a common word"),
        ("green hair", "warn", False, True, "made of common words"),
        ("zorbi girl", "note", True, False, "holds girl"),
        ("dog", "warn", True, True, "dog is a common word"),  # the starter never met it; people's prompts have it
        ("sks", "note", True, False, "rarest"),
        ("xqzkvwyjrt", "note", True, False, "10 tokens"),
        ("🦊", "ok", True, False, "🦊"),
        ("", "note", False, False, "no trigger word"),
    ],
)
def test_a_word_is_judged_by_how_it_is_read_and_what_it_means(
    word: str, level: str, split: bool, common: bool, said: str, project: Project
) -> None:
    found = trigger.check(project, word)
    assert (found.level, found.split, found.common) == (level, split, common) and said in found.text, found
    assert bool(found.remedy) == (level != "ok") and bool(found.reasons) == (common or "girl" in word)


def test_it_says_how_it_knows(project: Project) -> None:
    found = trigger.check(project, "smile")
    assert [reason.partition(",")[0] for reason in found.reasons] == [
        "smile is one whole token of the base", "smile is a common tag",
    ]  # fmt: skip
    assert "one whole token of CLIP" in trigger.check(project, "dog").reasons[0]


def test_the_plans_own_trigger_is_checked_with_its_pieces(project: Project) -> None:
    found = trigger.check(project)
    assert found.word == "zorbi" and found.pieces == {"text_encoder": ["z", "or", "b", "i"]}


def test_a_base_that_is_not_here_is_no_obstacle(project: Project) -> None:
    training.save_current(project, training.current(project).with_changes({"base.model": "nobody/has-this"}))
    assert (trigger.check(project).level, trigger.check(project).pieces) == ("ok", {})
    assert trigger.check(project, "smile").level == "warn"


def test_made_up_words_are_unknown_as_long_and_always_the_same(project: Project) -> None:
    counter = tokens.counter(project)
    assert counter is not None
    for word in ("zorbi", "smile", "green hair", "🦊"):
        found = trigger.made_up_words(word, 4, counter)
        assert found == trigger.made_up_words(word, 4, counter) and len(set(found)) == 4
        assert not any(counter.is_word(one) or trigger.check(project, one).common for one in found)
    assert {counter.count([one])[0] for one in trigger.made_up_words("zorbi", 4, counter)} == {(4,)}
    assert Counter.open(Path("assets/starter/base")).count(["zorbi"]) == [(4,)]


# --- tried on the base ------------------------------------------------------------------------------------------------

QUICK = {"contexts": ("",), "seeds": (1, 2, 3), "made_up": 3, "num_steps": 5}


def test_the_starter_reacts_to_what_it_knows_and_not_to_a_made_up_word(project: Project) -> None:
    jobs = Jobs(project.root)
    assert trigger.result(project, jobs).state == ""
    for word, reacts in (("zorbi", False), ("green hair", True)):
        config = trigger.ReactConfig(word=word, **QUICK)
        folder = project.new_folder("jobs", "react")
        job = jobs.prepare(folder, trigger.TARGET, trigger.job_config(project, config), "Trial", project.slug)
        summary = trigger.job(job.config, JobContext(folder))
        JobContext(folder).report(Finished("done", summary))
        found = trigger.result(project, jobs)
        assert found.word == word and found.reaction and found.reaction.reacts is reacts, found.reaction
        assert summary == {"pictures": 15, "reacts": reacts} and len(found.drawings) == 15
        assert [one.kind for one in found.drawings[::3]] == ["with", "without", *["made up"] * 3]
    assert found.reaction.brings[0][0] == "green hair"
    picture = trigger.picture_path(project, found.job, found.drawings[0].file)
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no picture"):
        trigger.picture_path(project, found.job, "../job.json")


def test_without_a_trigger_there_is_nothing_to_try(projects: Path) -> None:
    project = Project.create(projects, Plan(name="Style", base="starter"))
    with pytest.raises(UserError, match="no trigger word"):
        trigger.react(project, Jobs(project.root))


def test_the_trial_is_drawn_as_large_as_is_trained(project: Project) -> None:
    config = trigger.trial_config(project, None)
    assert config.word == "zorbi" and config.size == training.current(project).data.resolution
    assert trigger.trial_config(project, " hat ").word == "hat"
