"""The sampling job, on saved files; and that drawing leaves a training as it was."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.engine.checkpoint import load_lora, save_lora
from lora_studio.engine.config import SampleJob, SampleRequest, SamplerName
from lora_studio.engine.families.latent import LatentFamily
from lora_studio.engine.sampling import Drawer, draw_with, sample, sample_images
from tests.engine.conftest import KINDS, Recorder


def write_lora(family: LatentFamily, path: Path, rank: int = 2, size: float = 0.5, layers: str = "all") -> Path:
    """A LoRA of chance, strong enough to be seen, in all layers of the base."""
    chance = torch.Generator().manual_seed(1)
    tensors = {}
    for part, modules in family.adapter_layers(layers, ["unet", *family.text_parts]).items():
        for module in modules:
            name, weight = family.key_name(part, module), family.part(part).get_submodule(module).weight
            down = (rank, *weight.shape[1:])
            tensors[f"{name}.lora_down.weight"] = torch.randn(down, generator=chance) / weight[0].numel() ** 0.5
            up = (weight.shape[0], rank, *[1] * (weight.dim() - 2))
            tensors[f"{name}.lora_up.weight"] = torch.randn(up, generator=chance) * size
            tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    save_lora(path, tensors, family.metadata())
    return path


@pytest.fixture
def lora(open_base: Callable, tmp_path: Path) -> Path:
    """A LoRA for the tiny base."""
    return write_lora(open_base("base"), tmp_path / "zorbi.safetensors")


def request(path: str, **changes: Any) -> SampleRequest:
    small = {"prompt": "zorbi", "width": 32, "height": 32, "num_steps": 3}
    return SampleRequest.load({"path": path, **small, **changes})


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=np.int16)


def run(base: Path, folder: Path, requests: list[SampleRequest], recorder: Recorder | None = None) -> dict[str, Any]:
    return sample(SampleJob(base=str(base), requests=tuple(requests)).to_dict(), recorder or Recorder(folder))


def test_the_grid_shows_lora_strength_prompt_seed_and_sampler(lora: Path, base: Path, tmp_path: Path) -> None:
    cases = {
        "bare": {}, "weak": {"lora": str(lora), "strength": 0.5}, "full": {"lora": str(lora)},
        "zero": {"lora": str(lora), "strength": 0.0}, "negative": {"negative": "bad"}, "other": {"prompt": "cat"},
        "seed": {"seed": 2}, "steps": {"num_steps": 5}, "guidance": {"guidance": 9.0}, "euler": {"sampler": "euler_a"},
        "wide": {"width": 64}, "skip": {"clip_skip": 2},
    }  # fmt: skip
    made = run(base, tmp_path / "s", [request(f"images/{name}.png", **case) for name, case in cases.items()])
    assert made == {"drawn": len(cases), "total": len(cases), "failed": []}
    drawn = {name: pixels(tmp_path / f"s/images/{name}.png") for name in cases}
    assert np.abs(drawn["bare"] - drawn["zero"]).max() <= 1  # drawn in other company: rounding may differ
    differing = [name for name in cases if name not in ("bare", "zero")]
    for name in differing:
        assert not np.array_equal(drawn[name], drawn["bare"]), name
    weak, full = (np.abs(drawn[name] - drawn["bare"]).mean() for name in ("weak", "full"))
    assert 0 < weak < full
    assert "zorbi" in Image.open(tmp_path / "s/images/full.png").info["parameters"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_draws_from_every_kind_of_base(kind: str, open_base: Callable) -> None:
    drawer = Drawer(open_base(kind))
    drawn = {}
    for sampler in get_args(SamplerName):
        for num_steps in (1, 6):
            drawn[sampler] = np.asarray(drawer.draw([request("a.png", sampler=sampler, num_steps=num_steps)])[0])
            assert drawn[sampler].shape == (32, 32, 3) and 5 < drawn[sampler].std() < 120, sampler
    assert len({picture.tobytes() for picture in drawn.values()}) == len(drawn)


def test_lcm_draws_with_more_steps_than_its_grid_has(open_base: Callable) -> None:
    assert len(Drawer(open_base("base")).draw([request("a.png", sampler="lcm", num_steps=60)])) == 1


def test_a_long_prompt_and_weights_are_read_to_their_end(open_base: Callable) -> None:
    drawer = Drawer(open_base("sdxl_base"))
    long = "a b c d e " * 20
    texts = [long + "x", long + "y", "a cat", "a (cat:1.8)"]
    one, other, plain, strong = (np.asarray(drawer.draw([request("x", prompt=text)])[0]) for text in texts)
    assert not np.array_equal(one, other) and not np.array_equal(plain, strong)


def test_prompts_of_other_length_are_drawn_apart(open_base: Callable) -> None:
    """Else a short prompt would be filled up, and its picture depend on its company."""
    drawer = Drawer(open_base("base"))
    requests = [request(f"{index}", prompt=text) for index, text in enumerate(["cat", "a " * 80, "b " * 80, "dog"])]
    assert [len(batch) for batch in drawer.batches(requests, 4)] == [1, 2, 1]


def test_a_picture_does_not_depend_on_its_company(base: Path, tmp_path: Path) -> None:
    run(base, tmp_path / "alone", [request("2.png", seed=2)])
    run(base, tmp_path / "batch", [request(f"{seed}.png", seed=seed) for seed in range(6)])
    assert np.abs(pixels(tmp_path / "alone/2.png") - pixels(tmp_path / "batch/2.png")).max() <= 1


def test_pictures_that_exist_are_not_drawn_again(base: Path, tmp_path: Path) -> None:
    run(base, tmp_path / "s", [request("a.png")])
    before = (tmp_path / "s/a.png").stat().st_mtime_ns
    told = Recorder(tmp_path / "s")
    run(base, tmp_path / "s", [request("a.png"), request("b.png")], told)
    assert (tmp_path / "s/a.png").stat().st_mtime_ns == before
    assert [event["path"] for event in told.of("FileWritten")] == ["b.png"]


@pytest.mark.parametrize("kind", ["base", "sd2_base", "sdxl_base"])
def test_swapping_adapters_leaves_nothing_behind(kind: str, open_base: Callable, tmp_path: Path) -> None:
    family = open_base(kind)
    lora = write_lora(family, tmp_path / "any.safetensors")
    order = [None, str(lora), None, str(lora)]
    pictures = [np.asarray(image) for image in sample_images(family.path, [request("x", lora=name) for name in order])]
    assert np.array_equal(pictures[0], pictures[2]) and np.array_equal(pictures[1], pictures[3])
    assert not np.array_equal(pictures[0], pictures[1])


def loha(family: LatentFamily) -> dict[str, torch.Tensor]:
    """A LoHa of chance in the attention of all parts."""
    chance = torch.Generator().manual_seed(2)
    tensors = {}
    for part, modules in family.adapter_layers("attention", ["unet", *family.text_parts]).items():
        for module in modules:
            name, (high, wide) = family.key_name(part, module), family.part(part).get_submodule(module).weight.shape
            for number in "12":
                tensors[f"{name}.hada_w{number}_a"] = torch.randn(high, 2, generator=chance) * 0.7
                tensors[f"{name}.hada_w{number}_b"] = torch.randn(2, wide, generator=chance) * 0.7
            tensors[f"{name}.alpha"] = torch.tensor(1.0)
    return tensors


@torch.no_grad()
def merge(family: LatentFamily, tensors: dict[str, torch.Tensor], strength: float) -> None:
    """Add up @ down * alpha / rank, or LoHa's product of two such, to the base's weights."""
    for part in ("unet", *family.text_parts):
        for module in family.adapter_layers("all", [part])[part]:
            own = {
                key.split(".", 1)[1]: v
                for key, v in tensors.items()
                if key.startswith(f"{family.key_name(part, module)}.")
            }
            weight = family.part(part).get_submodule(module).weight
            if "lora_up.weight" in own:
                down = own["lora_down.weight"]
                change, rank = own["lora_up.weight"].flatten(1) @ down.flatten(1), len(down)
            elif own:
                change = (own["hada_w1_a"] @ own["hada_w1_b"]) * (own["hada_w2_a"] @ own["hada_w2_b"])
                rank = own["hada_w1_a"].shape[1]
            else:
                continue
            weight += (strength * own["alpha"] / rank * change).view_as(weight)


@pytest.mark.parametrize("what", ["lora", "loha"])
@pytest.mark.parametrize("kind", ["base", "sd2_base", "sdxl_base"])
def test_a_file_draws_as_if_it_were_merged_into_the_base(
    kind: str, what: str, open_base: Callable, tmp_path: Path
) -> None:
    family, merged = open_base(kind), open_base(kind)
    path = tmp_path / f"{what}.safetensors"
    if what == "lora":
        write_lora(family, path)
    else:
        save_lora(path, loha(family), family.metadata())
    wanted = request("x", strength=0.6)
    merge(merged, load_lora(path)[0], 0.6)
    bare, full = (np.asarray(Drawer(which).draw([wanted])[0], dtype=np.int16) for which in (family, merged))
    drawer = Drawer(family)
    drawer.use(path)
    drawer.draw([request("x", strength=-1.0)])  # another strength before leaves nothing either
    drawn = np.asarray(drawer.draw([wanted])[0], dtype=np.int16)
    drawer.use(None)
    assert np.array_equal(np.asarray(drawer.draw([wanted])[0]), bare)
    assert np.abs(full - bare).max() > 10
    assert np.abs(drawn - full).max() <= 2


def test_a_lora_for_another_base_is_named_and_the_rest_is_drawn(lora: Path, base: Path, tmp_path: Path) -> None:
    tensors, told = load_lora(lora)
    wide = {
        n: torch.ones(v.shape[0], 99) if n.endswith("attn2_to_k.lora_down.weight") else v for n, v in tensors.items()
    }
    save_lora(tmp_path / "alien.safetensors", wide, told)
    requests = [request("a.png", lora=str(tmp_path / "alien.safetensors")), request("b.png", lora=str(lora))]
    made = run(base, tmp_path / "s", requests)
    assert made["failed"][0]["lora"] == "alien.safetensors" and "does not fit" in made["failed"][0]["reason"]
    assert (tmp_path / "s/b.png").exists() and not (tmp_path / "s/a.png").exists()
    with pytest.raises(UserError, match="alien"):
        run(base, tmp_path / "t", requests[:1])


def test_a_stop_in_the_middle_leaves_no_half_picture(base: Path, tmp_path: Path) -> None:
    class StopSoon(Recorder):
        def should_stop(self) -> bool:
            return bool(self.of("FileWritten"))

    told = StopSoon(tmp_path / "s")
    run(base, tmp_path / "s", [request(f"{seed}.png", seed=seed) for seed in range(9)], told)
    assert 0 < len(list((tmp_path / "s").glob("*.png"))) < 9


# --- a run in training ------------------------------------------------------------------------------------------


def everything(family: LatentFamily) -> dict[str, Any]:
    """All weights, modes, chance and parts in memory."""
    found: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state()[1].tolist()}
    found["torch"] = torch.get_rng_state()
    found["loaded"] = [name for name in ("unet", "vae", *family.text_parts) if family.loaded(name)]
    for name in found["loaded"]:
        part = family.part(name)
        found |= {f"{name}.{key}": value.clone() for key, value in part.state_dict().items()}
        found |= {f"{name}.{key} trains": module.training for key, module in part.named_modules()}
        found |= {f"{name}.{key} asks": p.requires_grad for key, p in part.named_parameters()}
    return found


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        equal = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        assert equal, name


def in_training(family: LatentFamily, dtype: torch.dtype = torch.float32) -> LatentFamily:
    """The family as a run holds it: a LoRA in the UNet, parts in training, the VAE let go."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=2, lora_dropout=0.5, target_modules=["to_q"]), family.part("unet"))
    family.part("unet").train()
    return family


@pytest.mark.parametrize("kind", ["base", "sdxl_base"])
@pytest.mark.parametrize(("sampler", "dtype"), [("euler_a", torch.float32), ("lcm", torch.bfloat16)])
def test_drawing_leaves_a_training_as_it_was(
    kind: str, sampler: str, dtype: torch.dtype, open_base: Callable, tmp_path: Path
) -> None:
    family = open_base(kind)
    family.dtype = dtype
    family.part("vae")
    before = everything(in_training(family))
    draw_with(family, [request("a.png", sampler=sampler)], Recorder(tmp_path / "run"), 1, 1)
    assert (tmp_path / "run/a.png").exists()
    assert_same(before, everything(family))


class Broken(torch.nn.Module):
    """Breaks at the third look, and has used up chance before."""

    looks = 0

    def forward(self, *args: Any) -> torch.Tensor:
        torch.rand(3), np.random.rand(), random.random()
        self.looks += 1
        if self.looks == 3:
            raise RuntimeError("out of luck")
        return args[0]


@pytest.mark.parametrize("kind", ["base", "sdxl_base"])
def test_drawing_that_fails_in_the_middle_leaves_it_so_too(kind: str, open_base: Callable, tmp_path: Path) -> None:
    family = in_training(open_base(kind))
    family.part("unet").conv_act = Broken()
    before = everything(family)
    with pytest.raises(RuntimeError, match="out of luck"):
        draw_with(family, [request("a.png")], Recorder(tmp_path / "run"), 1, 1)
    assert family.part("unet").conv_act.looks == 3
    assert_same(before, everything(family))
    assert not list((tmp_path / "run").glob("*.png"))


def test_dropout_does_not_act_while_drawing(open_base: Callable, tmp_path: Path) -> None:
    family = in_training(open_base("base"))
    for name, parameter in family.part("unet").named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape)
    for seed, run in enumerate(("one", "two")):
        torch.manual_seed(seed)
        draw_with(family, [request("a.png")], Recorder(tmp_path / run), 1, 1)
    assert np.array_equal(pixels(tmp_path / "one/a.png"), pixels(tmp_path / "two/a.png"))
