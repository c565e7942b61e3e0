"""Whole configurations, and what the jobs are started with."""

from typing import Any

from pydantic import Field

from lora_studio.core.settings import Settings
from lora_studio.engine.config.adapter import AdapterConfig
from lora_studio.engine.config.data import DataConfig
from lora_studio.engine.config.objective import ObjectiveConfig
from lora_studio.engine.config.optimizer import OptimizerConfig, ScheduleConfig
from lora_studio.engine.config.run import BaseConfig, RunConfig, SampleConfig, SamplerName


class TrainConfig(Settings):
    """Everything that shapes a training."""

    base: BaseConfig = BaseConfig()
    adapter: AdapterConfig = AdapterConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    run: RunConfig = RunConfig()
    sample: SampleConfig = SampleConfig()


MAY_CHANGE = (
    "optimizer.unet_lr", "optimizer.text_encoder_lr", "optimizer.text_encoder_2_lr", "optimizer.weight_decay",
    "optimizer.max_grad_norm", "optimizer.d_coef", "schedule.", "objective.", "run.epochs", "run.save_every_epochs",
    "run.sample_every_epochs", "run.save_precision", "run.keep_states", "run.gradient_checkpointing",
    "run.offload_blocks", "run.compile", "run.devices", "run.shard", "run.cache_gb", "data.caption_dropout",
    "data.tag_dropout", "sample.",
)  # fmt: skip
"""Settings (or sections) that a resumed run may have other than before. What the rest says is in what was learned: the
adapter's shape, the order of the pictures, the base."""


def changed_settings(before: TrainConfig, now: TrainConfig) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
    """What differs: (old, new) by name, and the names among them that a resumed run must not change. A rate that was 0
    or becomes 0 is one of these: its part has no adapter, or would lose it."""
    old, new = (
        {f"{part}.{name}": value for part, group in config.to_dict().items() for name, value in group.items()}
        for config in (before, now)
    )
    found = {name: (old[name], value) for name, value in new.items() if old[name] != value}
    refused = [
        name
        for name, (was, is_) in found.items()
        if not name.startswith(MAY_CHANGE) or (name.endswith("_lr") and (was == 0) != (is_ == 0))
    ]
    return found, refused


class TrainJob(Settings):
    """What the training job is started with: the settings and where things lie."""

    settings: TrainConfig
    base: str
    """Path of the base model, or its hub name."""
    dataset: str
    """Path of dataset.json."""
    cache: str
    """Folder of the shared caches."""
    name: str = Field("lora", pattern=r"^[A-Za-z0-9._-]{1,80}$")
    """Start of the checkpoints' file names."""
    trigger: str = ""
    """The word that calls the LoRA; written into the file."""
    description: str = ""
    """What the LoRA shows, in a sentence; written into the file."""
    licence: str = ""
    """Under which it is given away; written into the file."""
    author: str = ""
    """Who makes the LoRA; written into the file."""
    credit: str = ""
    """Whose the pictures are; written into the file."""
    tags: tuple[str, ...] = ()
    """What the file is found by; written into it."""
    world: int = Field(1, ge=1, le=1024)
    """Processes that train together, one a device."""
    resume: bool = False
    """Go on from the newest whole state in the job's folder."""


class SampleRequest(Settings):
    """One picture to draw."""

    path: str
    """Where the PNG goes, absolute or relative to the job's folder. A file that exists is not drawn again."""
    prompt: str
    """What to draw."""
    lora: str | None = None
    """LoRA file; None draws with the bare base."""
    strength: float = Field(1.0, ge=-5, le=5)
    """How strongly the LoRA acts."""
    negative: str = ""
    seed: int = Field(1, ge=0, le=2**31 - 1)
    width: int = Field(512, ge=32, le=4096, multiple_of=8)
    height: int = Field(512, ge=32, le=4096, multiple_of=8)
    num_steps: int = Field(20, ge=1, le=200)
    guidance: float = Field(5.0, ge=0, le=30)
    sampler: SamplerName = "ddim"
    clip_skip: int = Field(1, ge=1, le=11)


class SampleJob(Settings):
    """Pictures to draw with one base and any number of LoRA files."""

    base: str
    """Path of the base model, or its hub name."""
    settings: BaseConfig = BaseConfig()
    """Separate VAE and kind of prediction, as in training."""
    requests: tuple[SampleRequest, ...]
    batch_size: int = Field(4, ge=1, le=64)
    """Pictures drawn at once where they share all but prompt and seed."""
