"""What the model reads of captions, through the step's doors: it is what a real training run shows it."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from lora_studio.core import paths
from lora_studio.core.errors import UserError
from lora_studio.core.jobs import JobContext, Jobs
from lora_studio.core.project import Plan, Project
from lora_studio.engine.config import TrainConfig, TrainJob
from lora_studio.engine.data import Sampler, read_dataset
from lora_studio.engine.prompts import chunk_tokens
from lora_studio.engine.train import prepare
from lora_studio.steps import captioning, gathering, seen, tokens, training
from tests.conftest import draw_picture
from tests.tiny import make_sdxl_base

SMALL = {
    "data.resolution": 32, "data.bucket_step": 8, "data.bucket_min": 16, "data.bucket_max": 64, "data.max_tokens": 75,
    "data.batch_size": 2, "data.tag_dropout": 0.3, "data.caption_dropout": 0.1, "data.wildcards": True,
    "data.keep_tokens": 0, "data.flip": True, "run.epochs": 2, "run.sample_every_epochs": 0, "run.validation_share": 0,
    "optimizer.text_encoder_lr": 1e-4, "optimizer.text_encoder_2_lr": 1e-4, "adapter.rank": 2, "adapter.alpha": 1,
}  # fmt: skip
CAPTIONS = [
    "hat, zorbi, {red|blue} hair, smile",
    "Zorbi, 🦊, مرحبا, (x:1.2), <b>",
    "",
    "long hair, " + ", ".join(f"tag {number}" for number in range(40)),
]
PROSE = ["A fox, in a hat, in a hat.", "", "Zorbi {sits|stands}, smiling.", "On a beach."]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sdxl_base(tmp_path_factory.mktemp("base") / "xl")


@pytest.fixture
def project(tmp_path: Path, base: Path) -> Project:
    """Four pictures with tags and sentences, on a base with two text encoders."""
    project = Project.create(tmp_path / "projects", Plan(name="Zorbi", trigger="zorbi", base=str(base)))
    folder = tmp_path / "pile"
    folder.mkdir()
    for seed in range(4):
        (folder / f"{seed}.png").write_bytes(draw_picture(seed, (40, 40)))
    gathering.gather(project, [folder])
    for image, caption, prose in zip(project.images(), CAPTIONS, PROSE, strict=True):
        captioning.set_text(project, image.id, caption)
        captioning.set_text(project, image.id, prose, field="prose")
    training.save_current(project, TrainConfig().with_changes({"base.model": str(base), **SMALL}))
    return project


def with_mode(project: Project, mode: str) -> TrainConfig:
    project.save_plan(replace_plan(project.plan, mode))
    return training.current(project)


def replace_plan(plan: Plan, mode: str) -> Plan:
    return Plan.load({**plan.to_dict(), "captions": mode})


def a_run(project: Project, config: TrainConfig) -> TrainJob:
    """A real run as the step starts it, its snapshot on disk."""
    job = training.start(project, Jobs(project.root), config, prepare=True)
    return TrainJob.load(job.config)


@pytest.mark.parametrize("mode", ["tags", "prose", "both"])
def test_the_token_ids_that_are_trained_are_those_of_the_preview(mode: str, project: Project, tmp_path: Path) -> None:
    """Golden: what both text encoders are given in the steps of a training is what the sample shows, row for row."""
    config = with_mode(project, mode)
    trainer = prepare(a_run(project, config), JobContext(_folder(tmp_path)))
    given: dict[str, Counter] = {name: Counter() for name in trainer.family.text_parts}
    for name, rows in given.items():

        def listen(module: torch.nn.Module, args: tuple, rows: Counter = rows) -> None:
            if torch.is_grad_enabled():  # not while validating
                rows.update(map(tuple, args[0].tolist()))

        trainer.family.part(name).register_forward_pre_hook(listen)
    trainer.run()
    shown = seen.sample(project, count=8)
    assert {(one["id"], one["epoch"]) for one in shown} == {(one, epoch) for one in range(1, 5) for epoch in (1, 2)}
    for name, tokenizer in zip(trainer.family.text_parts, trainer.family.tokenizers, strict=True):
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        rows = [chunk_tokens([(number, 1.0) for number in one["ids"][name]], 1, *special)[0][0] for one in shown]
        assert Counter(map(tuple, rows)) == given[name]
    assert any(one["cut"] for one in shown) is (mode != "prose")


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("mode", ["tags", "prose", "both"])
def test_the_sample_is_what_the_sampler_of_a_run_deals_out(mode: str, project: Project) -> None:
    config = with_mode(project, mode).with_changes({"run.epochs": 5})
    job = a_run(project, config)
    sampler = Sampler(read_dataset(Path(job.dataset), job.settings.data, job.trigger), job.settings)
    dealt = {
        (int(sample.picture.id), step // 2 + 1): sample.caption
        for step in range(10)
        for batch in sampler.batches(step + 1, 2)
        for sample in batch
    }
    shown = seen.sample(project, count=20, config=config)
    assert {(one["id"], one["epoch"]): one["text"] for one in shown} == dealt and len(dealt) == 20
    other = seen.sample(project, count=20, config=config, seed=config.run.seed + 1)
    assert {(one["id"], one["epoch"]): one["text"] for one in other} != dealt


def test_the_plan_says_what_of_the_captions_is_trained(project: Project) -> None:
    def entries(mode: str) -> list[tuple[str, str]]:
        with_mode(project, mode)
        return [(one["caption"], one["prose"]) for one in training.snapshot(project)["images"]]

    assert entries("tags")[0] == ("zorbi, hat, {red|blue} hair, smile", "") and entries("tags")[2] == ("zorbi", "")
    assert entries("prose")[:3] == [
        ("", "zorbi, A fox, in a hat, in a hat."), ("zorbi", ""), ("", "Zorbi {sits|stands}, smiling."),
    ]  # fmt: skip
    both = entries("both")
    assert both[0] == ("zorbi, hat, {red|blue} hair, smile", "A fox, in a hat, in a hat.")
    assert both[2] == ("", "Zorbi {sits|stands}, smiling.")


def test_a_sample_says_what_was_dropped_and_where_it_came_from(project: Project) -> None:
    shown = seen.sample(project, count=40)
    with_tags = [one for one in shown if one["id"] == 4 and one["text"]]
    assert with_tags and all(one["tags"].startswith("zorbi, ") and not one["prose"] for one in with_tags)
    for one in with_tags:
        assert len(one["dropped"]) + len(one["tags"].split(", ")) == 42
        assert all(len(read) <= 75 for read in one["ids"].values()) and "".join(one["pieces"]["text_encoder"][:5])
    assert [one["epoch"] for one in shown][::4] == list(range(1, 11))


def test_a_sample_of_more_pictures_than_are_asked_for_is_chosen_by_the_seed(project: Project) -> None:
    found = [[one["id"] for one in seen.sample(project, count=2, seed=seed)] for seed in range(20)]
    assert all(len(set(ids)) == 2 for ids in found) and len(set(map(tuple, found))) > 2
    assert seen.sample(project, [3], count=2, seed=1)[1]["id"] == 3 and not seen.sample(project, [99])


# --- counts -----------------------------------------------------------------------------------------------------------


def test_counts_follow_the_captions_the_mode_and_the_base(project: Project) -> None:
    before = tokens.counts(project)
    assert set(before) == {1, 2, 3, 4} and all(len(one) == 2 for one in before.values())
    assert before[3] == (len("zorbi"),) * 2 and before[4][0] > 75  # a byte each in the tiny vocabulary
    captioning.set_text(project, 3, "ab")
    assert tokens.counts(project, [3]) == {3: (len("zorbi,ab"),) * 2}
    with_mode(project, "prose")
    assert tokens.counts(project)[2] == (5, 5) and tokens.counts(project)[4] == (len("zorbi,Onabeach."),) * 2
    project.save_plan(Plan.load({**project.plan.to_dict(), "base": "starter"}))
    training.save_current(project, training.current(project).with_changes({"base.model": "starter"}))
    assert all(len(one) == 1 for one in tokens.counts(project).values())


def test_counts_follow_the_files_of_the_base(project: Project, base: Path, tmp_path: Path) -> None:
    words = tmp_path / "own"
    (words / "text_encoder").mkdir(parents=True)
    shutil.copytree(paths.assets() / "starter" / "base" / "tokenizer", words / "tokenizer")
    training.save_current(project, training.current(project).with_changes({"base.model": str(words)}))
    before = tokens.counts(project)
    shutil.copy(base / "tokenizer" / "tokenizer.json", words / "tokenizer")
    assert before[3] == (4,) and tokens.counts(project)[3] == (5,)


def test_the_table_shows_what_is_lost(project: Project) -> None:
    found = tokens.table(project)
    row = found["captions"][3]
    assert found["encoders"] == ["text_encoder", "text_encoder_2"] and found["limit"] == 75
    assert row["over"] == row["tokens"][0] - 75 and row["text"][: row["kept"]] + row["lost"] == row["text"]
    assert found["captions"][0]["over"] == 0 and found["captions"][0]["lost"] == ""


def test_a_base_that_was_not_fetched_yet_gives_no_counts(project: Project) -> None:
    config = training.current(project).with_changes({"base.model": "nobody/has-this"})
    training.save_current(project, config)
    assert tokens.counter(project) is None and tokens.counts(project) == {}
    assert seen.sample(project, count=1)[0]["ids"] == {} and seen.sample(project, count=1)[0]["text"]
    with pytest.raises(UserError, match="not on this computer"):
        tokens.table(project)


def test_the_steps_are_counted_with_sentences_that_are_balanced(project: Project) -> None:
    """The page's number of steps is the trainer's, also where a balanced word stands in sentences."""
    changes = {"data.balance": ("hat", "beach"), "data.repeats": 2}
    for mode in ("tags", "prose", "both"):
        config = with_mode(project, mode).with_changes(changes)
        job = a_run(project, config)
        pictures = read_dataset(Path(job.dataset), job.settings.data, job.trigger)
        dealt = sum(len(batch) for batch in Sampler(pictures, job.settings)._deal(0))
        assert training.step_plan(project, config).samples == dealt
    texts = [check.text for check in training.checks(project, config)]
    assert not any("no caption has" in text for text in texts), json.dumps(texts)


def test_pictures_without_the_words_that_are_trained_are_told(project: Project) -> None:
    for mode, missing in (("tags", 1), ("prose", 1), ("both", 0)):
        found = [one.text for one in training.checks(project, with_mode(project, mode)) if "no caption" in one.text]
        assert found == ([f"{missing} of 4 pictures have no caption."] if missing else [])
