"""The training loop: one step, validation, saving, resuming. Which model family it is makes no difference here."""

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.core.jobs import JobContext
from lora_studio.core.progress import FileWritten, Note, Phase, Step, Validation
from lora_studio.core.settings import SettingsError
from lora_studio.engine import distributed, noise, objective
from lora_studio.engine.adapters import Adapter
from lora_studio.engine.adapters.delta import by_module, changes_something
from lora_studio.engine.buckets import StepPlan
from lora_studio.engine.cache import LatentCache
from lora_studio.engine.checkpoint import save_lora
from lora_studio.engine.config import ObjectiveConfig, TrainConfig, TrainJob, changed_settings
from lora_studio.engine.data import Batch, Sampler
from lora_studio.engine.distributed import World
from lora_studio.engine.ema import MovingAverage
from lora_studio.engine.families.base import Family, Text
from lora_studio.engine.memory import Scaler, is_oom, release_memory
from lora_studio.engine.metadata import at_save
from lora_studio.engine.optimizers import averaged, make_optimizer, set_rate
from lora_studio.engine.parameters import parameter_groups
from lora_studio.engine.picture import Picture
from lora_studio.engine.schedules import learning_rate
from lora_studio.engine.state import State, restore_optimizer, save_state

if TYPE_CHECKING:
    from lora_studio.engine.fsdp import Spread  # most runs have no need of it

SAVE_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
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
    spread: "Spread | None" = None
    """The network that predicts, where its frozen weights lie spread over the processes."""
    step: int = 0
    checkpoints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = self.job.settings
        groups = parameter_groups(self.adapter, self.config.optimizer)
        self.optimizer = make_optimizer(groups, self.config.optimizer, self.config.run.seed)
        self._parameters = self.adapter.parameters
        half = {torch.float32: None}.get(self.family.dtype, self.family.dtype)
        self._autocast = (lambda: torch.autocast(self.family.device.type, half)) if half else contextlib.nullcontext
        self.scaler = Scaler(self.family.dtype)
        decay = self.config.run.ema_decay
        self.average = MovingAverage(dict(self.adapter.named_parameters()), decay) if decay else None
        self._state_time = time.monotonic()

    # --- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the present step to the end of the plan, or until a stop is asked for. A stop still saves."""
        self.context.report(Phase("train", self.plan.sentence))
        if self.step == 0 and not self.should_stop():
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
        return bool(distributed.agree(self.context.should_stop(), self.world))

    def train_step(self) -> None:
        """One optimizer step: forward and backward over its batches, refuse what is not finite, move the weights."""
        start = time.monotonic()
        step = self.step + 1
        rates = set_rate(self.optimizer, learning_rate(step, self.plan.steps, self.config.schedule))
        batches = self.sampler.batches(step, self.plan.steps_per_epoch)
        total = torch.zeros((), device=self.family.device)
        for index, batch in enumerate(batches):
            if len(batch):
                loss = self.batch_loss(batch, step, index) / len(batches)
            elif self.spread:  # the others need this process's part of the network
                loss = 0 * self.batch_loss(self.sampler.stand_in(batch.total), step, index)
            else:  # this process has no picture of a small last batch
                continue
            self.scaler.scaled(loss).backward()
            total += loss.detach()
        distributed.sum_gradients(self._parameters, self.world)
        self.scaler.unscale(self._parameters)
        limit = self.config.optimizer.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        loss_value, norm_value = torch.stack([total, norm]).tolist()  # the one wait for the device in a step
        loss_value = distributed.mean(loss_value, self.world) * self.world.size
        if self._may_move(loss_value, norm_value, step, batches):
            self.optimizer.step()
            if self.average:
                self.average.update(step)
        self.optimizer.zero_grad(set_to_none=True)
        self.step = step
        epoch = (step - 1) // self.plan.steps_per_epoch + 1
        seconds = time.monotonic() - start
        self.context.report(Step(step, self.plan.steps, epoch, loss_value, rates, round(seconds, 4), norm_value))

    def batch_loss(self, batch: Batch, step: int, index: int) -> Tensor:
        """This process's part of a batch's mean loss, with the chance that belongs to this step and batch. Of several
        processes each takes its own pictures; their parts add up to the mean over the whole batch."""
        config, family = self.config.objective, self.family
        chance = noise.generator(self.config.run.seed, "step", step, index)
        self.adapter.drop(chance)
        which = [sample.which for sample in batch]
        latents = self.latents.batch(which).to(family.device)
        drawn = noise.draw_noise((batch.total, *latents.shape[1:]), config, chance)
        times = family.draw_timesteps(batch.total, config, chance)[batch.rows].to(family.device)
        shown = noise.perturb(drawn, config, chance)[batch.rows].to(family.device)
        drawn = drawn[batch.rows].to(family.device)
        masks = self.latents.masks(which)
        frames = torch.tensor([sample.frame for sample in batch], device=family.device)
        noisy = family.add_noise(latents, shown, times)
        answer = self.answer(noisy, times, [sample.caption for sample in batch], frames)
        snr = objective.snr(family.alphas_cumprod, times)
        target = family.target(latents, drawn, times)
        masks = None if masks is None else masks.to(family.device)
        found = objective.errors(answer, target, config, snr, times, masks)
        found = found * objective.weights(snr, family.prediction_type, config)
        prior = objective.picture_weights([sample.picture.regularization for sample in batch], config)
        found = found * prior.to(family.device)
        if config.preservation:
            found = found + config.preservation * self._preservation(batch, noisy, times, frames)
        return found.sum() / batch.total

    def _preservation(self, batch: Batch, noisy: Tensor, times: Tensor, frames: Tensor) -> Tensor:
        """(B,) how far the adapter moves the answer for prompts that it must leave alone."""
        prompts = self.config.objective.preservation_prompts
        if prompts:
            captions = [prompts[(self.step + row) % len(prompts)] for row in batch.rows]
        else:
            captions = [sample.shown.without_trigger for sample in batch]
        with torch.no_grad(), self.adapter.off():
            wanted = self.answer(noisy, times, captions, frames)
        return (self.answer(noisy, times, captions, frames) - wanted).square().mean(dim=(1, 2, 3))

    def answer(self, noisy: Tensor, timesteps: Tensor, captions: list[str], frames: Tensor) -> Tensor:
        """(B, C, h, w) in fp32: what the network says to noisy latents, timesteps (B,), captions, frames (B, 6)."""
        with self._autocast():
            text = self.texts(captions).to(self.family.dtype)
            return self.family.predict(noisy.to(self.family.dtype), timesteps, text, frames).float()

    def _may_move(self, loss: float, norm: float, step: int, batches: list[Batch]) -> bool:
        """Whether the weights may be moved; False leaves out a step in which fp16 overflowed. Raises UserError when
        loss or gradient are not finite and that is not the number format's doing."""
        finite = loss - loss == 0 and norm - norm == 0  # neither infinite nor NaN
        if self.scaler.update(finite) or (loss - loss == 0 and not self.scaler.exhausted):
            return finite
        self.optimizer.zero_grad(set_to_none=True)
        self._refuse_broken_weights()
        samples = [sample for batch in batches for sample in batch]
        broken = [sample for sample in samples if not torch.isfinite(self.latents.get(*sample.which)).all()]
        names = sorted({sample.picture.file.name for sample in broken or samples})
        what = "loss" if loss - loss != 0 else "gradient"
        raise UserError(
            f"The {what} of step {step} is not a finite number; the pictures were {', '.join(names)}. "
            "No weight was touched by it.",
            "Lower optimizer.unet_lr, choose run.precision fp32, or look at these pictures; "
            "then start anew or resume from the last state.",
        )

    def _refuse_broken_weights(self) -> None:
        """Raise UserError where weights of the adapter or the base are not finite, naming the first of them."""
        name = first_broken(self.adapter.named_parameters())
        if name:
            raise UserError(
                f"The LoRA's weights are not finite any more after step {self.step} ({name}): a step was too long.",
                "Lower optimizer.unet_lr and the other rates, set optimizer.max_grad_norm to 1, then resume from the "
                "last state, which is whole.",
            )
        for part in (name for name in ("unet", *self.family.text_parts) if self.family.loaded(name)):
            if self.spread is None or part != "unet":  # that was looked at before it was spread
                refuse_broken_base(part, self.family.part(part))

    # --- commands --------------------------------------------------------------------------------------------------

    def obey(self) -> None:
        """Do what was asked for since the last step: save, sample, pause."""
        for word in distributed.agree(self.context.commands(), self.world):
            if word == "save" and self.step:
                self.save_state()
                self.save_checkpoint(f"-step{self.step:08d}")
            elif word == "sample":
                self.sample()
            elif word == "pause":
                if self.step:
                    self.save_state()
                if self.world.leads:
                    self.context.wait_while_paused()
                distributed.barrier(self.world)
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
        if not self.world.leads:
            return
        epoch = -(-self.step // self.plan.steps_per_epoch)
        name = f"checkpoints/{self.job.name}{ending}.safetensors"
        path = self.context.folder / name
        with self.as_saved():
            tensors = self.adapter.tensors(SAVE_DTYPES[self.config.run.save_precision])
        if self.step < self.plan.steps and not any(changes_something(own) for own in by_module(tensors).values()):
            text = f"Nothing was learned yet after step {self.step}: no file is written for it."
            self.context.report(Note(text, "warning"))  # at the end of the run it is an error
            return
        save_lora(path, tensors, {**self.metadata, **at_save(self.step, epoch)})
        self.checkpoints.append(name)
        self.context.report(FileWritten(name, "checkpoint", self.step, epoch, {"bytes": path.stat().st_size}))

    def save_state(self) -> None:
        """Write all that resuming needs."""
        self._state_time = time.monotonic()
        if not self.world.leads:
            return
        if first_broken(self.adapter.named_parameters()):  # it must not take the place of a good one
            self._refuse_broken_weights()
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
        self._led(self._sample)

    def _sample(self) -> None:
        out_of_memory = False
        try:
            with self.as_saved():
                self.draw(self.step, -(-self.step // self.plan.steps_per_epoch))
        except Exception as error:
            out_of_memory = is_oom(error)
            reason = (str(error) or type(error).__name__)[:200]
            text = f"The sample pictures could not be drawn ({reason}); training goes on."
            if out_of_memory:
                text = (
                    "There was not enough memory to draw the sample pictures; training goes on. "
                    "Lower sample.width and sample.height, or set run.sample_every_epochs to 0."
                )
            self.context.report(Note(text, "warning"))
        finally:
            for network in self.networks:
                network.train()
        if out_of_memory:
            release_memory()

    @property
    def networks(self) -> list[Any]:
        """The networks that hold trained layers, and the one that predicts."""
        return [self.family.part(name) for name in dict.fromkeys(["unet", *self.adapter.groups])]

    def _led(self, work: Callable[[], None]) -> None:
        """Have the leader do what passes through the network; the others are there for it where it is spread."""
        if self.spread:
            self.spread.led(work, lambda: self._validation_loss(self.sampler.training[0]))
        elif self.world.leads:
            work()

    def validate(self) -> None:
        """Mean unweighted loss over the held-out pictures (else a fixed few) at noise and levels that never change."""
        self._led(self._validate)

    def _validate(self) -> None:
        for network in self.networks:
            network.eval()
        with self.as_saved():
            losses = [self._validation_loss(picture) for picture in self.validation_pictures()]
        for network in self.networks:
            network.train()
        loss = torch.stack(losses).mean().item()
        if math.isfinite(loss):
            self.context.report(Validation(self.step, loss))
            return
        self._refuse_broken_weights()
        self.context.report(Note(f"The validation after step {self.step} is not a finite number.", "warning"))

    @torch.no_grad()
    def _validation_loss(self, picture: Picture) -> Tensor:
        count, family = VALIDATION_LEVELS, self.family
        latents = self.latents.get(picture).to(family.device).expand(count, -1, -1, -1)
        chance = noise.generator(0, "validation", picture.sha256)
        drawn = noise.draw_noise(tuple(latents.shape), ObjectiveConfig(), chance).to(latents.device)
        times = family.fixed_timesteps(count)
        frames = torch.tensor([picture.frame] * count, device=latents.device)
        caption = picture.words.whole(self.config.data).text
        answer = self.answer(family.add_noise(latents, drawn, times), times, [caption] * count, frames)
        return (answer - family.target(latents, drawn, times)).square().mean()

    def validation_pictures(self) -> list[Picture]:
        """The held-out pictures, or a few of the training set chosen by the seed."""
        if self.sampler.held_out:
            return self.sampler.held_out[:VALIDATION_PICTURES]
        chance = random.Random(f"{self.config.run.seed} validation")
        training = self.sampler.training
        return chance.sample(training, min(VALIDATION_PICTURES, len(training)))

    # --- resuming --------------------------------------------------------------------------------------------------

    def resume(self, state: State) -> None:
        """Go on from a state. Settings that may change are told; others are refused by name.

        Raises UserError when one of them differs, or the state belongs to another adapter or optimizer.
        """
        changed, refused = self._changes(state)
        if refused:
            listed = ", ".join(f"{name} (was {changed[name][0]}, is {changed[name][1]})" for name in refused)
            raise UserError(
                f"A resumed run cannot change {listed}.", "Set it as it was, or start a new run with the new value."
            )
        try:
            self.adapter.load(state.weights)
        except (KeyError, RuntimeError) as error:
            raise UserError(
                "The saved state belongs to an adapter of another size, kind or with other layers.",
                "Start a new run: the base or the layers of the adapter are not what they were.",
            ) from error
        restore_optimizer(state, self.optimizer, dict(self.adapter.named_parameters()))
        if self.average and state.extra:
            self.average.load(state.extra)
        self.scaler.load(state.facts.get("scaler", {}))
        self.step = state.step
        self.metadata = {**self.metadata, **_started(state.facts.get("metadata", {}))}
        self.context.report(Note(f"Resumed after step {self.step} of {self.plan.steps}."))
        if changed:
            text = ", ".join(f"{name} is now {now} (was {was})" for name, (was, now) in changed.items())
            self.context.report(Note(f"Changed since the run began: {text}.", "warning"))
        if state.facts.get("fingerprint") != self.fingerprint:
            self.context.report(Note("Pictures or captions have changed since; the new ones are used.", "warning"))

    def _changes(self, state: State) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
        """What differs from the settings in the state, and what of it is refused; a state whose settings this version
        does not know is taken as it is."""
        try:
            return changed_settings(TrainConfig.load(state.facts.get("settings", {})), self.config)
        except SettingsError:
            return {}, []


def refuse_broken_base(part: str, network: torch.nn.Module) -> None:
    """Raise UserError where frozen weights are not finite, naming the first of them."""
    frozen = [(name, parameter) for name, parameter in network.named_parameters() if not parameter.requires_grad]
    name = first_broken([*frozen, *network.named_buffers()]).replace(".base_layer", "")
    if name:
        raise UserError(
            f"The base model is damaged: {part} holds numbers that are not finite ({name}).",
            "Get the base anew or choose another (base.model); if it is whole elsewhere, set run.precision to fp32.",
        )


def first_broken(named: Iterable[tuple[str, Tensor]]) -> str:
    """The name of the first tensor with numbers that are not finite; empty when there is none."""
    return next((name for name, value in named if not bool(torch.isfinite(value.detach()).all())), "")


def _started(metadata: dict[str, str]) -> dict[str, str]:
    kept = ("ss_session_id", "ss_training_started_at")
    return {name: metadata[name] for name in kept if name in metadata}
