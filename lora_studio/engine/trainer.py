"""The training loop: one step, validation, saving, resuming. Which model family it is makes no difference here."""

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import JobContext
from lora_studio.core.progress import FileWritten, Note, Phase, Step, Validation
from lora_studio.engine import noise
from lora_studio.engine.adapters import Adapter
from lora_studio.engine.buckets import StepPlan
from lora_studio.engine.cache import TextStates
from lora_studio.engine.checkpoint import save_lora
from lora_studio.engine.config import TrainJob
from lora_studio.engine.data import Picture, Sample, Sampler
from lora_studio.engine.families.base import Family
from lora_studio.engine.metadata import at_save
from lora_studio.engine.optimizers import make_optimizer, set_rate
from lora_studio.engine.schedules import learning_rate
from lora_studio.engine.state import State, restore, save_state

SAVE_DTYPE = torch.float16
STATE_SECONDS = 120  # a kill costs at most about this much work
VALIDATION_PICTURES = 8
VALIDATION_LEVELS = 4  # noise levels each picture is looked at
VALIDATION_STEPS = 20  # at least so many steps between two validations
FP16_SCALE = 1024.0  # lifts small gradients over the smallest half; taken off again before the step


@dataclass
class Trainer:
    """Everything a run needs in the loop, put together by train.py."""

    job: TrainJob
    context: JobContext
    family: Family
    adapter: Adapter
    sampler: Sampler
    plan: StepPlan
    latents: dict[tuple[str, bool], Tensor]
    """(C, h, w) by (picture id, flipped), on the device."""
    texts: TextStates | None
    """States of the frozen text encoder; None when it is trained too."""
    metadata: dict[str, str]
    draw: Callable[[int, int], None]
    """Draws the sample pictures for (step, epoch)."""
    fingerprint: str
    """Of pictures and captions, to tell a changed data set on resuming."""
    step: int = 0
    checkpoints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = self.job.settings
        self.optimizer = make_optimizer(self.adapter.groups, self.config.optimizer)
        self._parameters = self.adapter.parameters
        half = {torch.float32: None}.get(self.family.dtype, self.family.dtype)
        self._autocast = (lambda: torch.autocast(self.family.device.type, half)) if half else contextlib.nullcontext
        self._scale = FP16_SCALE if self.family.dtype == torch.float16 else 1.0
        self._state_time = time.monotonic()

    # --- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the present step to the end of the plan, or until a stop is asked for. A stop still saves."""
        self.context.report(Phase("train", self.plan.sentence))
        if self.step == 0:
            self.validate()
        while self.step < self.plan.steps and not self.context.should_stop():
            self.obey()
            if self.context.should_stop():
                break
            self.train_step()
            if self.step % self.plan.steps_per_epoch == 0:
                self.end_epoch(self.step // self.plan.steps_per_epoch)
            elif time.monotonic() - self._state_time > STATE_SECONDS:
                self.save_state()
        if self.step < self.plan.steps and self.step > 0:
            self.save_state()
            if self.step % self.plan.steps_per_epoch:
                self.save_checkpoint(f"-step{self.step:08d}")

    def train_step(self) -> None:
        """One optimizer step: forward and backward over its batches, refuse what is not finite, move the weights."""
        start = time.monotonic()
        step = self.step + 1
        batches = self.sampler.batches(step, self.plan.steps_per_epoch)
        rates = set_rate(self.optimizer, learning_rate(step, self.plan.steps, self.config.schedule))
        total = torch.zeros((), device=self.family.device)
        for index, batch in enumerate(batches):
            loss = self.batch_loss(batch, step, index) / len(batches)
            (loss * self._scale).backward()
            total += loss.detach()
        if self._scale != 1.0:
            torch._foreach_mul_([p.grad for p in self._parameters if p.grad is not None], 1 / self._scale)
        limit = self.config.optimizer.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        loss_value, norm_value = torch.stack([total, norm]).tolist()  # the one wait for the device in a step
        self._refuse_not_finite(loss_value, norm_value, step, batches)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step = step
        epoch = (step - 1) // self.plan.steps_per_epoch + 1
        seconds = time.monotonic() - start
        self.context.report(Step(step, self.plan.steps, epoch, loss_value, rates, round(seconds, 4), norm_value))

    def batch_loss(self, batch: list[Sample], step: int, index: int) -> Tensor:
        """Mean loss of a batch, with the chance that belongs to this step and batch."""
        chance = noise.generator(self.config.run.seed, "step", step, index)
        if self.config.adapter.dropout:
            torch.manual_seed(chance.initial_seed())
        latents = torch.stack([self.latents[sample.picture.id, sample.flip] for sample in batch])
        drawn = noise.draw_noise(tuple(latents.shape), self.config.objective.noise_offset, chance).to(latents.device)
        timesteps = self.family.draw_timesteps(len(batch), chance)
        error = self.error(latents, drawn, timesteps, [sample.caption for sample in batch])
        return (error * self.family.snr_weights(timesteps, self.config.objective.min_snr_gamma)).mean()

    def error(self, latents: Tensor, noise: Tensor, timesteps: Tensor, captions: list[str]) -> Tensor:
        """(B,) squared error of the network's answer, from latents and noise (B, C, h, w) and timesteps (B,)."""
        with self._autocast():
            if self.texts is None:
                states = self.family.encode_text(captions, self.config.run.clip_skip)
            else:
                states = self.texts(captions)
            noisy = self.family.add_noise(latents, noise, timesteps)
            answer = self.family.predict(noisy.to(self.family.dtype), timesteps, states.to(self.family.dtype))
        return (answer.float() - self.family.target(latents, noise, timesteps)).square().mean(dim=(1, 2, 3))

    def _refuse_not_finite(self, loss: float, norm: float, step: int, batches: list[list[Sample]]) -> None:
        if loss - loss == 0 and norm - norm == 0:  # neither infinite nor NaN
            return
        self.optimizer.zero_grad(set_to_none=True)
        names = sorted({sample.picture.file.name for batch in batches for sample in batch})
        what = "loss" if loss - loss != 0 else "gradient"
        raise UserError(
            f"The {what} of step {step} is not a finite number; the pictures were {', '.join(names)}. "
            "No weight was touched by it.",
            "Lower optimizer.unet_lr, choose run.precision fp32, or look at these pictures; "
            "then start anew or resume from the last state.",
        )

    # --- commands --------------------------------------------------------------------------------------------------

    def obey(self) -> None:
        """Do what was asked for since the last step: save, sample, pause."""
        for word in self.context.commands():
            if word == "save" and self.step:
                self.save_state()
                self.save_checkpoint(f"-step{self.step:08d}")
            elif word == "sample":
                self.sample()
            elif word == "pause":
                if self.step:
                    self.save_state()
                self.context.wait_while_paused()
                self.obey()

    # --- the end of an epoch ---------------------------------------------------------------------------------------

    def end_epoch(self, epoch: int) -> None:
        """Save first, then validate and sample: whatever happens there, the work is on disk."""
        last = epoch == self.plan.epochs
        run = self.config.run
        saving = last or bool(run.save_every_epochs and epoch % run.save_every_epochs == 0)
        if saving:
            self.save_checkpoint(f"-{epoch:06d}")
            self.save_state()
        every = -(-VALIDATION_STEPS // self.plan.steps_per_epoch)
        if last or epoch % every == 0:
            self.validate()
        if run.sample_every_epochs and (last or epoch % run.sample_every_epochs == 0):
            self.sample()

    def save_checkpoint(self, ending: str) -> None:
        """Write the LoRA file in kohya's layout."""
        epoch = -(-self.step // self.plan.steps_per_epoch)
        name = f"checkpoints/{self.job.name}{ending}.safetensors"
        path = self.context.folder / name
        save_lora(path, self.adapter.tensors(SAVE_DTYPE), {**self.metadata, **at_save(self.step, epoch)})
        self.checkpoints.append(name)
        self.context.report(FileWritten(name, "checkpoint", self.step, epoch, {"bytes": path.stat().st_size}))

    def save_state(self) -> None:
        """Write all that resuming needs."""
        facts = {"settings": self.config.to_dict(), "fingerprint": self.fingerprint, "metadata": self.metadata}
        folder = self.context.folder / "state"
        path = save_state(folder, self.step, self.adapter, self.optimizer, facts, self.config.run.keep_states)
        self._state_time = time.monotonic()
        self.context.report(FileWritten(f"state/{path.name}", "state", self.step))

    def sample(self) -> None:
        """Draw the sample pictures. Nothing that goes wrong there may end the run: it is told, and training goes on."""
        try:
            self.draw(self.step, -(-self.step // self.plan.steps_per_epoch))
        except Exception as error:
            reason = (str(error) or type(error).__name__)[:200]
            text = f"The sample pictures could not be drawn ({reason}); training goes on."
            self.context.report(Note(text, "warning"))
        finally:
            for network in self.networks:
                network.train()

    @property
    def networks(self) -> list[Any]:
        """The networks that hold trained layers."""
        trained = [self.family.network]
        return [*trained, self.family.text_network] if self.texts is None else trained

    @torch.no_grad()
    def validate(self) -> None:
        """Mean unweighted loss over the held-out pictures (else a fixed few) at noise and levels that never change."""
        pictures = self.validation_pictures()
        for network in self.networks:
            network.eval()
        losses = []
        for picture in pictures:
            chance = noise.generator(0, "validation", picture.sha256)
            latents = self.latents[picture.id, False].expand(VALIDATION_LEVELS, -1, -1, -1)
            drawn = noise.draw_noise(tuple(latents.shape), 0.0, chance).to(latents.device)
            timesteps = self.family.fixed_timesteps(VALIDATION_LEVELS)
            losses.append(self.error(latents, drawn, timesteps, [picture.caption] * VALIDATION_LEVELS).mean())
        for network in self.networks:
            network.train()
        self.context.report(Validation(self.step, torch.stack(losses).mean().item()))

    def validation_pictures(self) -> list[Picture]:
        """The held-out pictures, or a few of the training set chosen by the seed."""
        if self.sampler.held_out:
            return self.sampler.held_out[:VALIDATION_PICTURES]
        chance = random.Random(f"{self.config.run.seed} validation")
        training = self.sampler.training
        return chance.sample(training, min(VALIDATION_PICTURES, len(training)))

    # --- resuming --------------------------------------------------------------------------------------------------

    def resume(self, state: State) -> None:
        """Go on from a state. What differs from it is told; the present settings win."""
        restore(state, self.adapter, self.optimizer)
        self.step = state.step
        self.metadata = {**self.metadata, **_started(state.facts.get("metadata", {}))}
        before, now = _flat(state.facts.get("settings", {})), _flat(self.config.to_dict())
        changed = [name for name in now if before.get(name, now[name]) != now[name]]
        self.context.report(Note(f"Resumed after step {self.step} of {self.plan.steps}."))
        if changed:
            text = ", ".join(f"{name} is now {now[name]} (was {before[name]})" for name in changed)
            self.context.report(Note(f"Settings differ from the saved run; the new ones hold: {text}.", "warning"))
        if state.facts.get("fingerprint") != self.fingerprint:
            self.context.report(Note("Pictures or captions have changed since; the new ones are used.", "warning"))


def _started(metadata: dict[str, str]) -> dict[str, str]:
    kept = ("ss_session_id", "ss_training_started_at")
    return {name: metadata[name] for name in kept if name in metadata}


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, group in settings.items() for name, value in group.items()}
