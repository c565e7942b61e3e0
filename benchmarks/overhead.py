"""Engine overhead: seconds per step of the engine against the smallest diffusers + peft loop, in one process.

    python -m benchmarks.overhead [--steps 60]

Both train the same LoRA layers of the same base on the same latents and captions with the same optimizer, and take
turns step by step, so that other work on the machine slows both alike. The minimal loop has no bucketing, no shuffled
captions, no records and no checks.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.common import machine, markdown, save
from lora_studio.core import paths
from lora_studio.core.jobs import JobContext
from lora_studio.engine.adapters import Adapter
from lora_studio.engine.config import TrainJob
from lora_studio.engine.families import open_family
from lora_studio.engine.train import prepare
from lora_studio.engine.trainer import Trainer
from lora_studio.steps import conception, gathering, tagging, training


def engine(folder: Path) -> Trainer:
    """The engine before its first step, on the character sample."""
    project = conception.from_sample(folder, "character")
    gathering.gather(project, [conception.sample("character").pictures])
    tagging.add_tags(project, [image.id for image in project.images()], ["zorbi", "voxel art", "smile", "red shirt"])
    config = training.recommended(project)
    run = project.new_folder("runs", "overhead")
    (run / "dataset.json").write_text(json.dumps(training.snapshot(project)), "utf-8")
    job = TrainJob(
        settings=config,
        base=paths.resolve_base("starter"),
        dataset=str(run / "dataset.json"),
        cache=str(folder / "cache"),
        name="overhead",
        trigger="zorbi",
    )
    return prepare(job, JobContext(run))


def minimal(trainer: Trainer) -> Callable[[], float]:
    """One step of the loop that everybody writes first; a base of its own, the engine's layers, rates and latents."""
    config = trainer.config
    family = open_family(trainer.family.path, trainer.family.device, trainer.family.dtype)
    adapter = Adapter(family, config.adapter, config.optimizer.text_encoder_lr > 0, config.run.seed)
    family.network.train()
    rates = {"unet": config.optimizer.unet_lr, "text_encoder": config.optimizer.text_encoder_lr}
    groups = [{"params": parameters, "lr": rates[name]} for name, parameters in adapter.groups.items()]
    optimizer = torch.optim.AdamW(groups)
    scheduler, tokenizer = family.scheduler, family.tokenizer
    latents = torch.stack(list(trainer.latents.values()))
    captions = [picture.caption for picture in trainer.sampler.training]
    size = config.data.batch_size

    def step() -> float:
        picked = torch.randint(0, len(captions), (size,))
        clean = latents[picked % len(latents)]
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (size,))
        noisy = scheduler.add_noise(clean, noise, timesteps)
        target = scheduler.get_velocity(clean, noise, timesteps)
        tokens = tokenizer(
            [captions[index] for index in picked], padding="max_length", truncation=True, return_tensors="pt"
        )
        states = family.text_network(tokens.input_ids).last_hidden_state
        loss = F.mse_loss(family.network(noisy, timesteps, states).sample, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def clock(step: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--steps", type=int, default=60)
    words.add_argument("--threads", type=int, default=1)
    chosen = words.parse_args()
    torch.set_num_threads(chosen.threads)
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        trainer = engine(Path(folder))
        contenders = {"engine": trainer.train_step, "minimal loop": minimal(trainer)}
        for step in contenders.values():
            for _ in range(3):  # the first steps allocate
                step()
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for turn in range(chosen.steps):
            for name in sorted(contenders, reverse=bool(turn % 2)):
                times[name].append(clock(contenders[name]))
    rows, found = [], {}
    for name, pairs in times.items():
        wall, cpu = (sorted(column) for column in zip(*pairs, strict=True))
        found[name] = {
            "wall": statistics.median(wall),
            "cpu": statistics.median(cpu),
            "cpu_min": cpu[0],
            "cpu_max": cpu[-1],
        }
        rows.append([name, *(f"{value:.4f}" for value in found[name].values())])
    ratios = sorted(a[1] / b[1] for a, b in zip(times["engine"], times["minimal loop"], strict=True))
    found["ratio"] = statistics.median(ratios)
    table = markdown(["loop", "wall s/step (median)", "cpu s/step (median)", "least", "most"], rows)
    text = (
        f"{chosen.steps} steps each, taking turns, {chosen.threads} thread(s), starter base, batch "
        f"{trainer.config.data.batch_size}, {trainer.config.data.resolution} px, text encoder trained. "
        f"Processor time of the engine over that of the minimal loop, step by step: median {found['ratio']:.3f} "
        f"(quartiles {ratios[len(ratios) // 4]:.3f} to {ratios[3 * len(ratios) // 4]:.3f})."
    )
    save(
        "overhead", {"machine": before, "steps": chosen.steps, "threads": chosen.threads, **found}, f"{table}\n\n{text}"
    )


if __name__ == "__main__":
    main()
