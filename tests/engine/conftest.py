"""Tiny bases, made once, and a training job in a line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_studio.core.jobs import JobContext
from lora_studio.engine.config import BaseConfig, TrainConfig, TrainJob
from lora_studio.engine.families.latent import LatentFamily
from lora_studio.engine.families.sd import StableDiffusion, StableDiffusion2
from lora_studio.engine.families.sdxl import StableDiffusionXL
from tests.tiny import EPSILON, VELOCITY, make_base, make_dataset, make_sd2_base, make_sdxl_base

SMALL: dict[str, dict[str, Any]] = {
    "data": {"resolution": 32, "bucket_min": 16, "bucket_max": 64, "bucket_step": 8},
    "run": {"epochs": 2, "sample_every_epochs": 0},
    "adapter": {"rank": 2, "alpha": 1.0},
    "sample": {"num_steps": 2},
    "schedule": {"kind": "constant", "warmup": 0.0},
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base with v-prediction and zero terminal SNR, as the starter."""
    return make_base(tmp_path_factory.mktemp("bases") / "velocity", **VELOCITY)


@pytest.fixture(scope="session")
def epsilon_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base with epsilon-prediction, as SD 1.5."""
    return make_base(tmp_path_factory.mktemp("bases") / "epsilon", **EPSILON)


@pytest.fixture(scope="session")
def sd2_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base as SD 2.1: v-prediction without zero terminal SNR."""
    return make_sd2_base(tmp_path_factory.mktemp("bases") / "sd2")


@pytest.fixture(scope="session")
def sdxl_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base as SDXL 1.0: epsilon-prediction."""
    return make_sdxl_base(tmp_path_factory.mktemp("bases") / "sdxl", **EPSILON)


@pytest.fixture(scope="session")
def sdxl_velocity_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base as NoobAI's v-pred: SDXL with v-prediction and zero terminal SNR."""
    return make_sdxl_base(tmp_path_factory.mktemp("bases") / "sdxl-velocity", **VELOCITY)


KINDS: dict[str, type[LatentFamily]] = {
    "base": StableDiffusion,
    "epsilon_base": StableDiffusion,
    "sd2_base": StableDiffusion2,
    "sdxl_base": StableDiffusionXL,
    "sdxl_velocity_base": StableDiffusionXL,
}
"""The tiny bases by the name of their fixture, with the family that reads them."""


@pytest.fixture
def open_base(request: pytest.FixtureRequest) -> Callable[..., LatentFamily]:
    """Opens a tiny base by its name in KINDS, with the settings of BaseConfig as keywords."""

    def load(kind: str, **settings: Any) -> LatentFamily:
        path = request.getfixturevalue(kind)
        return KINDS[kind].load(path, torch.device("cpu"), torch.float32, BaseConfig(**settings))

    return load


def settings(**changes: Any) -> TrainConfig:
    """Small settings with changes written as section__name=value."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return TrainConfig.load(SMALL).with_changes(dotted)


@pytest.fixture
def make_job(base: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The config of a training job on four small pictures; settings as section__name=value."""

    def make(dataset: Path | None = None, model: Path | None = None, **changes: Any) -> dict[str, Any]:
        return TrainJob(
            settings=settings(**changes),
            base=str(model or base),
            dataset=str(dataset or make_dataset(tmp_path / "data")),
            cache=str(tmp_path / "cache"),
            name="zorbi",
            trigger="zorbi",
        ).to_dict()

    return make


class Recorder(JobContext):
    """A job's context that also keeps what is reported."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.events: list[dict[str, Any]] = []
        super().__init__(folder, self.events.append)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Reported events of one kind."""
        return [event for event in self.events if event["event"] == kind]


@pytest.fixture
def context(tmp_path: Path) -> Recorder:
    """The context of a job in `run`."""
    return Recorder(tmp_path / "run")
