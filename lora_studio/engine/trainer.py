"""The training loop: one step, validation, saving, resuming. Which model family it is makes no difference here."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import JobContext
from lora_studio.core.progress import FileWritten, Note, Phase, Step, Validation
from lora_studio.engine import noise, objective
from lora_studio.engine.adapters import Adapter
from lora_studio.engine.buckets import StepPlan
from lora_studio.engine.cache import LatentCache
from lora_studio.engine.checkpoint import save_lora
from lora_studio.engine.config import ObjectiveConfig, TrainJob
from lora_studio.engine.data import Picture, Sample, Sampler
from lora_studio.engine.distributed import World
from lora_studio.engine.ema import MovingAverage
from lora_studio.engine.families.base import Family, Text
from lora_studio.engine.memory import Scaler
from lora_studio.engine.metadata import at_save
from lora_studio.engine.optimizers import averaged, make_optimizer, set_rate
from lora_studio.engine.parameters import parameter_groups
from lora_studio.engine.schedules import learning_rate
from lora_studio.engine.state import State, restore_optimizer, save_state

SAVE_DTYPE = torch.float16
STATE_SECONDS = 120  # a kill costs at most about this much work
VALIDATION_PICTURES = 8
VALIDATION_LEVELS = 4  # noise levels each picture is looked at
VALIDATION_STEPS = 20  # at least so many steps between two validations


@dataclass
class Trainer:
    """Everything a run needs in the loop, put together by train.py."""

    job: TrainJob
    context: JobContext
    family: Family
    adapter: Adapter
    sampler: Sampler
    plan: StepPlan
    latents: LatentCache
    """Latents and masks of the pictures."""
    texts: Callable[[list[str]], Text]
    """Captions as the network reads them: from the cache of a frozen encoder, or encoded anew with its adapter."""
    metadata: dict[str, str]
    draw: Callable[[int, int], None]
    """Draws the sample pictures for (step, epoch)."""
    fingerprint: str
    """Of pictures and captions, to tell a changed data set on resuming."""
    world: World = field(default_factory=World)
    step: int = 0
    checkpoints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = self.job.settings
        groups = parameter_groups(self.adapter, self.config.optimizer)
        self.optimizer = make_optimizer(groups, self.config.optimizer)
        self._parameters = self.adapter.parameters
        half = {torch.float32: None}.get(self.family.dtype, self.family.dtype)
        self._autocast = (lambda: torch.autocast(self.family.device.type, half)) if half else contextlib.nullcontext
        self.scaler = Scaler(enabled=self.family.dtype == torch.float16)
        decay = self.config.run.ema_decay
        self.average = MovingAverage(dict(self.adapter.named_parameters()), decay) if decay else None
        self._state_time = time.monotonic()

    # --- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the present step to the end of the plan, or until a stop is asked for. A stop still saves."""
        self.context.report(Phase("train", self.plan.sentence))
        if self.step == 0:
            self.validate()
        while self.step < self.plan.steps and not self.should_stop():
            self.obey()
            if self.should_stop():
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

    def should_stop(self) -> bool:
        """Whether a stop was asked for; all processes of a run hear it at the same step."""
        return self.world.agree(self.context.should_stop())

    def train_step(self) -> None:
        """One optimizer step: forward and backward over its batches, refuse what is not finite, move the weights."""
        start = time.monotonic()
        step = self.step + 1
        rates = set_rate(self.optimizer, learning_rate(step, self.plan.steps, self.config.schedule))
        batches = self.sampler.batches(step, self.plan.steps_per_epoch)
        total = torch.zeros((), device=self.family.device)
        for index, batch in enumerate(batches):
            loss = self.batch_loss(batch, step, index) / len(batches)
            if loss.requires_grad:  # not so where this process has no picture of the batch
                self.scaler.scale(loss).backward()
            total += loss.detach()
        self.world.sum_gradients(self._parameters)
        self.scaler.unscale(self._parameters)
        limit = self.config.optimizer.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        loss_value, norm_value = self.world.sum(torch.stack([total, norm / self.world.size])).tolist()
        if self.scaler.skip(norm_value):
            self.optimizer.zero_grad(set_to_none=True)  # fp16 overflowed: the scale is lowered, this step moves nothing
        else:
            self._refuse_not_finite(loss_value, norm_value, step, batches)
            self._move(step)
        self.step = step
        epoch = (step - 1) // self.plan.steps_per_epoch + 1
        seconds = time.monotonic() - start
        self.context.report(Step(step, self.plan.steps, epoch, loss_value, rates, round(seconds, 4), norm_value))

    def _move(self, step: int) -> None:
        """Let the optimizer act; bf16 weights are rounded by the chance of this step."""
        torch.manual_seed(noise.generator(self.config.run.seed, "rounding", step).initial_seed())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(step)

    def batch_loss(self, batch: list[Sample], step: int, index: int) -> Tensor:
        """Loss of a batch, with the chance that belongs to this step and batch. Of several processes each takes its
        own pictures; the losses add up to that of the whole batch."""
        config = self.config.objective
        chance = noise.generator(self.config.run.seed, "step", step, index)
        torch.manual_seed(chance.initial_seed())  # dropout draws from torch's own generator
        shape = (len(batch), *self.latents.shape(batch[0].picture))
        drawn = noise.draw_noise(shape, config, chance)
        timesteps = self.family.draw_timesteps(len(batch), config, chance)
        shown = noise.perturb(drawn, config, chance)
        rows = list(range(self.world.rank, len(batch), self.world.size))
        if not rows:
            return torch.zeros((), device=self.family.device)
        mine, times = [batch[row] for row in rows], timesteps[rows].to(self.family.device)
        latents = torch.stack([self.latents.get(sample) for sample in mine]).to(self.family.device)
        found = self._losses(mine, latents, drawn[rows], shown[rows], times)
        return found.sum() / len(batch)

    def _losses(self, batch: list[Sample], latents: Tensor, drawn: Tensor, shown: Tensor, times: Tensor) -> Tensor:
        """(B,) weighted loss of each picture, from latents and noise (B, C, h, w) and timesteps (B,)."""
        config, family = self.config.objective, self.family
        drawn, shown = drawn.to(latents.device), shown.to(latents.device)
        snr = objective.snr(family.alphas_cumprod, times)
        frames = torch.tensor([sample.frame for sample in batch], device=latents.device)
        masks = self.latents.masks(batch)
        noisy = family.add_noise(latents, shown, times)
        answer = self.answer(noisy, times, [sample.caption for sample in batch], frames)
        target = family.target(latents, drawn, times)
        found = objective.errors(answer, target, config, snr, times, masks)
        found = found * objective.weights(snr, family.prediction_type, config)
        prior = [config.prior_weight if sample.picture.regularization else 1.0 for sample in batch]
        found = found * torch.tensor(prior, device=found.device)
        if config.preservation:
            found = found + config.preservation * self._preservation(batch, noisy, times, frames)
        return found

    def _preservation(self, batch: list[Sample], noisy: Tensor, times: Tensor, frames: Tensor) -> Tensor:
        """(B,) how far the adapter moves the answer for prompts that it must leave alone."""
        captions = [sample.unrelated for sample in batch]
        with torch.no_grad(), self.adapter.off():
            wanted = self.answer(noisy, times, captions, frames)
        return (self.answer(noisy, times, captions, frames) - wanted).square().mean(dim=(1, 2, 3))

    def answer(self, noisy: Tensor, timesteps: Tensor, captions: list[str], frames: Tensor) -> Tensor:
        """(B, C, h, w) in fp32: what the network says to noisy latents, timesteps (B,), captions, frames (B, 6)."""
        with self._autocast():
            text = self.texts(captions).to(self.family.dtype)
            return self.family.predict(noisy.to(self.family.dtype), timesteps, text, frames).float()

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

    @contextlib.contextmanager
    def as_saved(self) -> Iterator[None]:
        """Inside, the adapter holds the weights that a file gets: the moving average, or the optimizer's own."""
        if self.average is None:
            with averaged(self.optimizer):
                yield
            return
        kept = {name: parameter.detach().clone() for name, parameter in self.adapter.named_parameters()}
        self._put(self.average.tensors())
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.adapter.named_parameters():
            parameter.copy_(values[name])

    def save_checkpoint(self, ending: str) -> None:
        """Write the LoRA file in kohya's layout."""
        if self.world.rank:
            return
        epoch = -(-self.step // self.plan.steps_per_epoch)
        name = f"checkpoints/{self.job.name}{ending}.safetensors"
        path = self.context.folder / name
        with self.as_saved():
            tensors = self.adapter.tensors(SAVE_DTYPE)
        save_lora(path, tensors, {**self.metadata, **at_save(self.step, epoch)})
        self.checkpoints.append(name)
        self.context.report(FileWritten(name, "checkpoint", self.step, epoch, {"bytes": path.stat().st_size}))

    def save_state(self) -> None:
        """Write all that resuming needs."""
        self._state_time = time.monotonic()
        if self.world.rank:
            return
        facts = {
            "settings": self.config.to_dict(),
            "fingerprint": self.fingerprint,
            "metadata": self.metadata,
            "scaler": self.scaler.state(),
        }
        weights = dict(self.adapter.named_parameters())
        extra = self.average.tensors() if self.average else {}
        folder, keep = self.context.folder / "state", self.config.run.keep_states
        path = save_state(folder, self.step, weights, self.optimizer, facts, keep, extra)
        self.context.report(FileWritten(f"state/{path.name}", "state", self.step))

    def sample(self) -> None:
        """Draw the sample pictures. Nothing that goes wrong there may end the run: it is told, and training goes on."""
        if self.world.rank:
            return
        try:
            with self.as_saved():
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
        """The networks that hold trained layers, and the one that predicts."""
        return [self.family.part(name) for name in dict.fromkeys(["unet", *self.adapter.groups])]

    @torch.no_grad()
    def validate(self) -> None:
        """Mean unweighted loss over the held-out pictures (else a fixed few) at noise and levels that never change."""
        if self.world.rank:
            return
        for network in self.networks:
            network.eval()
        with self.as_saved():
            losses = [self._validation_loss(picture) for picture in self.validation_pictures()]
        for network in self.networks:
            network.train()
        self.context.report(Validation(self.step, torch.stack(losses).mean().item()))

    def _validation_loss(self, picture: Picture) -> Tensor:
        count, family = VALIDATION_LEVELS, self.family
        sample = Sample.plain(picture)
        latents = self.latents.get(sample).to(family.device).expand(count, -1, -1, -1)
        chance = noise.generator(0, "validation", picture.sha256)
        drawn = noise.draw_noise(tuple(latents.shape), ObjectiveConfig(), chance).to(latents.device)
        times = family.fixed_timesteps(count)
        frames = torch.tensor([sample.frame] * count, device=latents.device)
        answer = self.answer(family.add_noise(latents, drawn, times), times, [picture.caption] * count, frames)
        return (answer - family.target(latents, drawn, times)).square().mean()

    def validation_pictures(self) -> list[Picture]:
        """The held-out pictures, or a few of the training set chosen by the seed."""
        if self.sampler.held_out:
            return self.sampler.held_out[:VALIDATION_PICTURES]
        chance = random.Random(f"{self.config.run.seed} validation")
        training = [picture for picture in self.sampler.training if not picture.regularization]
        return chance.sample(training, min(VALIDATION_PICTURES, len(training)))

    # --- resuming --------------------------------------------------------------------------------------------------

    def resume(self, state: State) -> None:
        """Go on from a state. What differs from it is told; the present settings win.

        Raises UserError when the state belongs to another adapter or optimizer.
        """
        try:
            self.adapter.load(state.weights)
        except (KeyError, RuntimeError) as error:
            raise UserError(
                "The saved state belongs to an adapter of another size, kind or with other layers.",
                "Set adapter.kind, adapter.rank, adapter.layers and the text encoder rates as they were, or start a "
                "new run.",
            ) from error
        restore_optimizer(state, self.optimizer)
        if self.average and state.extra:
            self.average.load(state.extra)
        self.scaler.load(state.facts.get("scaler"))
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
