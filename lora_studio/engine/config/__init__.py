"""The settings of training and drawing. Each sentence below is what the form, the command line and the docs show.
Imports no torch."""

from lora_studio.engine.config.adapter import AdapterConfig
from lora_studio.engine.config.data import DataConfig
from lora_studio.engine.config.jobs import SampleJob, SampleRequest, TrainConfig, TrainJob, changed_settings
from lora_studio.engine.config.objective import ObjectiveConfig
from lora_studio.engine.config.optimizer import OptimizerConfig, ScheduleConfig
from lora_studio.engine.config.run import BaseConfig, RunConfig, SampleConfig, SamplerName

__all__ = [
    "AdapterConfig",
    "BaseConfig",
    "DataConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "RunConfig",
    "SampleConfig",
    "SampleJob",
    "SampleRequest",
    "SamplerName",
    "ScheduleConfig",
    "TrainConfig",
    "TrainJob",
    "changed_settings",
]
