import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import Jobs, run_inline
from lora_studio.core.progress import Note, Progress


def count(config, job):
    """Counts to `to`, slowly; ends early at a stop."""
    for number in range(1, config["to"] + 1):
        words = job.commands()
        if "pause" in words:
            job.wait_while_paused()
        if job.should_stop():
            return {"reached": number - 1}
        job.report(Progress(number, config["to"]))
        time.sleep(config.get("pause", 0))
    return {"reached": config["to"]}


def fail(config, job):
    if config.get("user"):
        raise UserError("pictures/a.png is broken.", "Take it out.")
    raise RuntimeError("a bug")


def hog(config, job):
    job.report(Note("begun"))
    started = time.time()
    time.sleep(0.3)
    return {"from": started, "to": time.time()}


TARGET = "tests.core.test_jobs:"


def folder(root: Path, name: str) -> Path:
    return root / "project" / "jobs" / name


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_a_job_runs_in_its_own_process_and_its_folder_tells_all(tmp_path):
    jobs = Jobs(tmp_path)
    job = jobs.start(folder(tmp_path, "a"), TARGET + "count", {"to": 3}, "Counting", "project")
    assert job.pid != os.getpid()
    done = Jobs(tmp_path).wait(job.folder, 20)  # another reader, as after a restart of the server
    assert (done.state, done.summary) == ("done", {"reached": 3})
    events, offset = done.events()
    assert [event["done"] for event in events if event["event"] == "Progress"] == [1, 2, 3]
    assert done.events(offset) == ([], offset)


def test_a_stop_ends_the_job_and_keeps_its_summary(tmp_path):
    jobs = Jobs(tmp_path)
    job = jobs.start(folder(tmp_path, "a"), TARGET + "count", {"to": 10_000, "pause": 0.01}, "Counting")
    until(lambda: job.events()[0])
    jobs.command(job.folder, "stop")
    done = jobs.wait(job.folder, 20)
    assert done.state == "stopped" and 0 < done.summary["reached"] < 10_000


def test_pause_holds_the_work_and_resume_lets_it_go_on(tmp_path):
    jobs = Jobs(tmp_path)
    job = jobs.start(folder(tmp_path, "a"), TARGET + "count", {"to": 500, "pause": 0.01}, "Counting")
    until(lambda: job.events()[0])
    jobs.command(job.folder, "pause")
    until(lambda: jobs.get(job.folder).state == "paused")
    held = len(job.events()[0])
    time.sleep(0.3)
    assert len(job.events()[0]) == held
    jobs.command(job.folder, "resume")
    assert jobs.wait(job.folder, 20).summary == {"reached": 500}


@pytest.mark.parametrize(
    ("config", "error", "remedy"),
    [
        ({"user": True}, "pictures/a.png is broken.", "Take it out."),
        ({}, "RuntimeError: a bug", "fault of the program"),
    ],
)
def test_an_error_reaches_the_record_with_its_remedy(tmp_path, config, error, remedy):
    jobs = Jobs(tmp_path)
    job = jobs.start(folder(tmp_path, "a"), TARGET + "fail", config, "Failing")
    done = jobs.wait(job.folder, 20)
    assert done.state == "failed" and done.error == error and remedy in done.remedy


def test_a_killed_job_is_found_interrupted_after_a_restart(tmp_path):
    jobs = Jobs(tmp_path)
    job = jobs.start(folder(tmp_path, "a"), TARGET + "count", {"to": 10_000, "pause": 0.01}, "Counting")
    until(lambda: job.events()[0])
    os.kill(jobs.get(job.folder).pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(job.pid) or psutil.Process(job.pid).status() == "zombie")
    assert [found.id for found in Jobs(tmp_path).reconcile()] == ["a"]
    again = jobs.start(job.folder, TARGET + "count", {"to": 2}, "Counting")
    assert jobs.wait(again.folder, 20).state == "done"


def test_two_jobs_wait_for_each_other(tmp_path):
    jobs = Jobs(tmp_path)
    for name in ("a", "b"):
        jobs.start(folder(tmp_path, name), TARGET + "hog", {}, name)
    first, second = sorted(
        (jobs.wait(folder(tmp_path, name), 20).summary for name in ("a", "b")), key=lambda summary: summary["from"]
    )
    assert first["to"] <= second["from"]


def test_a_queued_job_can_be_stopped(tmp_path):
    jobs = Jobs(tmp_path)
    jobs.start(folder(tmp_path, "a"), TARGET + "count", {"to": 10_000, "pause": 0.01}, "first")
    until(lambda: jobs.get(folder(tmp_path, "a")).events()[0])
    jobs.start(folder(tmp_path, "b"), TARGET + "count", {"to": 1}, "second")
    jobs.command(folder(tmp_path, "b"), "stop")
    assert jobs.wait(folder(tmp_path, "b"), 20).state == "stopped"
    jobs.command(folder(tmp_path, "a"), "stop")
    jobs.wait(folder(tmp_path, "a"), 20)


def test_a_living_job_is_not_started_twice(tmp_path):
    jobs = Jobs(tmp_path)
    job = jobs.start(folder(tmp_path, "a"), TARGET + "count", {"to": 10_000, "pause": 0.01}, "Counting")
    with pytest.raises(UserError, match="still"):
        jobs.start(job.folder, TARGET + "count", {"to": 1}, "Counting")
    jobs.command(job.folder, "stop")
    jobs.wait(job.folder, 20)


def test_a_torn_last_line_is_read_later(tmp_path):
    run_inline(folder(tmp_path, "a"), TARGET + "count", {"to": 2})
    job = Jobs(tmp_path).get(folder(tmp_path, "a"))
    whole, offset = job.events()
    with (job.folder / "events.jsonl").open("a") as file:
        file.write('{"event": "No')
    assert job.events() == (whole, offset)
    with (job.folder / "events.jsonl").open("a") as file:
        file.write('te"}\n')
    assert job.events(offset)[0] == [{"event": "Note"}]


def test_the_record_is_whole_at_every_moment(tmp_path):
    run_inline(folder(tmp_path, "a"), TARGET + "count", {"to": 1})
    path = folder(tmp_path, "a") / "job.json"
    seen: list[str] = []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            seen.append(json.loads(path.read_text())["state"])

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        run_inline(folder(tmp_path, "a"), TARGET + "count", {"to": 1})
    stop.set()
    reader.join()
    assert set(seen) <= {"queued", "running", "done"} and len(seen) > 20
