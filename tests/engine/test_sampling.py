"""The sampling job, on saved files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.engine.config import SampleJob, SampleRequest
from lora_studio.engine.sampling import sample
from lora_studio.engine.train import train
from tests.engine.conftest import Recorder


@pytest.fixture
def lora(make_job: Callable, tmp_path: Path) -> Path:
    """A LoRA strong enough to be seen."""
    rates = {"optimizer__unet_lr": 0.05, "optimizer__text_encoder_lr": 0.05, "adapter__alpha": 4.0}
    train(make_job(run__epochs=4, **rates), Recorder(tmp_path / "train"))
    return tmp_path / "train/checkpoints/zorbi-000004.safetensors"


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


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_a", "dpmpp_2m", "unipc"])
def test_every_sampler_draws_from_both_kinds_of_base(
    sampler: str, base: Path, epsilon_base: Path, tmp_path: Path
) -> None:
    for model in (base, epsilon_base):
        folder = tmp_path / model.name
        run(model, folder, [request("a.png", sampler=sampler, num_steps=6)])
        assert 5 < pixels(folder / "a.png").std() < 120


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


def test_swapping_adapters_leaves_nothing_behind(lora: Path, base: Path, tmp_path: Path) -> None:
    from lora_studio.engine.sampling import sample_images

    order = [None, str(lora), None, str(lora)]
    pictures = [np.asarray(image) for image in sample_images(base, [request("x", lora=name) for name in order])]
    assert np.array_equal(pictures[0], pictures[2]) and np.array_equal(pictures[1], pictures[3])
    assert not np.array_equal(pictures[0], pictures[1])


def test_a_lora_for_another_base_is_named_and_the_rest_is_drawn(lora: Path, base: Path, tmp_path: Path) -> None:
    import torch

    from lora_studio.engine.checkpoint import load_lora, save_lora

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
