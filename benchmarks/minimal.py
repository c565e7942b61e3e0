"""The smallest diffusers + peft loop: the floor that the engine's step is measured against."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import peft
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from benchmarks.bases import PICTURES
from lora_studio.engine.config import TrainConfig

LORA = {"adapter.rank": 8, "adapter.alpha": 4.0}
Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One measurement: a base, a shape and settings."""

    base: str
    resolution: int
    batch: int
    changes: dict[str, Any] = field(default_factory=lambda: dict(LORA))
    trains_text: bool = False

    def config(self) -> TrainConfig:
        """The engine's settings: cached text states unless the text part is trained, no saving on the way."""
        return TrainConfig().with_changes(
            {
                "data.resolution": self.resolution, "data.batch_size": self.batch, "data.shuffle_tags": False,
                "data.bucket_min": min(256, self.resolution), "data.bucket_step": min(64, self.resolution),
                "data.bucket_max": max(1024, self.resolution), "schedule.kind": "constant", "schedule.warmup": 0.0,
                "optimizer.text_encoder_lr": 1e-4 if self.trains_text else 0.0, "run.epochs": 10_000,
                "run.save_every_epochs": 0, "run.sample_every_epochs": 0,
            } | self.changes
        )  # fmt: skip


def minimal(case: Case, base: str, plan: dict[str, Any]) -> Step:
    """The loop that everybody writes first; `plan` names device, number format and layers as the engine chose them."""
    device, dtype, kind = torch.device(plan["device"]), getattr(torch, plan["dtype"]), case.config().adapter.kind
    unet = UNet2DConditionModel.from_pretrained(Path(base) / "unet", torch_dtype=dtype).requires_grad_(False).to(device)
    networks: dict[str, torch.nn.Module] = {"unet": unet}
    if case.trains_text:
        encoder = CLIPTextModel.from_pretrained(Path(base) / "text_encoder", torch_dtype=dtype)
        networks["text_encoder"] = encoder.requires_grad_(False).to(device)
    adapter = case.config().adapter
    for part, network in networks.items():
        common = {"r": adapter.rank, "target_modules": plan["layers"][part]}
        if kind == "lokr":
            config = peft.LoKrConfig(alpha=adapter.alpha, decompose_factor=adapter.factor, **common)
        else:
            config = peft.LoraConfig(lora_alpha=adapter.alpha, use_dora=kind == "dora", **common)
        peft.inject_adapter_in_model(config, network.train())
    trained = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    half = torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()
    side, width = case.resolution // plan["factor"], unet.config.cross_attention_dim
    latents = torch.randn(PICTURES, unet.config.in_channels, side, side, device=device)
    told: dict[str, Any] = {}
    if unet.config.addition_embed_type == "text_time":
        ids = torch.tensor([[case.resolution, case.resolution, 0, 0, case.resolution, case.resolution]] * case.batch)
        pooled = torch.randn(case.batch, 1280, device=device, dtype=dtype)
        told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids.to(device)}

    def step() -> float:
        clean = latents[torch.randint(0, PICTURES, (case.batch,))]
        noise, timesteps = torch.randn_like(clean), torch.randint(0, 1000, (case.batch,), device=device)
        signal = (1 - timesteps / 1000).view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        with half:
            if case.trains_text:
                tokens = torch.randint(0, 1000, (case.batch, 77), device=device)
                states = networks["text_encoder"](tokens).last_hidden_state
            else:
                states = torch.randn(case.batch, 77, width, device=device, dtype=dtype)
            answer = unet(noisy.to(dtype), timesteps, states, **told).sample
        loss = F.mse_loss(answer.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step
