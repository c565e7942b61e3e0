"""What a LoRA file says of itself: the ss_* entries that other programs read, and modelspec. Only what is true.

The hashes of the weights are added at saving, see convert.hashes.

Nothing private goes in: no paths, no user, no host; pictures only as counts and tags. Entries whose setting is not in
use say None, as sd-scripts writes them.
"""

import contextlib
import hashlib
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from lora_studio.core import captions
from lora_studio.core.errors import UserError
from lora_studio.core.files import sha256_file, write_text
from lora_studio.engine.buckets import Size, StepPlan, resolutions, sample_counts, samples_by_shape
from lora_studio.engine.config import DataConfig, TrainConfig, TrainJob
from lora_studio.engine.data import Picture
from lora_studio.engine.families.base import Family


class Network(Protocol):
    """What an adapter says of its make, in sd-scripts' words."""

    network_module: str
    network_args: Mapping[str, Any]


def base_metadata(
    job: TrainJob,
    family: Family,
    plan: StepPlan,
    pictures: Sequence[Picture],
    precision: str,
    adapter: Network | None = None,
    world: int = 1,
) -> dict[str, str]:
    """Entries that stay the same over the run; `pictures` are those trained on, `world` the number of processes."""
    config = job.settings
    told = family.metadata()
    values: dict[str, object] = {
        "ss_v2": told.get("ss_base_model_version", "").startswith("sd_v2"),
        **told,
        **_run_entries(job, plan, precision, world),
        **rate_entries(config, plan, getattr(family, "text_parts", ("text_encoder",))),
        **_network_entries(config, adapter),
        **_objective_entries(config),
        **_data_entries(job, plan, pictures),
        **_model_entries(job),
        **_modelspec_entries(job),
    }
    return {name: str(value) for name, value in values.items() if value is not OMITTED}


OMITTED = object()
"""Of an entry that is left out when it does not apply; None is written as a word."""


def _run_entries(job: TrainJob, plan: StepPlan, precision: str, world: int) -> dict[str, object]:
    config = job.settings
    data, run = config.data, config.run
    return {
        "ss_session_id": uuid.uuid4().int % 2**32,
        "ss_training_started_at": time.time(),
        "ss_output_name": job.name,
        "ss_num_batches_per_epoch": plan.batches_per_epoch,
        "ss_num_epochs": plan.epochs,
        "ss_max_train_steps": plan.steps,
        "ss_batch_size_per_device": data.batch_size,
        "ss_total_batch_size": data.batch_size * run.gradient_accumulation * world,
        "ss_gradient_checkpointing": run.gradient_checkpointing != "off",
        "ss_gradient_accumulation_steps": run.gradient_accumulation,
        "ss_mixed_precision": {"fp32": "no"}.get(precision, precision),
        "ss_full_fp16": False,
        "ss_fp8_base": False,
        "ss_fp8_base_unet": run.quantize == "fp8",
        "ss_clip_skip": run.clip_skip if run.clip_skip > 1 else None,
        "ss_max_token_length": data.max_tokens if data.max_tokens > 75 else None,
        "ss_cache_latents": True,
        "ss_lowram": False,
        "ss_seed": run.seed,
        "ss_validation_seed": None,
        "ss_validation_split": run.validation_share,
        "ss_max_validation_steps": None,
        "ss_validate_every_n_epochs": None,
        "ss_validate_every_n_steps": None,
        "ss_training_comment": None,
        "ss_sd_scripts_commit_hash": None,
    }


OPTIMIZERS = {
    "adamw": "torch.optim.adamw.AdamW", "adamw8bit": "AdamW8bit", "adafactor": "Adafactor", "lion": "Lion",
    "came": "CAME", "prodigy": "Prodigy", "schedulefree_adamw": "AdamWScheduleFree",
    "schedulefree_prodigy": "ProdigyScheduleFree", "stable_adamw": "StableAdamW", "muon": "Muon",
}  # fmt: skip
"""Names that readers of these files know."""


def optimizer_words(config: TrainConfig) -> str:
    """The optimizer as `name(argument=value,...)`."""
    optimizer = config.optimizer
    arguments = [f"weight_decay={optimizer.weight_decay}"]
    if optimizer.kind != "adafactor":
        arguments.append(f"betas={tuple(optimizer.betas)}")
    if "prodigy" in optimizer.kind:
        arguments.append(f"d_coef={optimizer.d_coef}")
    if optimizer.lora_plus_ratio > 1:
        arguments.append(f"loraplus_lr_ratio={optimizer.lora_plus_ratio}")
    return f"{OPTIMIZERS[optimizer.kind]}({','.join(arguments)})"


def rate_entries(config: TrainConfig, plan: StepPlan, text_parts: Sequence[str]) -> dict[str, object]:
    """Learning rates, schedule and optimizer; with two text encoders (SDXL) their rates are a list."""
    optimizer, schedule = config.optimizer, config.schedule
    rates = [optimizer.text_encoder_lr, optimizer.text_encoder_2_lr][: len(text_parts)]
    return {
        "ss_learning_rate": optimizer.unet_lr,
        "ss_unet_lr": optimizer.unet_lr,
        "ss_text_encoder_lr": rates if len(rates) > 1 else optimizer.text_encoder_lr,
        "ss_lr_warmup_steps": schedule.warmup_steps or round(plan.steps * schedule.warmup),
        "ss_lr_scheduler": schedule.kind,
        "ss_optimizer": optimizer_words(config),
        "ss_max_grad_norm": optimizer.max_grad_norm,
    }


def _network_entries(config: TrainConfig, adapter: Network | None) -> dict[str, object]:
    """Module, size and arguments; an adapter knows its own make, and its size in the file where that differs."""
    chosen = config.adapter
    if adapter is not None:
        arguments = dict(adapter.network_args)
    elif chosen.layers == "all":
        arguments = {"conv_dim": chosen.conv_rank or chosen.rank, "conv_alpha": chosen.conv_alpha or chosen.alpha}
    else:
        arguments = {}
    return {
        "ss_network_module": adapter.network_module if adapter is not None else "networks.lora",
        "ss_network_dim": getattr(adapter, "network_dim", chosen.rank),
        "ss_network_alpha": getattr(adapter, "network_alpha", chosen.alpha),
        "ss_network_dropout": chosen.dropout or None,
        "ss_network_args": json.dumps(arguments) if arguments else OMITTED,
        "ss_scale_weight_norms": None,
    }


def _objective_entries(config: TrainConfig) -> dict[str, object]:
    objective = config.objective
    robust = objective.loss != "l2"
    min_snr = objective.min_snr_gamma if objective.weighting == "min_snr" else 0
    return {
        "ss_noise_offset": objective.noise_offset or None,
        "ss_noise_offset_random_strength": False,
        "ss_adaptive_noise_scale": None,
        "ss_multires_noise_iterations": objective.multires_iterations or None,
        "ss_multires_noise_discount": objective.multires_discount if objective.multires_iterations else None,
        "ss_ip_noise_gamma": objective.input_perturbation or None,
        "ss_ip_noise_gamma_random_strength": False,
        "ss_min_snr_gamma": min_snr or None,
        "ss_debiased_estimation": objective.weighting == "debiased",
        "ss_loss_type": objective.loss,
        "ss_huber_schedule": objective.huber_schedule if robust else None,
        "ss_huber_scale": 1.0 if robust else None,
        "ss_huber_c": objective.huber_c if robust else None,
        "ss_prior_loss_weight": objective.prior_weight,
    }


# --- pictures ---------------------------------------------------------------------------------------------------


def _data_entries(job: TrainJob, plan: StepPlan, pictures: Sequence[Picture]) -> dict[str, object]:
    data = job.settings.data
    folders = _folders(job, pictures)
    sides = resolutions(data)
    datasets = [_dataset(job, side, pictures, folders) for side in sides]
    return {
        "ss_num_train_images": plan.samples,
        "ss_num_reg_images": sum(dataset["num_reg_images"] for dataset in datasets),
        "ss_num_validation_images": plan.held_out,
        "ss_caption_dropout_rate": data.caption_dropout,
        "ss_caption_dropout_every_n_epochs": 0,
        "ss_caption_tag_dropout_rate": data.tag_dropout,
        "ss_shuffle_caption": data.shuffle_tags,
        "ss_keep_tokens": data.keep_tokens,
        "ss_flip_aug": data.flip,
        "ss_color_aug": data.color_jitter > 0,
        "ss_random_crop": data.random_crop,
        "ss_face_crop_aug_range": None,
        "ss_resize_interpolation": None,
        "ss_resolution": f"({data.resolution}, {data.resolution})",
        "ss_enable_bucket": True,
        "ss_bucket_no_upscale": data.no_upscale,
        "ss_min_bucket_reso": data.bucket_min,
        "ss_max_bucket_reso": data.bucket_max,
        "ss_bucket_info": json.dumps(_bucket_info(plan.buckets)),
        "ss_tag_frequency": json.dumps({folder.name: _tags(folder.pictures, data) for folder in folders}),
        "ss_dataset_dirs": json.dumps(_dirs([folder for folder in folders if not folder.extra], len(sides))),
        "ss_reg_dataset_dirs": json.dumps(_dirs([folder for folder in folders if folder.extra], len(sides))),
        "ss_datasets": json.dumps(datasets),
    }


@dataclass
class Folder:
    """Pictures as sd-scripts would have them in a folder of their own."""

    name: str
    """Such as `10_zorbi`, `1_regularization`."""
    repeats: int
    extra: bool
    """Whether they are regularisation pictures."""
    pictures: list[Picture]


def _folders(job: TrainJob, pictures: Sequence[Picture]) -> list[Folder]:
    folders: dict[str, Folder] = {}
    for picture, repeats in zip(pictures, _repeats(job, pictures), strict=True):
        word = "regularization" if picture.regularization else job.trigger or job.name
        name = f"{repeats}_{word}"
        folder = folders.setdefault(name, Folder(name, repeats, picture.regularization, []))
        folder.pictures.append(picture)
    return list(folders.values())


def _repeats(job: TrainJob, pictures: Sequence[Picture]) -> list[int]:
    """How often each comes up in an epoch at each size; regularisation pictures are dealt out to match, so 1."""
    own = sample_counts([(p.repeats, p.caption, p.prose) for p in pictures if not p.regularization], job.settings.data)
    counts = iter(own)
    return [1 if picture.regularization else next(counts) for picture in pictures]


def _dirs(folders: Sequence[Folder], datasets: int) -> dict[str, dict[str, int]]:
    """Each folder once for each dataset (resolution), so that the counts add up; sd-scripts numbers them so too."""
    return {
        folder.name + (f" ({number})" if number > 1 else ""): _counts(folder)
        for number in range(1, datasets + 1)
        for folder in folders
    }


def _counts(folder: Folder) -> dict[str, int]:
    return {"n_repeats": folder.repeats, "img_count": len(folder.pictures)}


def _tags(pictures: Sequence[Picture], config: DataConfig) -> dict[str, int]:
    """In how many pictures each tag can come up. Sentences hold no tags; of pictures with nothing else it is the
    trigger."""
    found: Counter[str] = Counter()
    for picture in pictures:
        shown = [one.tags or one.trigger for one in picture.words.alternatives(config)]
        found.update(captions.unique(tag for text in shown for tag in captions.split(text)))
    return dict(found.most_common())


def _bucket_info(buckets: Mapping[Size, int]) -> dict[str, Any]:
    sizes = enumerate(sorted(buckets.items()))
    return {"buckets": {str(index): {"resolution": list(size), "count": count} for index, (size, count) in sizes}}


def _dataset(job: TrainJob, side: int, pictures: Sequence[Picture], folders: Sequence[Folder]) -> dict[str, Any]:
    """The set at one resolution as sd-scripts describes one of its datasets; a subset for each number of repeats."""
    data = job.settings.data
    own, extra = ([picture.size for picture in pictures if picture.regularization == kind] for kind in (False, True))
    repeats = [times for p, times in zip(pictures, _repeats(job, pictures), strict=True) if not p.regularization]
    common = {
        "color_aug": data.color_jitter > 0,
        "flip_aug": data.flip,
        "random_crop": data.random_crop,
        "shuffle_caption": data.shuffle_tags,
        "keep_tokens": data.keep_tokens,
        "keep_tokens_separator": None,
        "secondary_separator": None,
        "enable_wildcard": data.wildcards,
        "caption_prefix": None,
        "caption_suffix": None,
        "resize_interpolation": None,
    }
    subsets = [
        {
            "img_count": len(folder.pictures),
            "num_repeats": folder.repeats,
            **common,
            "image_dir": folder.name,
            "class_tokens": None if folder.extra else job.trigger or None,
            "is_reg": folder.extra,
        }
        for folder in folders
    ]
    return {
        "is_dreambooth": True,
        "batch_size_per_device": data.batch_size,
        "num_train_images": sum(repeats),
        "num_reg_images": len(extra),
        "resolution": [side, side],
        "enable_bucket": True,
        "min_bucket_reso": data.bucket_min * side // data.resolution,
        "max_bucket_reso": data.bucket_max * side // data.resolution,
        "tag_frequency": {folder.name: _tags(folder.pictures, data) for folder in folders},
        "bucket_info": _bucket_info(samples_by_shape(side, own, repeats, extra, data)),
        "resize_interpolation": None,
        "subsets": subsets,
    }


# --- the base ---------------------------------------------------------------------------------------------------


def _model_entries(job: TrainJob) -> dict[str, object]:
    """Name of the base and, of single files, its two hashes; the same of a separate VAE."""
    base, vae = Path(job.base), job.settings.base.vae
    old, new = _hashes(base, Path(job.cache))
    entries: dict[str, object] = {
        "ss_sd_model_name": last_name(job.settings.base.model),
        "ss_sd_model_hash": old,
        "ss_new_sd_model_hash": new,
    }
    if vae:
        old, new = _hashes(Path(vae).expanduser(), Path(job.cache))
        entries |= {"ss_vae_name": last_name(vae), "ss_vae_hash": old, "ss_new_vae_hash": new}
    return entries


def last_name(path: str) -> str:
    """The last piece of a path of any system, so that no folder (and no user's name) is told."""
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1]


def legacy_hash(path: Path) -> str:
    """The short hash of old: 8 digits of the SHA-256 of 64 KiB at 1 MiB."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def _hashes(path: Path, cache: Path) -> tuple[object, object]:
    """Short and full hash of a file; folders have none. The full one is remembered until the file changes."""
    if not path.is_file():
        return OMITTED, OMITTED
    stat = path.stat()
    key, known = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}", _known(cache / "hashes.json")
    full = known.get(key)
    if not isinstance(full, str):
        full = known[key] = sha256_file(path)
        with contextlib.suppress(UserError):  # the hash is right all the same, and next time is computed anew
            write_text(cache / "hashes.json", json.dumps(known))
    return legacy_hash(path), full


def _known(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _modelspec_entries(job: TrainJob) -> dict[str, object]:
    config = job.settings
    data, run, objective = config.data, config.run, config.objective
    credit = job.credit and f"Pictures: {job.credit}"
    limited = (objective.timestep_min, objective.timestep_max) != (0, 1000)
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": job.name,
        "modelspec.resolution": f"{data.resolution}x{data.resolution}",
        "modelspec.encoder_layer": run.clip_skip if run.clip_skip > 1 else OMITTED,
        "modelspec.trigger_phrase": job.trigger or OMITTED,
        "modelspec.author": job.author or OMITTED,
        "modelspec.description": "\n".join(filter(None, [job.description, credit])) or OMITTED,
        "modelspec.tags": ", ".join(job.tags) or OMITTED,
        "modelspec.license": job.licence or OMITTED,
        "modelspec.timestep_range": f"{objective.timestep_min},{objective.timestep_max}" if limited else OMITTED,
        # no other trainer tells it, so there is no name that readers know
        "lora_studio_ema_decay": run.ema_decay or OMITTED,
    }


def at_save(step: int, epoch: int) -> dict[str, str]:
    """Entries of the moment of saving."""
    now = time.time()
    return {
        "ss_steps": str(step),
        "ss_epoch": str(epoch),
        "ss_training_finished_at": str(now),
        "modelspec.date": datetime.fromtimestamp(now).isoformat(timespec="seconds"),
    }
