"""What a LoRA file says of itself: everything sd-scripts writes, true, and nothing private."""

import getpass
import hashlib
import json
import math
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import pytest
import torch

from lora_studio.engine.buckets import steps_for
from lora_studio.engine.config import TrainConfig, TrainJob
from lora_studio.engine.data import plan_for, read_dataset
from lora_studio.engine.families import open_family
from lora_studio.engine.metadata import at_save, base_metadata, last_name, legacy_hash, rate_entries
from tests.tiny import make_dataset

ALWAYS = """
session_id training_started_at output_name learning_rate text_encoder_lr unet_lr num_train_images
num_validation_images num_reg_images num_batches_per_epoch num_epochs gradient_checkpointing
gradient_accumulation_steps max_train_steps lr_warmup_steps lr_scheduler network_module network_dim network_alpha
network_dropout mixed_precision full_fp16 v2 base_model_version clip_skip max_token_length cache_latents seed lowram
noise_offset multires_noise_iterations multires_noise_discount adaptive_noise_scale zero_terminal_snr
training_comment sd_scripts_commit_hash optimizer max_grad_norm caption_dropout_rate caption_dropout_every_n_epochs
caption_tag_dropout_rate face_crop_aug_range prior_loss_weight min_snr_gamma scale_weight_norms ip_noise_gamma
debiased_estimation noise_offset_random_strength ip_noise_gamma_random_strength loss_type huber_schedule huber_scale
huber_c fp8_base fp8_base_unet validation_seed validation_split max_validation_steps validate_every_n_epochs
validate_every_n_steps resize_interpolation datasets tag_frequency dataset_dirs batch_size_per_device
total_batch_size resolution color_aug flip_aug random_crop shuffle_caption enable_bucket bucket_no_upscale
min_bucket_reso max_bucket_reso keep_tokens reg_dataset_dirs bucket_info sd_model_name
"""
"""Without ss_, from the list of sd-scripts' entries."""

Told = Callable[..., dict[str, str]]


@pytest.fixture
def told(make_job, base: Path) -> Told:
    """The metadata of a run with these settings."""
    family = open_family(base, torch.device("cpu"), torch.float32)

    def metadata(adapter: Any = None, changes: dict[str, Any] | None = None, **settings: Any) -> dict[str, str]:
        job = TrainJob.load({**make_job(**settings), **(changes or {})})
        pictures = read_dataset(Path(job.dataset), job.settings.data)
        plan = plan_for(pictures, job.settings)
        return base_metadata(job, family, plan, pictures, "fp32", adapter=adapter)

    return metadata


def test_everything_that_sd_scripts_always_writes_is_there(told: Told) -> None:
    found = told()
    assert sorted(name for name in ALWAYS.split() if f"ss_{name}" not in found) == []
    assert all(isinstance(value, str) and value for value in found.values())
    for name in ("sai_model_spec", "architecture", "implementation", "title", "resolution", "prediction_type"):
        assert found[f"modelspec.{name}"]


SETTINGS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {"ss_min_snr_gamma": "5.0", "ss_debiased_estimation": "False", "ss_loss_type": "l2", "ss_huber_c": "None"}),
    ({"objective__weighting": "debiased"}, {"ss_min_snr_gamma": "None", "ss_debiased_estimation": "True"}),
    ({"objective__weighting": "none"}, {"ss_min_snr_gamma": "None", "ss_debiased_estimation": "False"}),
    (
        {"objective__loss": "huber", "objective__huber_c": 0.2, "objective__huber_schedule": "exponential"},
        {"ss_loss_type": "huber", "ss_huber_c": "0.2", "ss_huber_schedule": "exponential", "ss_huber_scale": "1.0"},
    ),
    (
        {"objective__multires_iterations": 6},
        {"ss_multires_noise_iterations": "6", "ss_multires_noise_discount": "0.3"},
    ),
    ({}, {"ss_multires_noise_iterations": "None", "ss_multires_noise_discount": "None", "ss_ip_noise_gamma": "None"}),
    ({"objective__input_perturbation": 0.1}, {"ss_ip_noise_gamma": "0.1"}),
    ({"objective__noise_offset": 0.05}, {"ss_noise_offset": "0.05"}),
    ({"objective__prior_weight": 0.5}, {"ss_prior_loss_weight": "0.5"}),
    ({"objective__timestep_max": 700}, {"modelspec.timestep_range": "0,700"}),
    ({"data__color_jitter": 0.1, "data__random_crop": True}, {"ss_color_aug": "True", "ss_random_crop": "True"}),
    ({"data__max_tokens": 75}, {"ss_max_token_length": "None"}),
    ({"data__max_tokens": 150}, {"ss_max_token_length": "150"}),
    ({"run__clip_skip": 2}, {"ss_clip_skip": "2", "modelspec.encoder_layer": "2"}),
    ({"run__gradient_checkpointing": "selective"}, {"ss_gradient_checkpointing": "True"}),
    ({"run__quantize": "fp8"}, {"ss_fp8_base_unet": "True"}),
    ({"run__gradient_accumulation": 3}, {"ss_total_batch_size": "6"}),
    ({"schedule__warmup_steps": 7}, {"ss_lr_warmup_steps": "7"}),
    ({"schedule__kind": "rex"}, {"ss_lr_scheduler": "rex"}),
    ({}, {"ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.01,betas=(0.9, 0.999))"}),
    ({"optimizer__kind": "prodigy"}, {"ss_optimizer": "Prodigy(weight_decay=0.01,betas=(0.9, 0.999),d_coef=1.0)"}),
    ({"optimizer__kind": "adafactor"}, {"ss_optimizer": "Adafactor(weight_decay=0.01)"}),
    ({"adapter__layers": "all"}, {"ss_network_args": '{"conv_dim": 2, "conv_alpha": 1.0}'}),
    ({"adapter__dropout": 0.1}, {"ss_network_dropout": "0.1"}),
    ({"run__ema_decay": 0.99}, {"lora_studio_ema_decay": "0.99"}),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "entries"), SETTINGS, ids=lambda value: ",".join(value)[:60])
def test_settings_are_told_as_they_are(settings: dict[str, Any], entries: dict[str, str], told: Told) -> None:
    found = told(**settings)
    assert {name: found[name] for name in entries} == entries


def test_the_adapter_tells_its_own_make(told: Told) -> None:
    adapter = SimpleNamespace(network_module="lycoris.kohya", network_args={"algo": "loha"}, network_dim=16)
    found = told(adapter=adapter)
    assert (found["ss_network_module"], found["ss_network_args"]) == ("lycoris.kohya", '{"algo": "loha"}')
    assert found["ss_network_dim"] == "16"


def test_rates_of_two_text_encoders_are_a_list(told: Told) -> None:
    config = TrainConfig.load({"optimizer": {"text_encoder_lr": 6e-5, "text_encoder_2_lr": 3e-5}})
    plan = steps_for([(32, 32, 1)], config)
    assert str(rate_entries(config, plan, ("text_encoder", "text_encoder_2"))["ss_text_encoder_lr"]) == "[6e-05, 3e-05]"
    assert told()["ss_text_encoder_lr"] == "0.0001"


def test_pictures_are_told_by_counts_and_tags_only(told: Told) -> None:
    found = told(data__repeats=3)
    assert json.loads(found["ss_dataset_dirs"]) == {"3_zorbi": {"n_repeats": 3, "img_count": 4}}
    assert json.loads(found["ss_tag_frequency"])["3_zorbi"]["zorbi"] == 4
    [dataset] = json.loads(found["ss_datasets"])
    [subset] = dataset["subsets"]
    assert (subset["img_count"], subset["num_repeats"], subset["image_dir"]) == (4, 3, "3_zorbi")
    assert dataset["num_train_images"] == 12 and found["ss_num_train_images"] == "12"
    counts = [bucket["count"] for bucket in json.loads(found["ss_bucket_info"])["buckets"].values()]
    assert sum(counts) == 12
    assert not any("picture-" in value for value in found.values())


def test_each_resolution_is_a_dataset_of_its_own(told: Told) -> None:
    found = told(data__repeats=3, data__more_resolutions=(48,))
    datasets = json.loads(found["ss_datasets"])
    told_of = [(d["resolution"], d["min_bucket_reso"], d["max_bucket_reso"], d["num_train_images"]) for d in datasets]
    assert told_of == [([32, 32], 16, 64, 12), ([48, 48], 24, 96, 12)]
    for dataset, side in zip(datasets, (32, 48), strict=True):
        buckets = list(dataset["bucket_info"]["buckets"].values())
        assert sum(bucket["count"] for bucket in buckets) == 12
        assert all(side**2 / 2 < math.prod(bucket["resolution"]) <= side**2 for bucket in buckets)
    assert found["ss_num_train_images"] == "24"
    counts = {"n_repeats": 3, "img_count": 4}
    assert json.loads(found["ss_dataset_dirs"]) == {"3_zorbi": counts, "3_zorbi (2)": counts}
    whole = json.loads(found["ss_bucket_info"])["buckets"].values()
    assert sum(bucket["count"] for bucket in whole) == 24


def test_regularisation_pictures_are_counted_apart(told: Told, tmp_path: Path) -> None:
    make_dataset(tmp_path / "others")
    found = told(data__repeats=3, data__regularization=str(tmp_path / "others"))
    assert (found["ss_num_train_images"], found["ss_num_reg_images"]) == ("12", "4")
    assert json.loads(found["ss_dataset_dirs"]) == {"3_zorbi": {"n_repeats": 3, "img_count": 4}}
    assert json.loads(found["ss_reg_dataset_dirs"]) == {"1_regularization": {"n_repeats": 1, "img_count": 4}}
    [dataset] = json.loads(found["ss_datasets"])
    assert [(subset["is_reg"], subset["class_tokens"]) for subset in dataset["subsets"]] == [
        (False, "zorbi"),
        (True, None),
    ]


def test_balanced_pictures_are_told_with_the_repeats_that_they_get(told: Told, tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "uneven")
    entries = json.loads(path.read_text())
    entries["images"][0]["repeats"] = 3
    path.write_text(json.dumps(entries))
    found = told(changes={"dataset": str(path)}, data__balance=("red 0", "red 1"))
    assert json.loads(found["ss_dataset_dirs"]) == {
        "3_zorbi": {"n_repeats": 3, "img_count": 2},
        "1_zorbi": {"n_repeats": 1, "img_count": 2},
    }
    assert found["ss_num_train_images"] == "8"


def test_the_plan_is_told_and_nothing_where_it_says_nothing(told: Told) -> None:
    facts = {"author": "Ada", "description": "A blue imp.", "licence": "CC0-1.0", "tags": ("character", "zorbi")}
    found = told(changes={**facts, "credit": "cutouts by Bo (CC0)"})
    assert found["modelspec.author"] == "Ada" and found["modelspec.license"] == "CC0-1.0"
    assert found["modelspec.tags"] == "character, zorbi"
    assert found["modelspec.description"] == "A blue imp.\nPictures: cutouts by Bo (CC0)"
    silent = told()
    assert not {f"modelspec.{name}" for name in ("author", "license", "tags", "description")} & set(silent)
    assert "lora_studio_ema_decay" not in silent


def test_the_hashes_of_a_base_in_one_file_are_told_and_remembered(told: Told, tmp_path: Path) -> None:
    path = tmp_path / "secret-folder" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(bytes(0x100000) + b"x" * 0x20000)
    changes = {"base": str(path), "cache": str(tmp_path / "cache")}
    found = told(changes=changes, base__model=str(path), base__vae=str(path))
    full = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["ss_sd_model_hash"] == hashlib.sha256(b"x" * 0x10000).hexdigest()[:8] == legacy_hash(path)
    assert found["ss_new_sd_model_hash"] == found["ss_new_vae_hash"] == full
    assert found["ss_sd_model_name"] == found["ss_vae_name"] == "model.safetensors"
    (tmp_path / "cache/hashes.json").write_text((tmp_path / "cache/hashes.json").read_text().replace(full, "0" * 64))
    assert told(changes=changes)["ss_new_sd_model_hash"] == "0" * 64
    path.write_bytes(b"another")
    assert told(changes=changes)["ss_new_sd_model_hash"] == hashlib.sha256(b"another").hexdigest()
    (tmp_path / "cache/hashes.json").write_text("[broken")
    assert told(changes=changes)["ss_new_sd_model_hash"] == hashlib.sha256(b"another").hexdigest()


def test_a_folder_has_no_hash(told: Told) -> None:
    found = told()
    assert "ss_sd_model_hash" not in found and "ss_new_sd_model_hash" not in found and "ss_vae_name" not in found


@pytest.mark.parametrize(
    "path", ["/home/joe/models/x.safetensors", "C:\\Users\\joe\\x.safetensors", "joe/x.safetensors", "x.safetensors/"]
)
def test_only_the_last_name_of_a_path_is_told(path: str) -> None:
    assert last_name(path) == "x.safetensors"


def test_nothing_private_is_told(told: Told, tmp_path: Path) -> None:
    found = told() | at_save(3, 1)
    private = {str(tmp_path), str(Path.home()), socket.gethostname()} | {
        part for part in tmp_path.parts if len(part) > 5
    }
    if len(getpass.getuser()) > 4:
        private.add(getpass.getuser())
    text = json.dumps(found)
    assert [word for word in private if word in text] == []
