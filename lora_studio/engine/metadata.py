"""What a LoRA file says of itself: the ss_* entries that other programs read, and modelspec. Only what is true.

Nothing private goes in: no paths, no user name; file names of pictures only as counts and tags.
"""

import json
import time
import uuid
from collections import Counter
from datetime import datetime
from pathlib import PurePath

from lora_studio.core import captions
from lora_studio.engine.buckets import StepPlan
from lora_studio.engine.config import TrainJob
from lora_studio.engine.data import Picture
from lora_studio.engine.families.base import Family


def base_metadata(
    job: TrainJob, family: Family, plan: StepPlan, pictures: list[Picture], precision: str
) -> dict[str, str]:
    """Entries that stay the same over the run."""
    config = job.settings
    data, run, optimizer = config.data, config.run, config.optimizer
    folder = f"{data.repeats}_{job.trigger or job.name}"
    counts = Counter(tag for picture in pictures for tag in captions.split(picture.caption))
    tags = dict(counts.most_common())
    shapes = {
        str(index): {"resolution": list(size), "count": count}
        for index, (size, count) in enumerate(plan.buckets.items())
    }
    optimizer_name = f"torch.optim.adamw.AdamW(weight_decay={optimizer.weight_decay},betas={tuple(optimizer.betas)})"
    values: dict[str, object] = {
        "ss_session_id": uuid.uuid4().int % 2**32,
        "ss_training_started_at": time.time(),
        "ss_output_name": job.name,
        "ss_learning_rate": optimizer.unet_lr,
        "ss_unet_lr": optimizer.unet_lr,
        "ss_text_encoder_lr": optimizer.text_encoder_lr,
        "ss_num_train_images": plan.samples,
        "ss_num_validation_images": plan.held_out,
        "ss_num_reg_images": 0,
        "ss_num_batches_per_epoch": plan.batches_per_epoch,
        "ss_num_epochs": plan.epochs,
        "ss_max_train_steps": plan.steps,
        "ss_batch_size_per_device": data.batch_size,
        "ss_total_batch_size": data.batch_size * run.gradient_accumulation,
        "ss_gradient_checkpointing": run.gradient_checkpointing,
        "ss_gradient_accumulation_steps": run.gradient_accumulation,
        "ss_lr_warmup_steps": round(plan.steps * config.schedule.warmup),
        "ss_lr_scheduler": config.schedule.kind,
        "ss_network_module": "networks.lora",
        "ss_network_dim": config.adapter.rank,
        "ss_network_alpha": config.adapter.alpha,
        "ss_network_dropout": config.adapter.dropout or None,
        "ss_mixed_precision": {"fp32": "no"}.get(precision, precision),
        "ss_full_fp16": False,
        "ss_clip_skip": run.clip_skip if run.clip_skip > 1 else None,
        "ss_cache_latents": True,
        "ss_seed": run.seed,
        "ss_noise_offset": config.objective.noise_offset or None,
        "ss_min_snr_gamma": config.objective.min_snr_gamma or None,
        "ss_optimizer": optimizer_name,
        "ss_max_grad_norm": optimizer.max_grad_norm,
        "ss_caption_dropout_rate": data.caption_dropout,
        "ss_caption_tag_dropout_rate": data.tag_dropout,
        "ss_shuffle_caption": data.shuffle_tags,
        "ss_keep_tokens": data.keep_tokens,
        "ss_flip_aug": data.flip,
        "ss_color_aug": False,
        "ss_random_crop": False,
        "ss_resolution": f"({data.resolution}, {data.resolution})",
        "ss_enable_bucket": True,
        "ss_bucket_no_upscale": data.no_upscale,
        "ss_min_bucket_reso": data.bucket_min,
        "ss_max_bucket_reso": data.bucket_max,
        "ss_bucket_info": json.dumps({"buckets": shapes}),
        "ss_tag_frequency": json.dumps({folder: tags}),
        "ss_dataset_dirs": json.dumps({folder: {"n_repeats": data.repeats, "img_count": plan.images}}),
        "ss_reg_dataset_dirs": "{}",
        "ss_loss_type": "l2",
        "ss_v2": False,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": job.name,
        "modelspec.resolution": f"{data.resolution}x{data.resolution}",
        "modelspec.encoder_layer": run.clip_skip if run.clip_skip > 1 else None,
    }
    if config.adapter.layers == "all":
        values["ss_network_args"] = json.dumps({"conv_dim": config.adapter.rank, "conv_alpha": config.adapter.alpha})
    if job.trigger:
        values["modelspec.trigger_phrase"] = job.trigger
    values |= family.metadata() | {"ss_sd_model_name": PurePath(config.base.model).name}
    optional = {"modelspec.encoder_layer"}  # sd-scripts writes the text None for its own entries
    return {name: str(value) for name, value in values.items() if value is not None or name not in optional}


def at_save(step: int, epoch: int) -> dict[str, str]:
    """Entries of the moment of saving."""
    now = time.time()
    return {
        "ss_steps": str(step),
        "ss_epoch": str(epoch),
        "ss_training_finished_at": str(now),
        "modelspec.date": datetime.fromtimestamp(now).isoformat(timespec="seconds"),
    }
