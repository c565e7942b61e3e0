"""What is wrong with base, adapter, pictures or numbers is told by name before a weight is touched, and memory that
ends anywhere costs no more than the steps since the last state."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.core.settings import SettingsError
from lora_studio.engine import checkpoint, distributed, objective
from lora_studio.engine import state as states
from lora_studio.engine.adapters import Adapter
from lora_studio.engine.config import AdapterConfig, TrainJob
from lora_studio.engine.families import parts
from lora_studio.engine.families.latent import LatentFamily
from lora_studio.engine.families.sd import StableDiffusion
from lora_studio.engine.sampling import sample
from lora_studio.engine.state import newest_state
from lora_studio.engine.train import train
from lora_studio.engine.trainer import Trainer
from tests.engine.conftest import Recorder, settings
from tests.tiny import make_dataset

Weights = dict[str, Tensor]


def last_state(folder: Path) -> Weights:
    found, damaged = newest_state(folder / "state")
    assert found is not None and not damaged
    return found.weights


def same(one: Weights, other: Weights) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def straight(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Weights, Path]:
    """A job of 2 epochs of 2 steps, the weights it ends with, and its LoRA file."""
    folder = tmp_path_factory.mktemp("straight")
    job = TrainJob(
        settings=settings(), base=str(base), dataset=str(make_dataset(folder / "data")), cache=str(folder / "cache"),
        name="zorbi", trigger="zorbi",
    ).to_dict()  # fmt: skip
    train(job, Recorder(folder / "run"))
    return job, last_state(folder / "run"), folder / "run/checkpoints/zorbi-000002.safetensors"


def assert_goes_on(straight: tuple[dict[str, Any], Weights, Path], job: dict[str, Any], folder: Path) -> None:
    """What was saved in `folder` is whole, and resuming leads to the very weights of an undisturbed run."""
    for path in folder.glob("checkpoints/[!.]*"):
        assert all(value.isfinite().all() for value in load_file(path).values())
    train({**job, "resume": True}, Recorder(folder))
    assert same(straight[1], last_state(folder))


# --- numbers that are none ------------------------------------------------------------------------------------------


def poison(path: Path, mark: str = "", value: float = float("nan")) -> str:
    """Put a number that is none into a tensor of the file whose name holds `mark`; its name."""
    tensors = load_file(path)
    name = next(name for name, tensor in sorted(tensors.items()) if mark in name and tensor.dim() > 1)
    tensors[name].view(-1)[0] = value
    save_file(tensors, path, {"format": "pt"})
    return name


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("unet/diffusion_pytorch_model", {}, r"unet holds numbers that are not finite \({name}\)"),
        ("text_encoder/model", {}, r"text_encoder holds numbers that are not finite \(.*\)"),
        ("text_encoder/model", {"data__shuffle_tags": False, "optimizer__text_encoder_lr": 0}, "part .*'zorbi, red 0"),
        ("vae/diffusion_pytorch_model", {}, r"VAE of the base model turned picture-0\.png"),
    ],
)  # fmt: skip
def test_a_base_with_numbers_that_are_none_is_named(
    file: str, changes: dict[str, Any], told: str, make_job: Callable, base: Path, context: Recorder, tmp_path: Path
) -> None:
    shutil.copytree(base, tmp_path / "damaged")
    mark = {"unet": "attn1", "text_encoder": "layers.0", "vae": "encoder.conv_in"}[file.partition("/")[0]]
    name = poison(tmp_path / f"damaged/{file}.safetensors", mark)
    with pytest.raises(UserError, match=told.replace("{name}", name.replace(".", r"\."))):
        train(make_job(model=tmp_path / "damaged", **changes), context)
    assert not list(context.folder.glob("checkpoints/*")) and not list(context.folder.glob("state/*"))
    assert "NaN" not in (context.folder / "events.jsonl").read_text()


def test_a_lora_with_numbers_that_are_none_is_not_continued(
    straight: Any, make_job: Callable, context: Recorder, tmp_path: Path
) -> None:
    shutil.copy(straight[2], tmp_path / "poisoned.safetensors")
    name = poison(tmp_path / "poisoned.safetensors", "lora_up")
    with pytest.raises(UserError, match=f"poisoned.safetensors holds numbers that are not finite .*{name}"):
        train(make_job(adapter__continue_from=str(tmp_path / "poisoned.safetensors")), context)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_touches_nothing_and_can_be_gone_on_from(
    what: str, number: float, straight: Any, context: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, weights = (objective.errors, distributed.sum_gradients), {}

    def errors(*arguments: Any) -> Tensor:
        harmed = what == "loss" and len(context.of("Step")) == 3
        return real[0](*arguments) * (number if harmed else 1)

    def gradients(parameters: list[Tensor], world: Any) -> None:
        real[1](parameters, world)
        if len(context.of("Step")) == 3:
            weights.update(enumerate((p, p.detach().clone()) for p in parameters))
            if what == "gradient":
                parameters[0].grad.view(-1)[0] = number

    with monkeypatch.context() as patched:
        patched.setattr(objective, "errors", errors)
        patched.setattr(distributed, "sum_gradients", gradients)
        with pytest.raises(UserError, match=rf"{what} of step 4 is not a finite .*picture-\d\.png"):
            train(straight[0], context)
    assert weights and all(torch.equal(parameter, before) for parameter, before in weights.values())
    assert_goes_on(straight, straight[0], context.folder)


def test_weights_that_ran_away_do_not_replace_a_good_state(
    straight: Any, context: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainer.train_step

    def step(self: Trainer) -> None:
        real(self)
        if self.step == 4:
            self.adapter.parameters[0].data.view(-1)[0] = float("inf")
            self.save_state()

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", step)
        with pytest.raises(UserError, match="not finite any more after step 4") as caught:
            train(straight[0], context)
    assert "resume from the last state" in caught.value.remedy
    assert [path.name for path in (context.folder / "state").iterdir()] == ["00000002"]
    assert_goes_on(straight, straight[0], context.folder)


# --- memory that ends -----------------------------------------------------------------------------------------------

PHASES: dict[str, tuple[Any, str]] = {
    "loading the base": (parts.UNet2DConditionModel, "from_pretrained"),
    "encoding pictures": (LatentFamily, "encode_images"),
    "encoding text": (StableDiffusion, "encode_text"),
    "forward": (StableDiffusion, "predict"),
    "backward": (torch.Tensor, "backward"),
    "optimizer": (torch.optim.AdamW, "step"),
    "validation": (Trainer, "_validation_loss"),
    "saving the LoRA": (checkpoint, "save"),
    "saving the state": (states, "save_file"),
}
BEFORE_THE_FIRST = ("loading the base", "encoding pictures")
ENDS = (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"))  # fmt: skip


@pytest.mark.parametrize(("phase", "end"), zip(PHASES, ENDS * 3, strict=True), ids=lambda it: str(it)[:20])
def test_memory_that_ends_is_told_with_the_next_saving_and_costs_only_the_last_steps(
    phase: str, end: Exception, straight: Any, context: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name = PHASES[phase]
    real, steps = getattr(owner, name), 0 if phase in BEFORE_THE_FIRST else 3
    job = {**straight[0], "cache": str(tmp_path / "cache")}

    def fail(*arguments: Any, **named: Any) -> Any:
        if len(context.of("Step")) >= steps:
            raise end
        return real(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fail)
        with pytest.raises(UserError, match="memory of the machine is not enough") as caught:
            train(job, context)
    assert "run.gradient_checkpointing = selective" in caught.value.remedy
    assert_goes_on(straight, job, context.folder)


def test_memory_that_ends_while_sampling_does_not_end_the_run(
    straight: Any, make_job: Callable, context: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LatentFamily, "decode_images", fail)
    assert train(make_job(run__sample_every_epochs=1), context)["steps"] == 4
    notes = [note["text"] for note in context.of("Note") if note["level"] == "warning"]
    assert len(notes) == 2 and "not enough memory to draw" in notes[0] and "sample.width" in notes[0]
    assert same(straight[1], last_state(context.folder)) and not list(context.folder.rglob("*.png"))


# --- the base -------------------------------------------------------------------------------------------------------


def header_only(path: Path, keys: dict[str, tuple[int, ...]]) -> Path:
    save_file({name: torch.zeros(shape) for name, shape in keys.items()}, path)
    return path


def changed(base: Path, folder: Path, change: Callable[[Path], Any]) -> Path:
    shutil.copytree(base, folder / "model")
    change(folder / "model")
    return folder / "model"


def inpainting(folder: Path) -> None:
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "in_channels": 9}))


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


class Bomb:
    """Unpickling it ends the test."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("the pickle was opened",))


FIRST = {"model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3)}
NO_BASES: dict[str, tuple[Callable[[Path, Path, Path], Path], str]] = {
    "a LoRA": (lambda base, lora, new: Path(shutil.copy(lora, new / "a.safetensors")), "it is a LoRA"),
    "a VAE": (lambda base, lora, new: base / "vae/diffusion_pytorch_model.safetensors", "VAE alone"),
    "a VAE folder": (lambda base, lora, new: base / "vae", "AutoencoderKL alone"),
    "a UNet": (lambda base, lora, new: base / "unet/diffusion_pytorch_model.safetensors", "UNet alone"),
    "a refiner": (
        lambda base, lora, new: header_only(
            new / "a.safetensors", {**FIRST, "conditioner.embedders.0.model.ln_final.weight": (8,)}
        ),
        "refiner",
    ),
    "an inpainting file": (
        lambda base, lora, new: header_only(
            new / "a.safetensors", {"model.diffusion_model.input_blocks.0.0.weight": (8, 9, 3, 3)}
        ),
        "inpainting",
    ),
    "an inpainting folder": (lambda base, lora, new: changed(base, new, inpainting), "inpainting"),
    "a ControlNet": (
        lambda base, lora, new: header_only(new / "a.safetensors", {"control_model.zero_convs.0.0.weight": (8,)}),
        "ControlNet",
    ),
    "FLUX": (
        lambda base, lora, new: header_only(new / "a.safetensors", {"double_blocks.0.img_attn.qkv.weight": (8, 8)}),
        "FLUX",
    ),
    "a pickle": (lambda base, lora, new: _written(new / "a.ckpt", pickle.dumps(Bomb())), "pickle"),
    "a text": (lambda base, lora, new: _written(new / "a.safetensors", b"hello world"), "not a safetensors file"),
    "a cut file": (
        lambda base, lora, new: cut(header_only(new / "a.safetensors", {**FIRST, "x.weight": (99,)})),
        "cut off",
    ),
    "no tokenizer": (
        lambda base, lora, new: changed(base, new, lambda model: shutil.rmtree(model / "tokenizer")),
        "tokenizer/vocab.json is missing",
    ),
    "no text encoder": (
        lambda base, lora, new: changed(base, new, lambda model: shutil.rmtree(model / "text_encoder")),
        "text_encoder/config.json is missing",
    ),
    "a cut part": (
        lambda base, lora, new: changed(
            base, new, lambda model: cut(model / "unet/diffusion_pytorch_model.safetensors")
        ),
        "unet/diffusion_pytorch_model.safetensors: it is cut off",
    ),
    "nothing": (lambda base, lora, new: new / "nowhere.safetensors", "there is no file or folder"),
}


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", NO_BASES)
def test_what_is_no_base_is_refused_with_the_reason(
    kind: str, base: Path, straight: Any, make_job: Callable, context: Recorder, tmp_path: Path
) -> None:
    make, told = NO_BASES[kind]
    (tmp_path / "new").mkdir()
    path = make(base, straight[2], tmp_path / "new")
    with pytest.raises(UserError, match=f"{path.name} cannot be used: .*{told}") as caught:
        train(make_job(model=path), context)
    assert "base.model" in caught.value.remedy


# --- the adapter ----------------------------------------------------------------------------------------------------


def adapter_file(path: Path, family: Any, **config: Any) -> Path:
    """A LoRA file whose weights are all small numbers."""
    adapter = Adapter(family, AdapterConfig(**{"rank": 2, "alpha": 1.0, **config}), ["unet", "text_encoder"], 0)
    tensors = {name: torch.full_like(value, 0.01) for name, value in adapter.tensors(torch.float32).items()}
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("kind", "config", "told"),
    [
        ("sdxl_base", {}, "lacks .* of its layers|Stable Diffusion XL"),
        ("base", {"kind": "loha"}, "of the kind loha, adapter.kind is lora"),
        ("base", {"rank": 4}, "adapter.rank 2"),
        ("base", {"layers": "attention"}, "lacks"),
        ("base", {"layers": "all"}, "others"),
    ],
)
def test_a_lora_that_cannot_be_continued_is_refused_with_the_reason(
    kind: str, config: dict[str, Any], told: str, open_base: Callable, make_job: Callable, context: Recorder,
    tmp_path: Path,
) -> None:  # fmt: skip
    path = adapter_file(tmp_path / "other.safetensors", open_base(kind), **config)
    with pytest.raises(UserError, match=told) as caught:
        train(make_job(adapter__continue_from=str(path)), context)
    assert "other.safetensors" in caught.value.message and caught.value.remedy


@pytest.mark.parametrize("make", [lambda base, new: base / "vae/diffusion_pytorch_model.safetensors",
                                  lambda base, new: new / "nowhere.safetensors"])  # fmt: skip
def test_what_is_no_lora_is_not_continued(
    make: Callable, base: Path, make_job: Callable, context: Recorder, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is no LoRA that can be used"):
        train(make_job(adapter__continue_from=str(make(base, tmp_path))), context)


def test_a_run_can_be_resumed_when_the_file_it_continued_is_gone(
    straight: Any, make_job: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "begun.safetensors"
    shutil.copy(straight[2], file)
    job = make_job(adapter__continue_from=str(file), run__epochs=3)
    train(job, Recorder(tmp_path / "whole"))
    folder = tmp_path / "parts"
    shutil.copytree(tmp_path / "whole", folder)
    shutil.rmtree(folder / "state/00000006")
    file.unlink()
    train({**job, "resume": True}, Recorder(folder))
    assert same(last_state(tmp_path / "whole"), last_state(folder))


@pytest.mark.parametrize("kind", ["lora", "loha", "dora"])
def test_a_lora_of_another_family_is_not_drawn_with(
    kind: str, open_base: Callable, base: Path, context: Recorder, tmp_path: Path
) -> None:
    path = adapter_file(tmp_path / "other.safetensors", open_base("sdxl_base"), kind=kind)
    request = {"path": "a.png", "prompt": "zorbi", "lora": str(path), "width": 32, "height": 32, "num_steps": 1}
    with pytest.raises(UserError, match=r"other\.safetensors"):
        sample({"base": str(base), "requests": [request]}, context)
    assert not (context.folder / "a.png").exists()


# --- the pictures ---------------------------------------------------------------------------------------------------


def edited(dataset: Path, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
    content = json.loads(dataset.read_text())
    change(content["images"])
    dataset.write_text(json.dumps(content))
    return dataset


@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_picture_is_enough(batch_size: int, make_job: Callable, context: Recorder, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "one", [(32, 32)])
    changes = {"data__batch_size": batch_size, "run__validation_share": 0.5}
    assert train(make_job(dataset=dataset, **changes), context)["steps"] == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda images: images[1].update(id="0"), "has 0 more than once"),
        (lambda images: [image.update(repeats=0) for image in images], "all have 0 repeats"),
        (lambda images: images[1].update(width=0), "picture-1.png is 0 x 32"),
        (lambda images: images[1].update(repeats=-1), "-1 repeats"),
        (lambda images: images[1].update(crop=[0, 0, float("inf"), 1]), "damaged"),
        (lambda images: images[1].update(crop=[0, 0, float("nan"), 1]), "damaged"),
        (lambda images: images[1].update(crop=[0, 0, 1]), "damaged"),
        (lambda images: images[1].update(caption=7), "caption 7"),
        (lambda images: images[1].pop("file"), "damaged"),
        (lambda images: images.append("picture"), "damaged"),
        (lambda images: images.clear(), "no pictures"),
    ],
)
def test_a_list_of_pictures_that_cannot_be_is_refused(
    change: Callable, told: str, make_job: Callable, context: Recorder, tmp_path: Path
) -> None:
    dataset = edited(make_dataset(tmp_path / "data"), change)
    with pytest.raises(UserError, match=told):
        train(make_job(dataset=dataset), context)


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (16, 400)])
def test_a_picture_too_small_or_too_thin_is_named(
    size: tuple[int, int], make_job: Callable, context: Recorder, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path / "data", [(32, 32), size])
    with pytest.raises(UserError, match=rf"picture-1\.png cannot be used: .*{size[0]} x {size[1]}"):
        train(make_job(dataset=dataset), context)


@pytest.mark.parametrize("no_upscale", [False, True])
def test_pictures_of_extreme_shape_are_trained(
    no_upscale: bool, make_job: Callable, context: Recorder, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path / "data", [(16, 320), (320, 16), (32, 32)])
    summary = train(make_job(dataset=dataset, data__no_upscale=no_upscale, run__epochs=1), context)
    assert summary["steps"] == 3


def test_long_and_empty_captions_are_told_and_trained(make_job: Callable, context: Recorder, tmp_path: Path) -> None:
    def change(images: list[dict[str, Any]]) -> None:
        images[0]["caption"], images[1]["caption"] = ", ".join(["zorbi"] * 60), ""
        del images[2]["caption"]

    dataset = edited(make_dataset(tmp_path / "data"), change)
    train(make_job(dataset=dataset, data__max_tokens=75), context)
    notes = " ".join(note["text"] for note in context.of("Note"))
    assert "1 captions are longer than data.max_tokens 75" in notes and "2 of 4 pictures have an empty caption" in notes


def test_pictures_that_vanish_during_the_run_are_not_missed(straight: Any, make_job: Callable, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")

    class Thief(Recorder):
        def report(self, event: Any) -> None:
            super().report(event)
            if self.of("Step"):
                for path in (tmp_path / "data").glob("*.png"):
                    path.unlink()

        def should_stop(self) -> bool:
            return len(self.of("Step")) == 3

    job = make_job(dataset=dataset)
    train(job, Thief(tmp_path / "run"))
    assert not list((tmp_path / "data").glob("*.png"))
    train({**job, "resume": True}, Recorder(tmp_path / "run"))
    assert same(straight[1], last_state(tmp_path / "run"))


def test_a_stop_while_pictures_are_encoded_is_heard_at_once(
    make_job: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_studio.engine.cache.ENCODE_PIXELS", 1)

    class Stop(Recorder):
        def should_stop(self) -> bool:
            return bool(self.of("Phase")) and self.of("Phase")[-1]["name"] != "load"

    encoded: list[int] = []
    real = LatentFamily.encode_images
    monkeypatch.setattr(LatentFamily, "encode_images", lambda self, x: (encoded.append(len(x)), real(self, x))[1])
    context = Stop(tmp_path / "run")
    assert train(make_job(), context)["steps"] == 0
    assert not encoded and not context.of("Validation") and not list(context.folder.glob("state/*"))


def test_a_base_and_settings_that_are_wrong_leave_no_trace_in_the_cache(make_job: Callable, context: Recorder) -> None:
    job = make_job(run__clip_skip=9)
    with pytest.raises(SettingsError):
        train(job, context)
    assert not Path(job["cache"]).exists()


def test_a_disk_that_is_full_while_drawing_does_not_end_the_run(
    straight: Any, make_job: Callable, context: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert train(make_job(dataset=Path(straight[0]["dataset"]), run__sample_every_epochs=1), context)["steps"] == 4
    assert any("No space left on device" in note["text"] for note in context.of("Note"))
    assert same(straight[1], last_state(context.folder)) and not list(context.folder.glob("samples/*"))
