"""The pictures of a training: read, dealt out, looked at."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lora_studio.core.errors import UserError
from lora_studio.engine import regularization
from lora_studio.engine.config import DataConfig, TrainConfig
from lora_studio.engine.data import Sampler, plan_for, read_dataset
from lora_studio.engine.picture import VARIANTS, Look, Picture, frame_of, load_masks, load_pixels, look_of
from tests.engine.conftest import settings
from tests.tiny import make_dataset

SIZES = [(32, 32), (40, 24), (24, 40), (33, 48), (64, 64), (32, 32)]


def set_of(folder: Path, config: TrainConfig, sizes: list[tuple[int, int]] = SIZES, **changes: Any) -> list[Picture]:
    """The pictures of a small set; `changes` go into every entry of dataset.json."""
    path = make_dataset(folder / "data", sizes)
    if changes:
        entries = json.loads(path.read_text())["images"]
        path.write_text(json.dumps({"images": [entry | changes for entry in entries]}))
    return read_dataset(path, config.data)


def steps_of(sampler: Sampler, pictures: list[Picture], epochs: int = 1, first: int = 1) -> list[list[Any]]:
    steps = plan_for(pictures, sampler.config, sampler.world).steps_per_epoch
    return [sampler.batches(step, steps) for step in range(first, epochs * steps + 1)]


def dealt(sampler: Sampler, pictures: list[Picture], epochs: int = 1) -> list[Any]:
    """All samples of some epochs."""
    return [s for step in steps_of(sampler, pictures, epochs) for batch in step for s in batch]


def save(path: Path, size: tuple[int, int], colour: Any = "red", mode: str = "RGB", caption: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    if caption:
        path.with_suffix(".txt").write_text(caption)
    return path


# --- dealing ------------------------------------------------------------------------------------------------------


def test_the_order_of_a_seed_is_pinned(tmp_path: Path) -> None:
    """It is what a resumed run relies on, and what keeps the losses of earlier versions."""
    config = settings(data__flip=True, data__tag_dropout=0.3)
    pictures = set_of(tmp_path, config)
    found = [
        [(sample.picture.id, sample.flip, sample.caption) for sample in batch]
        for step in steps_of(Sampler(pictures, config), pictures)
        for batch in step
    ]
    assert found == ORDER


ORDER = [
    [("0", False, "zorbi, smile, red 0")],
    [("1", True, "zorbi, red 1, smile")],
    [("3", False, "zorbi, red 3, smile"), ("2", False, "zorbi, red 2, smile")],
    [("5", False, "zorbi, smile, red 5, blue hair"), ("4", False, "zorbi, red 4, blue hair")],
]

DEALT = [
    {},
    {"data__batch_size": 3, "run__gradient_accumulation": 2, "data__repeats": 2},
    {"data__more_resolutions": (48, 40), "run__validation_share": 0.2},
    {"data__no_upscale": True, "data__more_resolutions": (48,)},
    {"data__balance": ("red 0", "red 1"), "data__repeats": 3},
    {"data__regularization": "reg", "data__batch_size": 4},
    {"data__regularization": "reg", "data__more_resolutions": (48,), "data__repeats": 3, "run__validation_share": 0.3},
]


def with_folder(tmp_path: Path, changes: dict[str, Any]) -> TrainConfig:
    """Settings in which the folder `reg` holds a few pictures of several shapes."""
    if "data__regularization" in changes:
        for index, size in enumerate([(32, 32), (48, 32), (32, 64), (40, 40), (64, 30)]):
            save(tmp_path / f"reg/{index}.png", size, caption=f"girl, {index}")
        changes = {**changes, "data__regularization": str(tmp_path / "reg")}
    return settings(**changes)


@pytest.mark.parametrize("changes", DEALT)
def test_every_epoch_has_the_batches_that_the_plan_counts(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = with_folder(tmp_path, changes)
    pictures = set_of(tmp_path, config)
    plan, sampler = plan_for(pictures, config), Sampler(pictures, config)
    for epoch in range(3):
        batches = [
            batch
            for step in range(plan.steps_per_epoch)
            for batch in sampler.batches(epoch * plan.steps_per_epoch + step + 1, plan.steps_per_epoch)
        ]
        assert len(batches) == plan.batches_per_epoch
        assert all(len({sample.picture.bucket for sample in batch}) == 1 for batch in batches)
        found = Counter(sample.picture.bucket for batch in batches for sample in batch)
        assert dict(sorted(found.items())) == {size: count for size, count in plan.buckets.items() if count}
        prior = sum(sample.picture.regularization for batch in batches for sample in batch)
        assert (sum(found.values()) - prior, prior) == (plan.samples, plan.regularization)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("changes", DEALT)
def test_several_processes_see_what_one_with_their_batch_sees(
    tmp_path: Path, changes: dict[str, Any], world: int
) -> None:
    config = with_folder(tmp_path, {"data__flip": True, "data__random_crop": True, **changes})
    whole = config.with_changes({"data.batch_size": config.data.batch_size * world})
    pictures = set_of(tmp_path, config)
    one = Sampler(pictures, whole)
    many = [Sampler(pictures, config, rank, world) for rank in range(world)]
    steps = plan_for(pictures, whole).steps_per_epoch
    assert plan_for(pictures, config, world) == plan_for(pictures, whole)
    for step in range(1, 2 * steps + 1):
        shares = [sampler.batches(step, steps) for sampler in many]
        for index, batch in enumerate(one.batches(step, steps)):
            assert batch.rows == list(range(len(batch))) and batch.total == len(batch)
            together: dict[int, Any] = {}
            for share in shares:
                assert share[index].total == len(batch)
                together.update(zip(share[index].rows, share[index], strict=True))
            assert [together[row] for row in range(len(batch))] == list(batch)
            assert max(len(share[index]) for share in shares) <= config.data.batch_size


@pytest.mark.parametrize("changes", DEALT)
def test_a_step_is_a_function_of_seed_and_step_alone(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = with_folder(tmp_path, changes)
    pictures = set_of(tmp_path, config)
    steps = plan_for(pictures, config).steps_per_epoch
    asked = list(range(1, 3 * steps + 1))
    in_order = {step: Sampler(pictures, config).batches(step, steps) for step in asked}
    random.Random(0).shuffle(asked)
    mixed = Sampler(pictures, config)
    assert all(mixed.batches(step, steps) == in_order[step] for step in asked)
    other = config.with_changes({"run.seed": 43})
    assert [Sampler(pictures, other).batches(step, steps) for step in sorted(asked)] != list(in_order.values())


def test_every_picture_comes_up_at_every_size(tmp_path: Path) -> None:
    config = settings(data__more_resolutions=(48, 32, 64))
    pictures = set_of(tmp_path, config)
    found = Counter((s.picture.id, s.picture.resolution) for s in dealt(Sampler(pictures, config), pictures))
    assert found == {(str(index), size): 1 for index in range(6) for size in (32, 48, 64)}
    assert all(
        s.picture.bucket[0] * s.picture.bucket[1] <= s.picture.resolution**2
        for s in dealt(Sampler(pictures, config), pictures)
    )


def test_a_picture_is_shown_otherwise_at_each_size(tmp_path: Path) -> None:
    config = settings(data__more_resolutions=(48,), data__flip=True)
    pictures = set_of(tmp_path, config, [(32, 32)] * 8)
    shown: dict[str, set[Any]] = {}
    for sample in dealt(Sampler(pictures, config), pictures):
        shown.setdefault(sample.picture.id, set()).add((sample.caption, sample.flip))
    assert sum(len(looks) for looks in shown.values()) > 12


def test_held_out_pictures_are_in_no_batch_at_any_size(tmp_path: Path) -> None:
    config = settings(data__more_resolutions=(48,), run__validation_share=0.34)
    pictures = set_of(tmp_path, config)
    sampler = Sampler(pictures, config)
    assert len(sampler.held_out) == 2 and len(sampler.training) == 4
    assert not {p.id for p in sampler.held_out} & {s.picture.id for s in dealt(sampler, pictures)}


def test_all_that_can_come_up_is_wanted(tmp_path: Path) -> None:
    config = with_folder(
        tmp_path,
        {"data__regularization": "reg", "data__more_resolutions": (48,), "data__flip": True, "data__random_crop": True,
         "run__validation_share": 0.2},
    )  # fmt: skip
    pictures = set_of(tmp_path, config)
    sampler = Sampler(pictures, config)
    wanted = sampler.wanted()
    assert len(wanted) == len(set(wanted)) == (5 + 5) * 2 * 2 * VARIANTS + 1
    assert {sample.which for sample in dealt(sampler, pictures, 12)} <= set(wanted)
    assert wanted[:6] == [(picture, False, 0) for picture in [*sampler.training, *sampler.held_out]]


# --- regularisation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [1, 7])
def test_there_are_as_many_regularisation_samples_as_others_and_all_come_up_alike(tmp_path: Path, repeats: int) -> None:
    config = with_folder(tmp_path, {"data__regularization": "reg", "data__repeats": repeats})
    pictures = set_of(tmp_path, config)
    epochs = 10
    samples = dealt(Sampler(pictures, config), pictures, epochs)
    prior = Counter(s.picture.id for s in samples if s.picture.regularization)
    assert sum(prior.values()) == len(samples) / 2 == 6 * repeats * epochs
    assert len(prior) == 5 and max(prior.values()) - min(prior.values()) <= epochs * 1


def test_of_many_regularisation_pictures_each_epoch_shows_others(tmp_path: Path) -> None:
    for index in range(5):
        save(tmp_path / f"reg/{index}.png", (32, 32))
    config = settings(data__regularization=str(tmp_path / "reg"))
    pictures = set_of(tmp_path, config, [(32, 32)] * 2)
    prior = [s.picture.id for s in dealt(Sampler(pictures, config), pictures, 5) if s.picture.regularization]
    assert set(Counter(prior).values()) == {2} and len(set(prior)) == 5


def test_regularisation_pictures_have_their_own_captions_and_are_never_held_out(tmp_path: Path) -> None:
    config = with_folder(tmp_path, {"data__regularization": "reg", "run__validation_share": 0.5})
    save(tmp_path / "reg/below/no caption.webp", (32, 32))
    pictures = set_of(tmp_path, config)
    own = {p.id: p.caption for p in pictures if p.regularization}
    assert own["regularization/0.png"] == "girl, 0" and own["regularization/below/no caption.webp"] == ""
    sampler = Sampler(pictures, config)
    assert len(sampler.regularization) == 6 and not any(p.regularization for p in sampler.held_out + sampler.training)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".bmp", ".gif", ".tif", ".avif"])
def test_every_picture_format_is_read(tmp_path: Path, ending: str) -> None:
    save(tmp_path / f"reg/one{ending}", (40, 24))
    config = settings(data__regularization=str(tmp_path / "reg"))
    (picture,) = [p for p in set_of(tmp_path, config) if p.regularization]
    assert picture.size == (40, 24) and regularization.sizes(config.data.regularization) == [(40, 24)]


def test_a_picture_lying_on_its_side_has_its_seen_size(tmp_path: Path) -> None:
    (tmp_path / "reg").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 24)).save(tmp_path / "reg/side.jpg", exif=exif)
    config = settings(data__regularization=str(tmp_path / "reg"))
    (picture,) = [p for p in set_of(tmp_path, config) if p.regularization]
    assert picture.size == (24, 40) and regularization.sizes(config.data.regularization) == [(24, 40)]


def test_the_page_counts_the_steps_that_the_trainer_does(tmp_path: Path) -> None:
    from lora_studio.engine.buckets import steps_for

    config = with_folder(tmp_path, {"data__regularization": "reg", "data__balance": ("red 1", "red 2")})
    pictures = set_of(tmp_path, config)
    page = [(*p.size, p.repeats, p.caption) for p in pictures if not p.regularization]
    assert steps_for(page, config, regularization.sizes(config.data.regularization)) == plan_for(pictures, config)


def test_all_broken_regularisation_pictures_are_named_at_once(tmp_path: Path) -> None:
    config = with_folder(tmp_path, {"data__regularization": "reg"})
    (tmp_path / "reg/rubbish.jpg").write_bytes(b"no picture")
    whole = save(tmp_path / "reg/cut.png", (64, 64)).read_bytes()
    (tmp_path / "reg/cut.png").write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"cut\.png .*rubbish\.jpg") as caught:
        set_of(tmp_path, config)
    assert "data.regularization" in caught.value.remedy
    with pytest.raises(UserError, match=r"rubbish\.jpg"):
        regularization.sizes(config.data.regularization)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_folder_without_pictures_is_told(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "reg")
    with pytest.raises(UserError, match=r"data\.regularization"):
        set_of(tmp_path, settings(data__regularization=str(tmp_path / "reg")))


# --- looks --------------------------------------------------------------------------------------------------------


def gradient(path: Path, size: tuple[int, int] = (64, 32)) -> Path:
    """Red grows to the right, green downwards."""
    width, height = size
    red = np.tile(np.linspace(0, 255, width, dtype=np.uint8), (height, 1))
    green = np.tile(np.linspace(0, 255, height, dtype=np.uint8)[:, None], (1, width))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([red, green, np.full_like(red, 90)], axis=-1)).save(path)
    return path


def picture_of(path: Path, bucket: tuple[int, int] = (32, 32), **changes: Any) -> Picture:
    with Image.open(path) as image:
        values = {"id": "x", "file": path, "caption": "", "repeats": 1, "crop": None, "size": image.size}
        return Picture(**{**values, "sha256": path.name, "bucket": bucket, **changes})  # type: ignore[arg-type]


def test_random_crop_cuts_at_different_places_within_the_picture(tmp_path: Path) -> None:
    picture = picture_of(gradient(tmp_path / "a.png"))
    looks = [look_of(picture, False, variant, DataConfig(random_crop=True)) for variant in range(VARIANTS)]
    assert looks[0] == Look() and len({look.place for look in looks}) == VARIANTS
    seen = load_pixels(picture, looks)
    assert len({tuple(pixels[0, 0].tolist()) for pixels in seen}) == VARIANTS
    assert all(pixels.shape == (3, 32, 32) for pixels in seen)
    for look, pixels in zip(looks, seen, strict=True):
        left = frame_of(picture, look)[3]
        assert 0 <= left <= 32
        assert torch.equal(pixels, load_pixels(picture, [look])[0])
        assert pixels[0, 0, 0].item() == pytest.approx(-1 + 2 * left / 63, abs=0.02)


def test_a_picture_that_fills_its_bucket_has_only_one_place(tmp_path: Path) -> None:
    picture = picture_of(gradient(tmp_path / "a.png", (32, 32)))
    assert {look_of(picture, False, variant, DataConfig(random_crop=True)) for variant in range(VARIANTS)} == {Look()}


def test_jitter_changes_colours_but_not_places_and_is_the_same_in_every_run(tmp_path: Path) -> None:
    picture = picture_of(gradient(tmp_path / "a.png", (32, 32)))
    config = DataConfig(color_jitter=0.2)
    looks = [look_of(picture, False, variant, config) for variant in range(VARIANTS)]
    assert looks[0].jitter is None and len({look.jitter for look in looks}) == VARIANTS
    assert all(0.8 <= factor <= 1.2 for look in looks[1:] for factor in look.jitter or ())
    plain, *changed = load_pixels(picture, looks)
    for pixels in changed:
        assert 0.01 < (pixels - plain).abs().mean() < 0.35
        assert (pixels[0].diff(dim=1) >= 0).all()  # still growing to the right
    assert looks == [look_of(picture, False, variant, config) for variant in range(VARIANTS)]


@pytest.mark.parametrize(
    ("jitter", "property_of"),
    [
        ((1.4, 1.0, 1.0), lambda pixels: pixels.mean()),
        ((1.0, 1.4, 1.0), lambda pixels: pixels.mean(dim=0).std()),
        ((1.0, 1.0, 1.4), lambda pixels: pixels.std(dim=0).mean()),
    ],
)
def test_brightness_contrast_and_saturation_are_what_they_say(
    tmp_path: Path, jitter: tuple[float, float, float], property_of: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    picture = picture_of(gradient(tmp_path / "a.png", (32, 32)))
    plain, changed = load_pixels(picture, [Look(), Look(jitter=jitter)])
    assert property_of(changed) > property_of(plain)


@pytest.mark.parametrize("changes", [{"color_jitter": 0.1}, {"random_crop": True}])
def test_all_variants_come_up_and_none_when_off(tmp_path: Path, changes: dict[str, Any]) -> None:
    pictures = set_of(tmp_path, settings())
    on = settings(**{f"data__{name}": value for name, value in changes.items()})
    assert {s.variant for s in dealt(Sampler(pictures, on), pictures, 20)} == set(range(VARIANTS))
    assert {s.variant for s in dealt(Sampler(pictures, settings()), pictures, 5)} == {0}


def test_mirroring_is_exact_for_every_look(tmp_path: Path) -> None:
    picture = picture_of(gradient(tmp_path / "a.png"))
    looks = [Look(flip, (0.2, 0.0), (1.1, 0.9, 1.2)) for flip in (False, True)]
    plain, mirrored = load_pixels(picture, looks)
    assert torch.equal(plain.flip(2), mirrored)


# --- frames -------------------------------------------------------------------------------------------------------


def test_a_frame_says_original_size_cut_and_bucket(tmp_path: Path) -> None:
    picture = picture_of(gradient(tmp_path / "a.png", (128, 64)))
    # resized to 64 x 32, 32 x 32 cut at the centre
    assert picture.frame == (64, 128, 0, 16, 32, 32)
    corner = Look(place=(0.999, 0.5))
    assert frame_of(picture, corner) == (64, 128, 0, 32, 32, 32)
    assert frame_of(picture, Look(True, (0.999, 0.5))) == (64, 128, 0, 0, 32, 32)


def test_the_users_crop_is_the_original_of_the_frame(tmp_path: Path) -> None:
    config = settings()
    (picture,) = set_of(tmp_path, config, [(64, 64)], crop=[0.0, 0.25, 1.0, 0.75])
    assert picture.frame[:2] == (32, 64)
    (batch,) = Sampler([picture], config).batches(1, 1)
    assert batch.samples[0].frame == picture.frame


# --- masks --------------------------------------------------------------------------------------------------------


def half(size: tuple[int, int]) -> Image.Image:
    """White on the left half."""
    image = Image.new("L", size, 0)
    image.paste(255, (0, 0, size[0] // 2, size[1]))
    return image


def test_a_mask_file_is_cut_and_mirrored_with_its_picture(tmp_path: Path) -> None:
    half((128, 64)).save(tmp_path / "mask.png")  # twice the picture's size
    picture = picture_of(gradient(tmp_path / "a.png"), mask=tmp_path / "mask.png")
    looks = [Look(), Look(flip=True), Look(place=(0.0, 0.0)), Look(place=(0.999, 0.0))]
    centre, mirrored, left, right = load_masks(picture, looks, (4, 4))
    assert centre.shape == (1, 4, 4) and centre[0, 0].tolist() == pytest.approx([1, 1, 0, 0], abs=0.07)
    assert torch.equal(mirrored, centre.flip(2))
    assert left.min() > 0.9 and right.max() < 0.1


def test_a_mask_follows_the_users_crop(tmp_path: Path) -> None:
    half((64, 32)).save(tmp_path / "mask.png")
    picture = picture_of(
        gradient(tmp_path / "a.png"), mask=tmp_path / "mask.png", crop=(0.0, 0.0, 0.5, 1.0), size=(32, 32)
    )
    assert torch.equal(load_masks(picture, [Look()], (4, 4))[0], torch.ones(1, 4, 4))


def test_a_pictures_transparency_is_its_mask_where_asked_for(tmp_path: Path) -> None:
    image = Image.open(gradient(tmp_path / "a.png", (32, 32))).convert("RGBA")
    image.putalpha(half((32, 32)))
    image.save(tmp_path / "b.png")
    (mask,) = load_masks(picture_of(tmp_path / "b.png", alpha_mask=True), [Look()], (4, 4))
    assert mask[0].mean(dim=0).tolist() == [1, 1, 0, 0]
    (opaque,) = load_masks(picture_of(tmp_path / "a.png", alpha_mask=True), [Look()], (4, 4))
    assert torch.equal(opaque, torch.ones(1, 4, 4))
    upper = half((32, 32)).rotate(-90)
    upper.save(tmp_path / "mask.png")
    both = picture_of(tmp_path / "b.png", alpha_mask=True, mask=tmp_path / "mask.png")
    assert load_masks(both, [Look()], (2, 2))[0][0].tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("mode", ["LA", "P", "PA"])
def test_transparency_is_found_in_every_mode(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (16, 0, 32, 32))
    path = tmp_path / {"P": "a.gif", "PA": "a.tif", "LA": "a.png"}[mode]
    (image if mode == "P" else image.convert(mode)).save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode
    (mask,) = load_masks(picture_of(path, alpha_mask=True), [Look()], (4, 4))
    assert mask[0].mean(dim=0).tolist() == [1, 1, 0, 0]


def test_a_mask_that_leaves_nothing_is_refused_by_name(tmp_path: Path) -> None:
    Image.new("L", (64, 32), 0).save(tmp_path / "mask.png")
    picture = picture_of(gradient(tmp_path / "a.png"), mask=tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"a\.png leaves nothing"):
        load_masks(picture, [Look()], (4, 4))


def test_the_dataset_names_masks_and_a_missing_one_is_told(tmp_path: Path) -> None:
    config = settings(data__alpha_mask=True)
    half((32, 32)).save(save(tmp_path / "data/m.png", (8, 8)))
    picture = set_of(tmp_path, config, mask="m.png")[0]
    assert picture.mask == tmp_path / "data/m.png" and len(picture.mask_sha256) == 64 and picture.alpha_mask
    with pytest.raises(UserError, match=r"gone\.png"):
        set_of(tmp_path, config, mask="gone.png")
