"""A whole training on a tiny true base."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from lora_studio.core.errors import UserError
from lora_studio.engine.config import TrainJob
from lora_studio.engine.state import newest_state
from lora_studio.engine.train import prepare, train
from tests.engine.conftest import Recorder
from tests.tiny import make_dataset

Weights = dict[str, torch.Tensor]


def trained(config: dict[str, Any], folder: Path) -> tuple[Weights, Recorder]:
    """Run a training; its last full-precision adapter, and what was reported."""
    recorder = Recorder(folder)
    train(config, recorder)
    return last_state(folder), recorder


def last_state(folder: Path) -> Weights:
    return newest_state(folder / "state")[0].weights


def same(one: Weights, other: Weights) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_writes_files_that_stand_alone(make_job: Callable, tmp_path: Path) -> None:
    weights, told = trained(make_job(run__sample_every_epochs=1), tmp_path / "run")
    files = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert files == ["zorbi-000001.safetensors", "zorbi-000002.safetensors"]
    assert len(list((tmp_path / "run/samples").glob("*.png"))) == 4
    assert [event["step"] for event in told.of("Step")] == [1, 2, 3, 4]
    assert [event["step"] for event in told.of("Validation")] == [0, 4]
    assert {event["kind"] for event in told.of("FileWritten")} == {"checkpoint", "sample", "state"}
    assert all((tmp_path / "run" / event["path"]).exists() for event in told.of("FileWritten")[-4:])
    assert any(value.any() for name, value in weights.items() if "lora_up" in name)


def test_only_the_adapter_can_be_trained(make_job: Callable, context: Recorder) -> None:
    trainer = prepare(TrainJob.load(make_job()), context)
    moving = {id(p) for network in trainer.networks for p in network.parameters() if p.requires_grad}
    assert moving == {id(p) for p in trainer.adapter.parameters}
    network = trainer.family.part("unet")
    before = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    trainer.train_step()
    assert all(torch.equal(p, before[n]) for n, p in network.named_parameters() if n in before)


def test_the_loss_falls_on_pictures_learned_by_heart(make_job: Callable, tmp_path: Path) -> None:
    config = make_job(run__epochs=12, optimizer__unet_lr=0.03, adapter__rank=8, adapter__alpha=8, adapter__layers="all")
    _, told = trained(config, tmp_path / "run")
    losses = [event["loss"] for event in told.of("Validation")]
    assert losses[-1] < 0.8 * losses[0]


# --- the same again ---------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_lora(make_job: Callable, tmp_path: Path) -> None:
    one, told = trained(make_job(), tmp_path / "one")
    again, told_again = trained(make_job(), tmp_path / "again")
    assert same(one, again)
    losses = [[event["loss"] for event in events.of("Step")] for events in (told, told_again)]
    assert losses[0] == losses[1]


def test_stopped_and_resumed_is_bit_for_bit_the_same(make_job: Callable, tmp_path: Path) -> None:
    config = make_job(run__epochs=3, run__gradient_accumulation=1, data__batch_size=1, adapter__dropout=0.1)
    whole, _ = trained(config, tmp_path / "whole")
    first = StopAfter(tmp_path / "parts", 5)
    train(config, first)
    assert len(first.of("Step")) == 5
    _, told = trained({**config, "resume": True}, tmp_path / "parts")
    assert [event["step"] for event in told.of("Step")] == list(range(6, 13))
    assert any("Resumed after step 5 of 12" in event["text"] for event in told.of("Note"))
    assert same(whole, last_state(tmp_path / "parts"))
    name = "checkpoints/zorbi-000003.safetensors"
    assert same(load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name))


class StopAfter(Recorder):
    """Asks for a stop after a number of steps."""

    def __init__(self, folder: Path, steps: int) -> None:
        super().__init__(folder)
        self.steps = steps

    def should_stop(self) -> bool:
        return len(self.of("Step")) >= self.steps


def test_killed_and_resumed_is_bit_for_bit_the_same(make_job: Callable, tmp_path: Path) -> None:
    config = make_job(run__epochs=300, data__batch_size=4, run__save_every_epochs=1)
    folder = tmp_path / "killed"
    folder.mkdir()
    code = (
        "import sys, json, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\nfrom lora_studio.core.jobs import JobContext\n"
        "from lora_studio.engine.train import train\n"
        "train(json.load(open(sys.argv[1])), JobContext(Path(sys.argv[2])))"
    )
    (tmp_path / "job.json").write_text(json.dumps(config))
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "job.json"), str(folder)])
    end = time.monotonic() + 300  # a shared machine may be slow to start Python
    while not (folder / "state").exists() or len(list((folder / "state").glob("[0-9]*"))) < 2:
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    reached = max(int(path.name) for path in (folder / "state").glob("[0-9]*"))
    short = make_job(run__epochs=reached + 2, data__batch_size=4)  # one step an epoch
    _, told = trained({**short, "resume": True}, folder)
    assert told.of("Step")[0]["step"] in (reached + 1, reached)
    whole, _ = trained(short, tmp_path / "whole")
    assert same(whole, last_state(folder))


def test_a_damaged_state_is_passed_over_and_said(make_job: Callable, tmp_path: Path) -> None:
    config = make_job(run__epochs=3)
    whole, _ = trained(config, tmp_path / "run")
    newest = max((tmp_path / "run/state").glob("[0-9]*"))
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "optimizer.safetensors").write_bytes(bytes(data))
    _, told = trained({**config, "resume": True}, tmp_path / "run")
    texts = " ".join(event["text"] for event in told.of("Note"))
    assert newest.name in texts and "after step 4" in texts
    assert same(whole, last_state(tmp_path / "run"))


def test_only_the_newest_states_are_kept(make_job: Callable, tmp_path: Path) -> None:
    trained(make_job(run__epochs=5, run__keep_states=2), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run/state").iterdir()) == ["00000008", "00000010"]


def test_resuming_with_other_settings_says_so_and_a_wrong_size_is_refused(make_job: Callable, tmp_path: Path) -> None:
    trained(make_job(), tmp_path / "run")
    longer = {**make_job(run__epochs=3, optimizer__unet_lr=0.001), "resume": True}
    _, told = trained(longer, tmp_path / "run")
    texts = " ".join(event["text"] for event in told.of("Note"))
    assert "optimizer.unet_lr is now 0.001 (was 0.0005)" in texts
    with pytest.raises(UserError, match=r"cannot change adapter\.rank"):
        trained({**make_job(adapter__rank=4), "resume": True}, tmp_path / "run")


# --- settings take effect ---------------------------------------------------------------------------------------

CHANGES = [
    {"adapter__rank": 4}, {"adapter__alpha": 2.0}, {"adapter__dropout": 0.5}, {"adapter__layers": "all"},
    {"adapter__layers": "attention"}, {"optimizer__unet_lr": 1e-3}, {"optimizer__text_encoder_lr": 1e-3},
    {"optimizer__text_encoder_lr": 0}, {"optimizer__weight_decay": 0.5}, {"optimizer__betas": [0.5, 0.9]},
    {"schedule__kind": "cosine"}, {"schedule__kind": "linear"}, {"schedule__warmup": 0.5},
    {"schedule__kind": "cosine_with_restarts", "schedule__restarts": 2}, {"data__resolution": 48},
    {"data__batch_size": 1}, {"data__repeats": 2}, {"data__flip": True}, {"data__shuffle_tags": False},
    {"data__keep_tokens": 3}, {"data__caption_dropout": 1.0}, {"data__tag_dropout": 0.5},
    {"objective__min_snr_gamma": 0}, {"objective__noise_offset": 0.1}, {"run__epochs": 3}, {"run__seed": 1},
    {"run__validation_share": 0.25}, {"run__gradient_accumulation": 2}, {"run__clip_skip": 2},
    {"run__precision": "bf16"},
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Weights]:
    folder = tmp_path_factory.mktemp("plain")
    from tests.engine.conftest import settings

    job = TrainJob(
        settings=settings(), base=str(base), dataset=str(make_dataset(folder / "data")), cache=str(folder / "cache"),
    ).to_dict()  # fmt: skip
    return job, trained(job, folder / "run")[0]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: " ".join(f"{k}={v}" for k, v in change.items()))
def test_each_setting_changes_the_lora(change: dict[str, Any], plain: Any, tmp_path: Path) -> None:
    from tests.engine.conftest import settings

    job, before = plain
    after, _ = trained({**job, "settings": settings(**change).to_dict()}, tmp_path / "run")
    assert not same(before, after)


def test_the_longest_step_is_limited(plain: Any, tmp_path: Path) -> None:
    from tests.engine.conftest import settings

    job, _ = plain  # Adam forgets a common factor of all gradients, so the limit must change from step to step
    config = settings(optimizer__max_grad_norm=0.01, run__epochs=4).to_dict()
    limited, _ = trained({**job, "settings": config}, tmp_path / "limited")
    config = settings(optimizer__max_grad_norm=0, run__epochs=4).to_dict()
    free, _ = trained({**job, "settings": config}, tmp_path / "free")
    assert not same(limited, free)


def test_without_a_text_rate_the_file_holds_no_text_keys(make_job: Callable, tmp_path: Path) -> None:
    trained(make_job(optimizer__text_encoder_lr=0, run__epochs=1), tmp_path / "off")
    trained(make_job(optimizer__text_encoder_lr=1e-4, run__epochs=1), tmp_path / "on")
    off, on = (load_file(tmp_path / name / "checkpoints/zorbi-000001.safetensors") for name in ("off", "on"))
    assert not any("lora_te" in name for name in off)
    assert len([name for name in on if "lora_te" in name]) == 3 * 12


def test_caches_are_shared_and_a_warm_one_needs_neither_vae_nor_text_encoder(
    make_job: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_job(optimizer__text_encoder_lr=0, data__shuffle_tags=False)
    cold, _ = trained(config, tmp_path / "cold")
    from lora_studio.engine.families.latent import LatentFamily

    loaded = []
    real = LatentFamily.part
    monkeypatch.setattr(LatentFamily, "part", lambda self, name: loaded.append(name) or real(self, name))
    warm, _ = trained(config, tmp_path / "warm")
    assert set(loaded) == {"unet"} and same(cold, warm)


def test_a_damaged_cache_file_is_made_anew(make_job: Callable, tmp_path: Path) -> None:
    first, _ = trained(make_job(), tmp_path / "first")
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(b"rubbish")
    again, _ = trained(make_job(), tmp_path / "again")
    assert same(first, again)


# --- commands ---------------------------------------------------------------------------------------------------


def test_save_and_sample_are_done_at_once_and_pause_waits(make_job: Callable, tmp_path: Path) -> None:
    class Commanded(Recorder):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.paused: dict[int, bool] = {}

        def commands(self) -> list[str]:
            done = len(self.of("Step"))
            return {1: ["save", "sample"], 2: ["pause"]}.get(done, []) if not self.paused.get(done) else []

        def wait_while_paused(self) -> None:
            self.paused[len(self.of("Step"))] = True

    told = Commanded(tmp_path / "run")
    train(make_job(run__epochs=2), told)
    paths = [event["path"] for event in told.of("FileWritten")]
    assert "checkpoints/zorbi-step00000001.safetensors" in paths and "samples/00000001-0.png" in paths
    assert told.paused == {2: True} and len(told.of("Step")) == 4


def test_a_stop_still_saves(make_job: Callable, tmp_path: Path) -> None:
    told = StopAfter(tmp_path / "run", 1)
    train(make_job(), told)
    assert (tmp_path / "run/checkpoints/zorbi-step00000001.safetensors").exists()
    assert (tmp_path / "run/state/00000001").is_dir()


# --- what goes wrong --------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_refused_before_it_does_harm(make_job: Callable, context: Recorder) -> None:
    trainer = prepare(TrainJob.load(make_job(data__batch_size=4)), context)
    trainer.train_step()
    before = {name: p.clone() for name, p in trainer.adapter.named_parameters()}
    real = trainer.latents.get
    trainer.latents.get = lambda *which: real(*which) * (float("nan") if which[0].id == "0" else 1)
    with pytest.raises(UserError, match=r"loss of step 2 .*picture-0.png") as caught:
        trainer.train_step()
    assert "optimizer.unet_lr" in caught.value.remedy
    assert all(torch.equal(p, before[name]) for name, p in trainer.adapter.named_parameters())


def test_nan_from_the_vae_names_the_picture(make_job: Callable, context: Recorder, monkeypatch) -> None:
    from lora_studio.engine.families.latent import LatentFamily

    real = LatentFamily.encode_images
    monkeypatch.setattr(LatentFamily, "encode_images", lambda self, pixels: real(self, pixels) * float("nan"))
    with pytest.raises(UserError, match=r"picture-0\.png"):
        train(make_job(), context)
    assert not list((Path(make_job()["cache"])).rglob("*.safetensors"))


def test_no_pictures_is_said_plainly(make_job: Callable, context: Recorder, tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text('{"images": []}')
    with pytest.raises(UserError, match="no pictures"):
        train(make_job(dataset=empty), context)


@pytest.mark.parametrize("harm", ["gone", "text"])
def test_a_broken_picture_is_named(harm: str, make_job: Callable, context: Recorder, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "harmed")
    victim = tmp_path / "harmed/picture-2.png"
    victim.unlink() if harm == "gone" else victim.write_text("not a picture")
    with pytest.raises(UserError, match=r"picture-2\.png"):
        train(make_job(dataset=dataset), context)


def test_a_base_that_is_none_is_named(make_job: Callable, context: Recorder, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match=r"nothing cannot be used: .*model_index\.json"):
        train(make_job(model=tmp_path / "nothing"), context)


def test_a_batch_larger_than_a_shape_is_trained_and_told(make_job: Callable, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "shapes", [(32, 32)] * 3 + [(64, 16)])
    _, told = trained(make_job(dataset=dataset, data__batch_size=3), tmp_path / "run")
    assert len(told.of("Step")) == 4
    assert any("64 x 16" in event["text"] for event in told.of("Note"))


def test_a_sample_that_cannot_be_drawn_does_not_end_the_run(make_job: Callable, context: Recorder, monkeypatch) -> None:
    import lora_studio.engine.train as module

    def fail(*arguments: Any) -> None:
        raise RuntimeError("no drawing today")

    monkeypatch.setattr(module, "draw_with", fail)
    summary = train(make_job(run__sample_every_epochs=1), context)
    assert summary["steps"] == 4
    assert any("no drawing today" in event["text"] for event in context.of("Note"))


def test_half_precision_trains_and_draws(make_job: Callable, tmp_path: Path) -> None:
    weights, told = trained(
        make_job(run__precision="bf16", run__epochs=1, run__sample_every_epochs=1), tmp_path / "run"
    )
    assert not [note for note in told.of("Note") if note["level"] == "warning"]
    assert len(list((tmp_path / "run/samples").iterdir())) == 2
    assert all(value.dtype == torch.float32 for value in weights.values())


def test_a_full_disk_is_said_and_keeps_what_was_saved(make_job: Callable, tmp_path: Path) -> None:
    config = make_job(run__epochs=3)
    code = (
        "import sys, json, resource, signal, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\nfrom lora_studio.core.jobs import JobContext\n"
        "from lora_studio.core.errors import UserError\n"
        "from lora_studio.engine.config import TrainJob\nfrom lora_studio.engine.train import prepare\n"
        "trainer = prepare(TrainJob.load(json.load(open(sys.argv[1]))), JobContext(Path(sys.argv[2])))\n"
        "for step in range(2): trainer.train_step()\n"
        "trainer.end_epoch(1)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))\n"
        "for save in (lambda: trainer.save_checkpoint('-x'), trainer.save_state):\n"
        "    trainer.step += 1\n"
        "    try: save()\n"
        "    except UserError as error: print(error.message)\n"
        "    else: raise SystemExit('was saved')\n"
    )
    (tmp_path / "job.json").write_text(json.dumps(config))
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", code, str(tmp_path / "job.json"), str(tmp_path / "run")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "zorbi-x.safetensors" in out and "state of step 4" in out
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["zorbi-000001.safetensors"]
    assert [path.name for path in (tmp_path / "run/state").iterdir()] == ["00000002"]
    _, told = trained({**config, "resume": True}, tmp_path / "run")
    assert told.of("Step")[0]["step"] == 3


# --- metadata ---------------------------------------------------------------------------------------------------


def test_the_file_tells_the_truth_and_nothing_private(make_job: Callable, tmp_path: Path) -> None:
    trained(make_job(data__repeats=2), tmp_path / "run")
    path = tmp_path / "run/checkpoints/zorbi-000002.safetensors"
    with safe_open(path, "pt") as file:
        told = file.metadata()
    wanted = {
        "ss_network_dim": "2", "ss_network_alpha": "1.0", "ss_network_module": "networks.lora",
        "ss_base_model_version": "sd_v1_v", "ss_unet_lr": "0.0005", "ss_text_encoder_lr": "0.0001",
        "ss_num_train_images": "8", "ss_epoch": "2", "ss_steps": "8", "ss_max_train_steps": "8", "ss_seed": "42",
        "ss_resolution": "(32, 32)", "ss_output_name": "zorbi",
        "ss_sd_model_name": "starter", "modelspec.trigger_phrase": "zorbi",
        "modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.prediction_type": "v",
        "modelspec.resolution": "32x32",
    }  # fmt: skip
    assert {name: told.get(name) for name in wanted} == wanted
    tags = json.loads(told["ss_tag_frequency"])
    assert tags == {"2_zorbi": {"zorbi": 4, "blue hair": 4, "smile": 4, "red 0": 1, "red 1": 1, "red 2": 1, "red 3": 1}}
    assert json.loads(told["ss_dataset_dirs"]) == {"2_zorbi": {"n_repeats": 2, "img_count": 4}}
    assert str(tmp_path) not in json.dumps(told) and os.environ.get("USER", "~no user~") not in told.values()
    assert "picture-" not in json.dumps(told)


def test_the_hashes_in_a_file_cover_the_weights_only(make_job: Callable, tmp_path: Path) -> None:
    trained(make_job(), tmp_path / "run")
    path = tmp_path / "run/checkpoints/zorbi-000002.safetensors"
    with safe_open(path, "pt") as file:
        told = file.metadata()
    data = path.read_bytes()
    weights = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert told["sshs_model_hash"] == weights and told["modelspec.hash_sha256"] == f"0x{weights}"
    plain = save(load_file(path), {name: text for name, text in told.items() if name.startswith("ss_")})
    assert told["sshs_legacy_hash"] == hashlib.sha256(plain[0x100000:0x110000]).hexdigest()[:8]


def test_nothing_learned_is_told_on_the_way_and_an_error_at_the_end(make_job: Callable, tmp_path: Path) -> None:
    told = Recorder(tmp_path / "run")
    tiny = {"optimizer__unet_lr": 1e-12, "optimizer__text_encoder_lr": 0, "optimizer__weight_decay": 0}
    with pytest.raises(UserError, match="not moved any weight"):
        train(make_job(**tiny), told)
    assert [event["step"] for event in told.of("Step")] == [1, 2, 3, 4]
    assert any("Nothing was learned yet after step 2" in note["text"] for note in told.of("Note"))


def test_what_a_killed_run_was_writing_is_cleared_away_when_it_goes_on(make_job: Callable, tmp_path: Path) -> None:
    train(make_job(), StopAfter(tmp_path / "run", 2))
    half = tmp_path / "run/checkpoints/.new-abc.part"
    half.write_bytes(b"half a file")
    trained({**make_job(), "resume": True}, tmp_path / "run")
    assert not half.exists() and len(list((tmp_path / "run/checkpoints").iterdir())) == 2
