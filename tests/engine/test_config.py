"""Settings of the engine: documented, bounded, and checked against each other."""

import subprocess
import sys

import pytest

from lora_studio.core.settings import SettingsError, describe
from lora_studio.engine.config import SampleJob, TrainConfig


@pytest.mark.parametrize("info", describe(TrainConfig), ids=lambda info: info.name)
def test_every_setting_says_what_it_does(info) -> None:
    assert len(info.doc) > 20 and info.doc.rstrip().endswith(".")


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"data": {"resolution": 128}}, ["data.bucket_min", "data.resolution"]),
        ({"data": {"resolution": 2048}}, ["data.bucket_max", "data.resolution"]),
        ({"data": {"resolution": 32, "bucket_min": 8}}, ["data.bucket_step"]),
        ({"adapter": {"rnak": 8}}, ["adapter.rnak", "rank"]),
        ({"optimizer": {"betas": [0.9, 1.0]}}, ["betas"]),
        ({"adapter": {"rank": 0}, "optimizer": {"unet_lr": -1}}, ["adapter.rank", "optimizer.unet_lr"]),
    ],
)
def test_what_does_not_fit_is_named_all_at_once(data: dict, named: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        TrainConfig.load(data)
    assert all(name in str(caught.value) for name in named)


def test_settings_survive_a_round_trip() -> None:
    config = TrainConfig().with_changes({"adapter.rank": "16", "sample.prompts": "a,b"})
    assert TrainConfig.load(config.to_dict()) == config and config.adapter.rank == 16
    job = SampleJob(base="x", requests=[{"path": "a.png", "prompt": "b"}])
    assert SampleJob.load(job.to_dict()) == job


def test_the_page_process_gets_no_torch() -> None:
    names = ("config", "detect", "schedules", "buckets", "convert")
    code = ";".join(f"import lora_studio.engine.{name}" for name in names)
    code += ";import sys; assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
