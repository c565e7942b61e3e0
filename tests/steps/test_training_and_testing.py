"""The last two steps through their public doors: real jobs in real processes on a tiny base."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Jobs
from lora_studio.core.progress import Step, Validation
from lora_studio.core.project import Plan, Project
from lora_studio.engine.config import TrainConfig
from lora_studio.engine.convert import read_raw
from lora_studio.steps import captioning, curation, gathering, testing, training
from lora_studio.steps.grid import keep_cells, kept_cells
from tests.conftest import draw_picture
from tests.tiny import make_base

SHORT = {
    "data.resolution": 32,
    "data.bucket_step": 8,
    "data.bucket_min": 16,
    "data.bucket_max": 64,
    "run.epochs": 3,
    "sample.num_steps": 2,
    "sample.prompts": ["zorbi"],
}


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base ü") / "tiny")


@pytest.fixture
def project(tmp_path, tiny_base) -> Project:
    plan = Plan(name="Zorbi", trigger="zorbi", base=str(tiny_base), test_prompts=("smile",), bleed_prompts=("a dog",),
                description="a blue imp", licence="CC0-1.0", author="Ada", credit="Bo")  # fmt: skip
    project = Project.create(tmp_path / "projects (x) ü", plan)
    folder = tmp_path / "pile"
    folder.mkdir()
    for seed in range(5):
        (folder / f"{seed}.png").write_bytes(draw_picture(seed, (40, 40)))
    gathering.gather(project, [folder])
    for image in project.images():
        captioning.set_text(project, image.id, f"zorbi, tag {image.id}")
    return project


@pytest.fixture
def config(tiny_base) -> TrainConfig:
    return TrainConfig().with_changes({"base.model": str(tiny_base), **SHORT})


def trained(project: Project, config: TrainConfig) -> tuple[Jobs, str]:
    jobs = Jobs(project.root)
    job = jobs.wait(training.start(project, jobs, config).folder, 600)
    assert job.state == "done", (job.error, (job.folder / "log.txt").read_text())
    return jobs, job.folder.name


def test_a_run_makes_the_steps_that_the_plan_promised_and_shows_them(project, config):
    plan = training.step_plan(project, config)
    jobs, run = trained(project, config)
    view = training.view(project, jobs, run)
    assert view["total"] == plan.steps == len(view["points"]) == view["step"]
    assert [checkpoint["epoch"] for checkpoint in view["checkpoints"]] == [1, 2, 3]
    assert len(view["samples"]) == 3 and view["verdict"]["headline"]
    assert [found["epoch"] for found in training.checkpoints(project)] == [1, 2, 3]
    _, told = read_raw(project.folder / training.checkpoints(project)[-1]["file"])
    assert told["modelspec.description"] == "a blue imp\nPictures: Bo" and told["modelspec.license"] == "CC0-1.0"
    assert told["modelspec.author"] == "Ada" and told["modelspec.tags"] == "character, zorbi"
    later = training.view(project, jobs, run, view["offset"])
    assert later["points"] == [] and later["step"] == view["step"] and later["verdict"] == view["verdict"]


def test_the_snapshot_leaves_out_the_rejected_and_later_edits(project, config):
    curation.reject(project, [1])
    _, run = trained(project, config)
    captioning.set_text(project, 2, "changed")
    images = json.loads((project.folder / "runs" / run / "dataset.json").read_text())["images"]
    assert [image["id"] for image in images] == ["2", "3", "4", "5"] and images[0]["caption"] == "zorbi, tag 2"


def test_a_killed_run_goes_on_where_it_was(project, config):
    jobs = Jobs(project.root)
    long = config.with_changes({"run.epochs": 40})
    job = training.start(project, jobs, long)
    end = time.monotonic() + 90
    while not any(event["event"] == "FileWritten" and event["kind"] == "state" for event in job.events()[0]):
        assert time.monotonic() < end and jobs.get(job.folder).is_alive
        time.sleep(0.05)
    os.kill(jobs.get(job.folder).pid, signal.SIGKILL)
    assert jobs.wait(job.folder, 20).state == "interrupted"
    done = jobs.wait(training.resume(project, jobs, job.id).folder, 600)
    view = training.view(project, jobs, job.id)
    assert done.state == "done" and [point[0] for point in view["points"]] == list(range(1, view["total"] + 1))
    with pytest.raises(UserError, match="end"):
        training.resume(project, jobs, job.id)


def test_a_run_that_ended_goes_on_with_more_epochs_and_cannot_become_another(project, config):
    jobs, run = trained(project, config)
    with pytest.raises(UserError, match=r"cannot change adapter\.rank, data\.resolution"):
        training.resume(project, jobs, run, {"run.epochs": 5, "adapter.rank": 2, "data.resolution": 64})
    with pytest.raises(UserError, match=r"reached its end.*run\.epochs"):
        training.resume(project, jobs, run, {"optimizer.unet_lr": 1e-5})
    job = jobs.wait(training.resume(project, jobs, run, {"run.epochs": 5, "optimizer.unet_lr": 1e-5}).folder, 600)
    assert job.state == "done", job.error
    view = training.view(project, jobs, run)
    assert [found["epoch"] for found in view["checkpoints"]] == [1, 2, 3, 4, 5]
    texts = [note["text"] for note in view["notes"]]
    assert any("run.epochs is now 5 (was 3)" in text for text in texts) and len(texts) == len(set(texts))
    assert "epochs = 5" in (job.folder / "config.toml").read_text()


def test_what_stands_against_a_start_is_told_at_once(tmp_path, config):
    project = Project.create(tmp_path, Plan(name="Empty", base=str(tmp_path / "nowhere")))
    with pytest.raises(UserError) as caught:
        training.start(project, Jobs(tmp_path), config.with_changes({"base.model": str(tmp_path / "nowhere")}))
    assert "no pictures" in caught.value.message and "nowhere" in caught.value.message and caught.value.remedy
    assert not list(project.folder.glob("runs/*"))


def test_settings_are_kept_with_the_project_until_taken_back(project, config):
    recommended = training.recommended(project)
    training.save_current(project, config)
    assert training.current(project) == config
    assert training.back_to_recommended(project) == recommended == training.current(project)
    assert training.with_preset(project, "style-sd1").schedule.kind == "cosine"


def test_the_grid_is_drawn_judged_and_exported(project, config, tmp_path):
    jobs, _ = trained(project, config)
    test = testing.default_config(project).with_changes(
        {
            "seeds": [1],
            "size": 64,
            "num_steps": 2,
            "strengths": [1.0],
            "checkpoints": testing.default_config(project).checkpoints[-2:],
        }
    )
    job = jobs.wait(testing.start(project, jobs, test).folder, 180)
    assert job.state == "done", (job.error, (job.folder / "log.txt").read_text())
    view = testing.view(project, jobs, job.id)
    assert len(view["columns"]) == 3 and view["columns"][0]["checkpoint"] is None
    assert all(cell and (job.folder / cell).exists() for row in view["cells"] for cell in row)
    assert (
        view["scorecard"]["headline"]
        and len(view["scorecard"]["variants"]) == 2
        and (job.folder / "sheet.webp").exists()
    )
    checkpoint, reason = testing.best_checkpoint(project, jobs)
    assert reason
    for format, key in (("kohya", "lora_unet_"), ("diffusers", "unet.")):
        out = testing.export(project, checkpoint, tmp_path / f"{format}.safetensors", format)
        with safe_open(out, "np") as file:
            assert all(name.startswith((key, "lora_te", "text_encoder.")) for name in file.keys())  # noqa: SIM118
    assert "Licence of the pictures: CC0-1.0" in out.with_suffix(".credits.txt").read_text("utf-8")
    gathering.set_provenance(project, [image.id for image in project.images()], author="Ada", licence="CC BY 4.0")
    out = testing.export(project, checkpoint, tmp_path / "thanks.safetensors")
    assert "Ada, CC BY 4.0: 5 pictures from pile" in out.with_suffix(".credits.txt").read_text("utf-8")


def test_a_resumed_test_keeps_the_pictures_it_has(project, config):
    jobs, _ = trained(project, config)
    test = testing.default_config(project).with_changes({"seeds": [1], "size": 64, "num_steps": 2, "strengths": [1.0]})
    job = jobs.wait(testing.start(project, jobs, test).folder, 180)
    pictures = sorted((job.folder / "images").glob("*.png"))
    times = {path: path.stat().st_mtime_ns for path in pictures[1:]}
    pictures[0].unlink()
    jobs.wait(testing.resume(project, jobs, job.id).folder, 180)
    assert pictures[0].exists() and times == {path: path.stat().st_mtime_ns for path in pictures[1:]}


@pytest.mark.parametrize("name", ["../../etc/passwd", "runs/none.safetensors", "project.toml"])
def test_a_checkpoint_outside_the_project_is_refused(project, name, tmp_path):
    with pytest.raises(UserError):
        testing.export(project, name, tmp_path / "out.safetensors")


def test_cells_are_named_by_all_that_makes_them():
    config = testing.TestConfig(checkpoints=("a.safetensors",), learn_prompts=("x",), seeds=(1,))
    files = {cell.file for cell in testing.cells(config)}
    for change in ({"num_steps": 21}, {"guidance": 4.0}, {"size": 72}, {"seeds": [2]}, {"sampler": "euler"}):
        assert not files & {cell.file for cell in testing.cells(config.with_changes(change))}


def test_a_grid_shows_the_pictures_it_made_whatever_they_would_be_named_today(project):
    """A made test whose files have names of another program; one without a kept grid falls back to the formula."""
    jobs = Jobs(project.root)
    test = testing.TestConfig(checkpoints=("runs/a/checkpoints/a-000001.safetensors",), learn_prompts=("zorbi",))
    record = {"id": "test-1", "title": "Test", "target": testing.TARGET, "project": project.slug, "state": "done"}
    for name, kept in (("test-1", True), ("test-2", False)):
        folder = project.new_folder("tests", "test")
        grid = [replace(cell, file=f"images/old {place}.png") for place, cell in enumerate(testing.cells(test))]
        if kept:
            keep_cells(folder, grid)
        (folder / "images").mkdir()
        for cell in grid if kept else testing.cells(test):
            (folder / cell.file).write_bytes(draw_picture(1))
        (folder / "job.json").write_text(json.dumps({**record, "id": name, "created": 1.0}))
        (folder / "config.json").write_text(json.dumps({"test": test.to_dict()}))
        shown = [cell for row in testing.view(project, jobs, name)["cells"] for cell in row]
        assert len(shown) == 4 and all(shown) and all("old" in cell for cell in shown) is kept


def test_a_test_keeps_its_grid_from_the_start(project, config, tmp_path):
    file = project.folder / "runs" / "zorbi-1" / "checkpoints" / "zorbi-1-000001.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no LoRA: the job may fail, the grid stays")
    jobs = Jobs(project.root)
    test = testing.TestConfig(checkpoints=(file.relative_to(project.folder).as_posix(),), learn_prompts=("zorbi",))
    job = testing.start(project, jobs, test)
    assert kept_cells(job.folder) == testing.cells(test)
    jobs.wait(job.folder, 600)


@pytest.mark.parametrize(("group", "name"), [("runs", "../../x"), ("runs", "none"), ("originals", ""), ("tests", ".")])
def test_a_job_that_is_not_the_projects_own_is_refused(project, group, name):
    with pytest.raises(UserError):
        project.job_folder(group, name)


@pytest.mark.parametrize(("share", "pictures", "told"), [(0.0, 5, True), (0.4, 5, False), (0.4, 1, True)])
def test_the_page_says_when_the_validation_sees_only_trained_pictures(tmp_path, share, pictures, told):
    project = Project.create(tmp_path, Plan(name="Curve", trigger="zorbi"))
    folder = project.new_folder("runs", "curve")
    record = {
        "id": "curve-1",
        "title": "",
        "target": training.TARGET,
        "project": "curve",
        "state": "done",
        "created": 1.0,
    }
    config = TrainConfig().with_changes({"run.validation_share": share})
    events = [Step(step, 60, 1, 0.5, {"unet": 1e-4}, 0.1, 0.0) for step in range(1, 61)]
    events += [Validation(step, 0.5 - step / 1000) for step in range(10, 61, 10)]
    (folder / "job.json").write_text(json.dumps({**record, "created": 1.0}))
    (folder / "config.json").write_text(json.dumps({"settings": config.to_dict()}))
    (folder / "dataset.json").write_text(json.dumps({"images": [{"id": number} for number in range(pictures)]}))
    (folder / "events.jsonl").write_text("".join(event.to_json() + "\n" for event in events))
    verdict = training.view(project, Jobs(tmp_path), "curve-1")["verdict"]
    assert verdict["phase"] == "learning"
    assert any("learning by heart cannot be seen" in finding["text"] for finding in verdict["findings"]) is told


def test_the_export_takes_no_checkpoint_that_a_later_test_found_worthless(tmp_path):
    project, jobs = Project.create(tmp_path, Plan(name="Cards", trigger="zorbi")), Jobs(tmp_path)
    files = [f"runs/cards-1/checkpoints/cards-1-00000{epoch}.safetensors" for epoch in (1, 2, 3)]
    for age, file in enumerate(files):
        (project.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (project.folder / file).write_bytes(b"")
        os.utime(project.folder / file, (1000 + age, 1000 + age))

    def judged(name: str, created: float, tested: list[str], recommended: str | None) -> None:
        folder = project.new_folder("tests", "test")
        record = {"id": name, "title": "", "target": testing.TARGET, "project": "cards", "state": "done"}
        (folder / "job.json").write_text(json.dumps({**record, "created": created}))
        choice = {"checkpoint": recommended, "strength": 1.0} if recommended else None
        card = {"recommendation": choice, "variants": [{"checkpoint": file} for file in tested]}
        (folder / "scorecard.json").write_text(json.dumps(card))

    assert testing.best_checkpoint(project, jobs) == (files[2], "the last one trained (no test has been made)")
    judged("test-1", 1.0, files[:2], files[1])
    assert testing.best_checkpoint(project, jobs) == (files[1], "recommended by test-1")
    judged("test-2", 2.0, files[2:], None)
    assert testing.best_checkpoint(project, jobs) == (files[1], "recommended by test-1")
    judged("test-3", 3.0, files[:2], None)
    assert testing.best_checkpoint(project, jobs) == (files[2], "the last one trained (no test recommends one)")
