"""Looking at the pictures: what is found, and that it goes on from wherever it was ended.

Without a tagger where that is all the same, since loading one takes seconds.
"""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image as Pil
from safetensors.numpy import save_file

from lora_studio.core.jobs import Jobs, run_inline
from lora_studio.core.looks import Looks
from lora_studio.core.project import Plan, Project
from lora_studio.steps import curation, gathering, look, looking
from tests.conftest import draw_picture

NOWHERE = "/no/tagger/here"


def project_of(root: Path, count: int, tagger: str = NOWHERE) -> Project:
    """A project with so many pictures, and a smaller copy of the first one."""
    pile = root / "pile"
    pile.mkdir()
    for seed in range(count):
        (pile / f"{seed}.png").write_bytes(draw_picture(seed, (192, 192)))
    with Pil.open(pile / "0.png") as first:
        first.resize((128, 128), Pil.Resampling.LANCZOS).save(pile / "copy.png")
    project = Project.create(root / "projects", Plan(name="Zorbi", trigger="zorbi", tagger=tagger))
    gathering.gather(project, [pile])
    return project


def look_here(project: Project, listen=None) -> dict:
    """The job, in this process."""
    folder = project.folder / "jobs" / "look-1"
    config = {"root": str(project.root), "project": project.slug}
    return run_inline(folder, looking.TARGET, config, "Looking at the pictures", listen)


def test_everything_is_found_out_and_copies_are_compared(tmp_path):
    project = project_of(tmp_path, 3, "starter")
    before = looking.facts(project)
    assert looking.missing(project) == 4
    assert all(one.embedding is None and one.faces is None and one.scores is None for one in before)
    assert look_here(project)["looked"] == 4
    assert looking.missing(project) == 0
    for one in looking.facts(project):
        assert one.measures is not None and one.faces is not None and 0 <= one.lettering <= 1
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-4)
        assert one.scores and all(0.05 < probability <= 1 for probability in one.scores.values())
    images = {image.name: image for image in project.images()}
    pairs = looking.pairs(project, [image.sha256 for image in images.values()])
    assert {frozenset(pair) for pair, relation in pairs.items() if relation == "same"} == {
        frozenset((images["0.png"].sha256, images["copy.png"].sha256))
    }
    (group,) = curation.audit(project).groups
    assert group.best == images["0.png"].id and [one.id for one in group.members] == [images["copy.png"].id]
    assert look_here(project) == {"looked": 0, "compared": 0, "failed": [], "problem": ""}


def test_a_stop_keeps_what_was_seen_and_the_next_one_goes_on_from_there(tmp_path, monkeypatch):
    monkeypatch.setattr(look, "CHUNK", 2)
    project = project_of(tmp_path, 5)
    jobs, folder = Jobs(project.root), project.folder / "jobs" / "look-1"

    def stop(event):
        if event["event"] == "Progress" and event["done"] == 2:
            jobs.command(folder, "stop")

    assert look_here(project, stop)["looked"] == 2
    assert jobs.get(folder).state == "stopped" and looking.missing(project) == 4
    assert look_here(project)["looked"] == 4 and looking.missing(project) == 0


def test_a_killed_look_loses_at_most_a_chunk_and_goes_on(tmp_path):
    project = project_of(tmp_path, 40)
    jobs, looks = Jobs(project.root), Looks(project.folder)
    contents = [image.sha256 for image in project.images()]
    job = looking.start(project, jobs)
    while not looks.known(looking.FACES, contents):
        assert jobs.get(job.folder).state not in ("failed", "interrupted"), (job.folder / "log.txt").read_text()
    os.kill(jobs.get(job.folder).pid, signal.SIGKILL)
    ended = jobs.wait(job.folder, 60)
    seen = looks.known(looking.FACES, contents)
    assert ended.state in ("interrupted", "done") and seen
    again = looking.start(project, jobs) or ended
    done = jobs.wait(again.folder, 120)
    assert done.state == "done" and looking.missing(project) == 0
    if ended.state == "interrupted":
        assert done.summary["looked"] <= len(contents) - len(seen) + look.CHUNK
    assert all(one.faces is not None for one in looking.facts(project))


def test_one_look_at_a_time_and_none_when_all_is_known(tmp_path):
    project = project_of(tmp_path, 2)
    jobs = Jobs(project.root)
    first = looking.start(project, jobs)
    second = looking.start(project, jobs)
    assert first.folder == second.folder and first.created == second.created
    assert jobs.wait(first.folder, 60).state == "done"
    assert looking.start(project, jobs) is None
    status = looking.status(project, jobs)
    assert status["missing"] == 0 and NOWHERE in status["problem"]


def test_what_somebody_stopped_begins_again_only_when_asked_or_when_pictures_come(tmp_path):
    project = project_of(tmp_path, 3)
    jobs, folder = Jobs(project.root), project.folder / "jobs" / "look-1"
    look_here(project, lambda event: jobs.command(folder, "stop") if event["event"] == "Phase" else None)
    stopped = jobs.get(folder)
    assert stopped.state == "stopped" and looking.start(project, jobs).created == stopped.created
    asked = looking.start(project, jobs, again=True)
    assert asked.created > stopped.created
    jobs.wait(folder, 60)
    look_here(project, lambda event: jobs.command(folder, "stop") if event["event"] == "Phase" else None)
    (tmp_path / "new.png").write_bytes(draw_picture(99))
    gathering.gather(project, [tmp_path / "new.png"])
    before = jobs.get(folder).created
    assert looking.start(project, jobs).created > before
    assert jobs.wait(folder, 60).state == "done" and looking.missing(project) == 0


def test_a_look_gives_way_to_a_job_that_waits_for_it(tmp_path):
    project = project_of(tmp_path, 3)
    jobs = Jobs(project.root)
    (tmp_path / "new.png").write_bytes(draw_picture(99))
    with FileLock(project.root / ".gpu.lock"):  # as the look holds it while it runs
        waiting = gathering.start(project, jobs, [tmp_path / "new.png"])
        assert look_here(project)["looked"] == 0 and jobs.get(waiting.folder).state == "queued"
    assert jobs.wait(waiting.folder, 60).state == "done"
    again = looking.start(project, jobs)
    assert again is None or jobs.wait(again.folder, 60).state == "done"
    assert looking.missing(project) == 0


def test_a_picture_that_cannot_be_read_is_named_and_ends_nothing(tmp_path):
    project = project_of(tmp_path, 2)
    broken = project.images()[0]
    project.original_path(broken).write_bytes(b"nothing")
    done = look_here(project)
    assert [one["file"] for one in done["failed"]] == [broken.name] and done["looked"] == 2
    assert looking.missing(project) == 0, "or it would be looked at for ever"
    project.original_path(broken).write_bytes((tmp_path / "pile" / broken.name).read_bytes())
    assert look_here(project)["looked"] == 1, "put back, it is looked at with the next look"


def test_another_tagger_or_background_asks_for_another_look(tmp_path):
    project = project_of(tmp_path, 1, "starter")
    plan, other = project.plan, tmp_path / "tagger"
    shutil.copytree(looking.tagger_folder("starter"), other)
    assert looking.names(plan.model_copy(update={"tagger": str(other)})) == looking.names(plan), "content counts"
    with (other / "vocabulary.json").open("a") as file:
        file.write("\n")
    changed = looking.names(plan.model_copy(update={"tagger": str(other)}))
    assert changed["embedding"] != looking.names(plan)["embedding"] and changed["faces"] == looking.FACES
    blue = looking.names(plan.model_copy(update={"background": "#0000ff"}))
    assert not set(blue.values()) & set(looking.names(plan).values())


def test_a_head_beside_the_tagger_scores_what_was_seen_without_another_look(tmp_path):
    tagger = tmp_path / "tagger"
    shutil.copytree(looking.tagger_folder("starter"), tagger)
    project = project_of(tmp_path, 1, str(tagger))
    jobs, contents = Jobs(project.root), [image.sha256 for image in project.images()]
    vectors = np.eye(2, 8, dtype=np.float32)
    key = looking.names(project.plan)["embedding"]
    Looks(project.folder).put(key, {one: vector.tobytes() for one, vector in zip(contents, vectors, strict=True)})
    assert [one.aesthetic for one in looking.facts(project)] == [None, None]
    weight = np.array([[2, -3, 0, 0, 0, 0, 0, 0]], np.float32)
    save_file({"weight": weight, "bias": np.array([5], np.float32)}, tagger / "aesthetic.safetensors")
    assert looking.names(project.plan)["embedding"] == key
    assert [one.aesthetic for one in looking.facts(project)] == [7, 2]
    save_file({"weight": weight[:, :3], "bias": np.array([5], np.float32)}, tagger / "aesthetic.safetensors")
    assert [one.aesthetic for one in looking.facts(project)] == [None, None]
    names = looking.names(project.plan)
    for one in ("measures", "faces", "lettering", "scores"):
        Looks(project.folder).put(names[one], dict.fromkeys(contents, b"[]"))
    Looks(project.folder).put(looking.COMPARED, {looking.comparison(project, project.images()): b"1"})
    assert "aesthetic.safetensors" in looking.status(project, jobs)["problem"]


def test_the_keys_are_those_of_the_detectors():
    from lora_studio.vision import faces, text

    assert (faces.KEY, text.KEY) == (looking.FACES, looking.LETTERING)


def test_an_import_in_the_background_begins_the_look(tmp_path):
    project = project_of(tmp_path, 1)
    jobs = Jobs(project.root)
    (tmp_path / "new.png").write_bytes(draw_picture(99))
    assert jobs.wait(gathering.start(project, jobs, [tmp_path / "new.png"]).folder, 60).state == "done"
    job = looking.last(project, jobs)
    assert job is not None and jobs.wait(job.folder, 60).state == "done"
    assert looking.missing(project) == 0
    curation.reject(project, [1])
    assert looking.start(project, jobs) is None, "a decision asks for no new look"
