"""Model files on the command line: what `detect` says of them, beginning a project on each, training by settings."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from lora_studio import cli
from lora_studio.core.project import Plan, Project
from lora_studio.steps import conception
from tests.engine.original import tiny_parts, vae_state, whole_state, write
from tests.engine.test_hub import server  # noqa: F401 - a fixture
from tests.test_cli import SHORT, answer, setting_words, studio

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
LORAS: dict[str, dict[str, tuple[int, ...]]] = {
    "lora": {"lora_down.weight": (4, 768), "lora_up.weight": (320, 4), "alpha": ()},
    "dora": {"lora_down.weight": (4, 768), "lora_up.weight": (320, 4), "alpha": (), "dora_scale": (320, 1)},
    "loha": {"hada_w1_a": (320, 4), "hada_w1_b": (4, 768), "hada_w2_a": (320, 4), "hada_w2_b": (4, 768), "alpha": ()},
    "lokr": {"lokr_w1": (16, 24), "lokr_w2_a": (20, 4), "lokr_w2_b": (4, 32), "alpha": ()},
    "ia3": {"weight": (320,), "on_input": ()},
    "oft": {"oft_blocks": (80, 4, 4), "alpha": ()},
    "boft": {"oft_blocks": (2, 80, 4, 4), "alpha": ()},
    "glora": {"a1.weight": (768, 4), "a2.weight": (4, 768), "b1.weight": (320, 4), "b2.weight": (4, 768), "alpha": ()},
}
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Said:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lora-studio", *map(str, words), "--projects", str(tmp_path / "projects")])
        monkeypatch.setattr("signal.signal", lambda *_: None)  # the tests keep theirs
        try:
            code = cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def lora_file(path: Path, kind: str) -> Path:
    tensors = {f"{layer}.{end}": np.ones(s, "f2") for end, s in LORAS[kind].items() for layer in (LAYER, TEXT)}
    save_file(tensors, path, {"ss_base_model_version": "sd_v1"})
    return path


def half_named(base: Path, folder: Path) -> Path:
    """The same base with files that are named as half precision alone."""
    shutil.copytree(base, folder)
    for path in [*folder.rglob("*.safetensors")]:
        path.rename(path.with_suffix(".fp16.safetensors"))
    return folder


@pytest.mark.parametrize("kind", LORAS)
def test_detect_shows_kind_rank_family_and_parts_of_a_lora(kind: str, tmp_path: Path, said: Said) -> None:
    file = lora_file(tmp_path / "file.safetensors", kind)
    code, out, err = said("detect", file)
    assert (code, err) == (0, ""), err
    rank = [] if kind == "ia3" else ["  rank     4"]
    lines = [f"  kind     lora ({kind})", "  family   sd1", *rank, "  parts    unet, text_encoder"]
    assert out.splitlines()[1:] == lines
    found = json.loads(said("detect", file, "--json")[1])
    assert (found["lora_kind"], found["rank"], found["parts"]) == (
        kind,
        0 if kind == "ia3" else 4,
        ["unet", "text_encoder"],
    )


def test_detect_shows_family_and_prediction_of_bases(tmp_path: Path, tiny_base: Path, said: Said) -> None:
    file = write(tmp_path / "xl.safetensors", whole_state("sdxl", tiny_parts("sdxl")), V_PRED)
    for path, lines in (
        (tiny_base, ["  kind     base", "  family   sd-small", "  predicts v_prediction"]),
        (
            half_named(tiny_base, tmp_path / "half"),
            ["  kind     base", "  family   sd-small", "  predicts v_prediction"],
        ),
        (file, ["  kind     base", "  family   sdxl", "  predicts v_prediction"]),
    ):
        code, out, err = said("detect", path)
        assert (code, err, out.splitlines()[1:]) == (0, "", lines)
    assert said("detect", "starter")[0] == 0


V_PRED = {"modelspec.prediction_type": "v"}


def test_detect_gives_the_reason_of_a_no(tmp_path: Path, tiny_base: Path, said: Said) -> None:
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x04\x95" + bytes(range(20)))
    (tmp_path / "junk.safetensors").write_bytes(b"hello, this is no model at all")
    (tmp_path / "cut.safetensors").write_bytes(lora_file(tmp_path / "x.safetensors", "lora").read_bytes()[:-9])
    (tmp_path / "empty").mkdir()
    write(tmp_path / "vae.safetensors", vae_state(tiny_parts("sd1")["vae"]))
    for name, kind, reason in (
        ("old.ckpt", "pickle", "pickle"), ("junk.safetensors", "unknown", "not a safetensors file"),
        ("cut.safetensors", "unknown", "cut off"), ("empty", "unknown", "model_index.json"),
        ("vae.safetensors", "vae", "base.vae"),
    ):  # fmt: skip
        code, out, err = said("detect", tmp_path / name, "--json")
        found = json.loads(out)
        assert (code, found["kind"]) == (1, kind) and reason in found["problem"]
        assert err == f"Error: {name}: {found['problem']}\n"


# --- beginning a project ----------------------------------------------------------------------------------------------


def test_a_project_begins_on_a_folder_or_a_file_and_finds_it_from_any_folder(
    tmp_path: Path, tiny_base: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "xl.safetensors", whole_state("sdxl", tiny_parts("sdxl")), V_PRED)
    monkeypatch.chdir(tmp_path)
    begun = json.loads(said("new", "One", "--base", "xl.safetensors", "--json")[1])
    assert begun["plan"]["base"] == str(tmp_path / "xl.safetensors")
    found = conception.recommend(Project.open(tmp_path / "projects", "one"))
    assert found.preset == "character-sdxl" and found.config.data.resolution == 1024
    assert "v-prediction" in found.reasons["base.prediction"]
    assert said("new", "Two", "--base", tiny_base)[0] == 0


@pytest.mark.parametrize(
    ("metadata", "size", "reason"),
    [
        (V_PRED, 768, "predicts v"),
        ({"modelspec.prediction_type": "epsilon"}, 512, ""),
        ({}, 768, "does not say"),
    ],
    ids=["v", "epsilon", "untold"],
)
def test_stable_diffusion_2_takes_the_first_ones_recipe_at_its_own_size(
    metadata: dict[str, str], size: int, reason: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "sd2.safetensors", whole_state("sd2", tiny_parts("sd2")), metadata)
    project = conception.create(tmp_path, Plan(name="x", base=str(file)))
    found = conception.recommend(project)
    assert found.preset == "character-sd1" and found.config.data.resolution == size
    assert f"{size} pixels" in found.reasons["data.resolution"]
    assert reason in found.reasons.get("base.prediction", "")


def in_hub(base: Path, cache: Path) -> None:
    """Put the base where the hub's client keeps `zorbi/tiny` after fetching it."""
    model, commit = cache / "models--zorbi--tiny", "0" * 40
    shutil.copytree(base, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)


def test_a_base_on_the_hub_that_was_fetched_before_needs_no_network(
    tmp_path: Path, tiny_base: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    in_hub(tiny_base, tmp_path / "hub")
    code, _, err = said("new", "Mine", "--base", "zorbi/tiny")
    assert (code, err) == (0, "")
    assert Project.open(tmp_path / "projects", "mine").plan.base == "zorbi/tiny"
    assert conception.base_info("zorbi/tiny").family == "sd-small" and not conception.unfetched("zorbi/tiny")
    assert said("detect", "zorbi/tiny")[0] == 0


def test_a_base_on_the_hub_that_cannot_be_fetched_is_told_in_a_sentence_or_left_to_the_run(
    tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    code, _, err = said("new", "Mine", "--base", "zorbi/tiny")
    assert code == 1 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("Error: The Hugging Face hub cannot be reached, and zorbi/tiny is not whole")
    assert not list((tmp_path / "projects").glob("*/project.toml"))
    code, _, err = said("new", "Mine", "--base", "zorbi/tiny", "--no-fetch")
    assert code == 0 and "fetched at the start of the run" in err
    found = conception.recommend(Project.open(tmp_path / "projects", "mine"))
    assert found.preset == "character-sd1" and "Stable Diffusion 1.x" in found.reasons["base.model"]
    assert "does not exist" in said("detect", "zorbi/tiny")[2]


@pytest.fixture
def base(tiny_base: Path) -> Path:
    """What the small hub of the engine's tests serves."""
    return tiny_base


def test_a_base_on_the_hub_is_fetched_when_the_project_begins(
    server: Any,  # noqa: F811
    tmp_path: Path,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    code, out, err = said("new", "Mine", "--base", "zorbi/tiny", "--json")
    assert code == 0 and json.loads(out)["plan"]["base"] == "zorbi/tiny"
    assert "is on this computer now" in err and "unet/diffusion_pytorch_model.safetensors" in server.fetched
    assert conception.base_info("zorbi/tiny").family == "sd-small"
    assert said("new", "Mine", "--base", "zorbi/none")[2].startswith("Error: There is no model zorbi/none")


# --- training by settings ---------------------------------------------------------------------------------------------


def test_kind_optimizer_and_preset_are_chosen_and_a_prepared_run_goes_on(
    tmp_path: Path, tiny_base: Path, picture_folder: Callable[..., Path]
) -> None:
    projects = tmp_path / "p"
    answer("new", "mine", "--trigger", "mine", "--base", tiny_base, projects=projects)
    answer("gather", "mine", picture_folder(3), projects=projects)
    changes = setting_words([*SHORT, "adapter.kind=lokr", "optimizer.kind=lion", "adapter.layers=attention"])
    ready = answer("train", "mine", "--preset", "came-rex", *changes, "--prepare", projects=projects)
    assert ready["folder"] in ready["command"] and "torchrun" in ready["command"]
    settings = json.loads((Path(ready["folder"]) / "config.json").read_text())["settings"]
    assert settings["adapter"]["kind"] == "lokr" and settings["optimizer"]["kind"] == "lion"
    assert settings["schedule"]["kind"] == "rex_with_restarts", "from the preset"
    run = answer("train", "mine", "--resume", "last", projects=projects)
    assert (run["run"], run["state"]) == (ready["run"], "done")
    refused = studio("export", "mine", "--format", "diffusers", projects=projects)
    assert refused.returncode == 1 and "diffusers cannot load LoKr files" in refused.stderr
    assert "kohya" in refused.stderr and refused.stderr.count("\n") == 1
    exported = answer("export", "mine", projects=projects)
    assert answer("detect", exported["file"], projects=projects)["lora_kind"] == "lokr"
