"""The command line as a user's shell sees it: real processes, stdout, stderr and exit codes. One project goes through
all six steps on a tiny base."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from safetensors import safe_open

from lora_studio.core.project import Plan, Project
from tests.conftest import draw_picture

SHORT = [
    "data.resolution=32", "data.bucket_step=8", "data.bucket_min=16", "data.bucket_max=64", "data.repeats=1",
    "data.batch_size=2", "run.gradient_accumulation=1", "run.epochs=2", "run.sample_every_epochs=0", "adapter.rank=2",
    "run.save_every_epochs=1",
]  # fmt: skip
COMMANDS = ("new", "gather", "curate", "tag", "train", "test", "export", "status", "detect")


def studio(*words: object, projects: Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lora_studio", *map(str, words), "--projects", str(projects)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def answer(*words: object, projects: Path) -> dict:
    """The JSON document of a command that must succeed."""
    result = studio(*words, "--json", projects=projects)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def setting_words(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


class Walk:
    """A project and what each command answered."""

    def __init__(self, projects: Path) -> None:
        self.projects = projects
        self.answers: dict[str, dict] = {}

    def step(self, name: str, *words: object) -> dict:
        self.answers[name] = answer(*words, projects=self.projects)
        return self.answers[name]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Walk:
    """All six steps, one command each."""
    home = tmp_path_factory.mktemp("walk")
    walk = Walk(home / "Prøjekte ü 中文 (x)")
    pile = home / "my pictures"
    pile.mkdir()
    for seed in range(6):
        (pile / f"picture {seed}.png").write_bytes(draw_picture(seed))
    (pile / "doubled.png").write_bytes(draw_picture(0))
    (pile / "broken.png").write_bytes(draw_picture(7)[:200])
    walk.step("new", "new", "Zörbi & Co", "--kind", "character", "--trigger", "zorbi", "--base", tiny_base)
    slug = walk.answers["new"]["project"]
    walk.step("gather", "gather", slug, pile)
    walk.step("again", "gather", slug, pile)
    walk.step("curate", "curate", slug, "--dry-run")
    walk.step("tag", "tag", slug)
    walk.step("train", "train", slug, *setting_words(SHORT))
    walk.step("test", "test", slug, *setting_words(["num_steps=2", "seeds=1", "strengths=1", "size=64"]))
    walk.step("export", "export", slug, "--out", home / "out ü.safetensors")
    walk.step("status", "status", slug)
    walk.step("detect", "detect", home / "out ü.safetensors")
    return walk


def test_a_project_is_begun_with_an_ascii_folder(walk):
    begun = walk.answers["new"]
    assert begun["project"] == "zorbi-co"
    assert begun["plan"]["name"] == "Zörbi & Co" and begun["plan"]["trigger"] == "zorbi"
    assert (Path(begun["folder"]) / "project.toml").is_file()


def test_gather_answers_in_exactly_the_promised_shape(walk):
    found = walk.answers["gather"]
    assert set(found) == {"added", "already", "refused"}
    assert (found["added"], found["already"]) == (6, 1)
    assert [set(one) for one in found["refused"]] == [{"file", "reason"}]
    assert found["refused"][0]["file"] == "broken.png" and "damaged" in found["refused"][0]["reason"]


def test_gathering_again_adds_nothing(walk):
    assert (walk.answers["again"]["added"], walk.answers["again"]["already"]) == (0, 7)


def test_a_dry_run_of_curate_rejects_nothing(walk):
    assert walk.answers["curate"]["dry_run"] and walk.answers["curate"]["used"] == 6
    assert walk.answers["status"]["used"] == 6


def test_tag_writes_every_caption_with_the_trigger_first(walk):
    assert walk.answers["tag"]["written"] == 6 and walk.answers["tag"]["failed"] == []
    assert walk.answers["status"]["captioned"] == 6


def test_train_tells_where_its_files_are_and_they_are_whole(walk):
    run = walk.answers["train"]
    assert run["state"] == "done" and run["step"] == run["total"] == 6  # 6 pictures / batch 2 x 2 epochs
    assert len(run["checkpoints"]) == 2
    for path in run["checkpoints"]:
        with safe_open(path, "np") as file:
            assert file.metadata()["ss_network_dim"] == "2"
            assert all(key.startswith("lora_") for key in file.keys())  # noqa: SIM118 - no mapping


def test_test_answers_with_a_scorecard_and_a_contact_sheet(walk):
    found = walk.answers["test"]
    assert Path(found["sheet"]).is_file()
    assert "recommendation" in found["scorecard"]


def test_export_writes_the_file_it_names_and_detect_knows_it(walk):
    exported = walk.answers["export"]
    assert Path(exported["file"]).stat().st_size == exported["bytes"] > 0
    assert walk.answers["detect"]["kind"] == "lora" and walk.answers["detect"]["problem"] == ""


def test_status_counts_what_was_made(walk):
    found = walk.answers["status"]
    assert (found["pictures"], found["checkpoints"], found["tests"]) == (6, 2, 1)
    assert {job["state"] for job in found["jobs"]} == {"done"}
    assert answer("status", projects=walk.projects)["projects"] == [found]


def test_the_answers_for_people_say_the_same_on_stdout(walk):
    shown = studio("status", "zorbi-co", projects=walk.projects)
    assert shown.returncode == 0 and shown.stderr == ""
    assert "6 of 6 pictures in use, 6 captioned, 2 checkpoints, 1 tests" in shown.stdout


def test_the_diffusers_layout_can_be_exported_too(walk, tmp_path):
    found = answer(
        "export", "zorbi-co", "--format", "diffusers", "--out", tmp_path / "x.safetensors", projects=walk.projects
    )
    with safe_open(found["file"], "np") as file:
        assert any(key.startswith("unet.") for key in file.keys())  # noqa: SIM118 - no mapping


def test_curate_rejects_and_its_undo_takes_that_back(tmp_path, picture_folder):
    folder = picture_folder(3)
    (folder / "almost.png").write_bytes(draw_picture(1, (64, 64)))  # the same picture, smaller
    projects = tmp_path / "p"
    answer("new", "a", projects=projects)
    answer("gather", "a", folder, projects=projects)
    found = answer("curate", "a", projects=projects)
    assert len(found["rejected"]) == 4 - found["used"]
    undone = answer("curate", "a", "--undo", projects=projects) if found["rejected"] else {"undone": "Reject"}
    assert undone["undone"].startswith("Reject")
    assert answer("status", "a", projects=projects)["used"] == 4


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["status", "nobody"], 1, "There is no project nobody"),
        (["gather", "mine", "/no/such/folder"], 1, "/no/such/folder does not exist"),
        (["tag", "mine"], 1, "There are no pictures to tag"),
        (["train", "mine"], 1, "There are no pictures to train on"),
        (["train", "mine", "--resume", "last"], 1, "has no run yet"),
        (["train", "mine", "--preset", "nonsense"], 1, "There is no preset nonsense"),
        (["test", "mine"], 1, "There is no checkpoint to test"),
        (["export", "mine"], 1, "nothing to export"),
        (["curate", "mine"], 1, "has no pictures"),
        (["detect", "/no/such/file"], 1, "/no/such/file does not exist"),
        (["new", ""], 1, "name"),
        (["new", "x", "--base", "/no/such/model"], 1, "There is no base model at /no/such/model"),
        (["new", "x", "--trigger", "a, b"], 1, "a trigger is one tag"),
        (["new", "x", "--kind", "thing"], 2, "thing"),
        (["nonsense"], 2, "nonsense"),
        (["gather"], 2, "PROJECT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_a_sentence_on_stderr_a_json_document_on_stdout_and_no_success(tmp_path, words, code, said):
    Project.create(tmp_path, Plan(name="mine"))
    result = studio(*words, "--json", projects=tmp_path)
    assert result.returncode == code
    assert result.stderr.startswith("Error: ") and said in result.stderr
    assert "Traceback" not in result.stderr and result.stderr.count("\n") == 1
    assert said in json.loads(result.stdout)["error"]


def test_without_json_an_error_leaves_stdout_empty(tmp_path):
    result = studio("status", "nobody", projects=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")


def test_all_wrong_settings_are_told_at_once(tmp_path, picture_folder):
    answer("new", "mine", "--trigger", "mine", projects=tmp_path)
    answer("gather", "mine", picture_folder(2), projects=tmp_path)
    wrong = ["adapter.rnak=4", "run.epochs=0", "optimizer.unet_lr=fast"]
    result = studio("train", "mine", *setting_words(wrong), projects=tmp_path)
    assert result.returncode == 1
    assert "adapter.rnak: no such setting; did you mean rank?" in result.stderr
    assert "run.epochs" in result.stderr and "optimizer.unet_lr" in result.stderr
    unwritten = studio("train", "mine", "--set", "epochs", "--set", "rank 4", projects=tmp_path)
    assert unwritten.stderr.count("write it as NAME=VALUE") == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_json_and_a_projects_folder(command):
    shown = subprocess.run(
        [sys.executable, "-m", "lora_studio", command, "--help"], capture_output=True, text=True, check=True
    )
    assert "--json" in shown.stdout and "--projects" in shown.stdout


def test_nothing_but_refusals_is_no_success(tmp_path, picture_folder):
    folder = picture_folder(0)
    (folder / "notes.png").write_text("no picture")
    with zipfile.ZipFile(folder.parent / "evil.zip", "w") as archive:
        archive.writestr("../outside.png", draw_picture(1))
    answer("new", "mine", projects=tmp_path / "p")
    result = studio("gather", "mine", folder, folder.parent / "evil.zip", "--json", projects=tmp_path / "p")
    found = json.loads(result.stdout)
    assert result.returncode == 1 and found["added"] == 0
    assert {one["file"] for one in found["refused"]} == {"notes.png", "../outside.png"}
    assert not (tmp_path / "outside.png").exists()


def test_the_version_and_the_status_answer_without_heavy_imports(tmp_path):
    for words in (["--version"], ["status", "--projects", str(tmp_path)]):
        code = f"import sys; sys.argv[1:] = {words!r}; from lora_studio.cli import main; main(); print(*sys.modules)"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not {"torch", "gradio", "transformers", "numpy"} & set(shown.stdout.splitlines()[-1].split())


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_the_work_and_the_run_goes_on_from_there(tmp_path, picture_folder, tiny_base, number):
    projects = tmp_path / "p"
    answer("new", "mine", "--trigger", "mine", "--base", tiny_base, projects=projects)
    answer("gather", "mine", picture_folder(4), projects=projects)
    settings = [*SHORT, "run.epochs=400", "run.save_every_epochs=0"]
    command = [sys.executable, "-m", "lora_studio", "train", "mine", *setting_words(settings), "--json"]
    child = subprocess.Popen(
        [*command, "--projects", str(projects)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(projects, 3)
    os.kill(child.pid, number)
    out, err = child.communicate(timeout=60)
    stopped = json.loads(out)
    assert child.returncode == 130, err
    assert stopped["state"] == "stopped" and 3 <= stopped["step"] < stopped["total"] == 800
    assert "--resume" in err
    (job,) = answer("status", "mine", projects=projects)["jobs"]
    assert job["state"] == "stopped"
    again = subprocess.Popen(
        [*command[:5], "--resume", "last", "--json", "--projects", str(projects)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_step(projects, stopped["step"] + 5)
    os.kill(again.pid, signal.SIGINT)
    out, err = again.communicate(timeout=60)
    assert json.loads(out)["step"] > stopped["step"], err


def wait_for_step(projects: Path, step: int, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in projects.glob("*/runs/*/events.jsonl"):
            told = [
                json.loads(line) for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")
            ]
            if any(event["event"] == "Step" and event["step"] >= step for event in told):
                return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached")
