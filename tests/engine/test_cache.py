"""Latents and text states on disk: right, never stale, shared, bounded."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import psutil
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from lora_studio.core.errors import UserError
from lora_studio.engine import cache, shards
from lora_studio.engine.cache import LatentCache, TextStates, latents, open_cache
from lora_studio.engine.config import DataConfig
from lora_studio.engine.data import Sampler, read_dataset
from lora_studio.engine.families.base import Text
from lora_studio.engine.picture import Look, Picture, load_pixels
from lora_studio.engine.shards import Shards
from tests.engine.conftest import settings
from tests.tiny import make_dataset, tokenizer

GIGABYTE = 2**30


class Encoder:
    """A true tiny VAE and a true tiny text encoder, and a list of what they were given."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(seed)
        self.vae = AutoencoderKL(
            block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=2,
            up_block_types=("UpDecoderBlock2D",) * 2, mid_block_add_attention=False,
        ).eval()  # fmt: skip
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
        ends = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
        self.text = CLIPTextModel(CLIPTextConfig(vocab_size=514, **sizes, **ends)).eval()  # type: ignore[arg-type]
        self.tokenizer, self.seed, self.dtype, self.device = tokenizer(), seed, dtype, torch.device("cpu")
        self.pictures: list[int] = []
        self.texts: list[list[str]] = []

    def identity(self, name: str) -> str:
        return f"{name} {self.seed}"

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        self.pictures.append(len(pixels))
        return self.vae.encode(pixels).latent_dist.mode()

    def encode_text(self, captions: list[str], clip_skip: int, chunks: int = 1, weighted: bool = False) -> Text:
        self.texts.append(captions)
        ids = self.tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        found = self.text(ids.input_ids, output_hidden_states=True)
        states = found.hidden_states[-clip_skip].repeat(1, chunks, 1) * (2 if weighted else 1)
        return Text(states.to(self.dtype), found.pooler_output.to(self.dtype))


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def pictures_of(folder: Path, count: int = 6, size: tuple[int, int] = (32, 32), **changes: Any) -> list[Picture]:
    return read_dataset(make_dataset(folder / "data", [size] * count), settings(**changes).data)


def fill(
    folder: Path, encoder: Encoder, pictures: list[Picture], flips: tuple[bool, ...] = (False,), limit: float = 1.0,
    **changes: Any,
) -> LatentCache:  # fmt: skip
    """What a run does: open, fill, evict."""
    store = open_cache(folder / "cache", limit)
    wanted = [(picture, flip, 0) for flip in flips for picture in pictures]
    found = latents(wanted, encoder, store, settings(**changes).data)
    store.evict()
    return found


def files(folder: Path) -> list[Path]:
    return sorted((folder / "cache/shards").glob("shard-*.safetensors"))


def right(found: LatentCache, pictures: list[Picture], flip: bool = False) -> bool:
    """Whether the cache holds what the VAE makes of each picture."""
    fresh = Encoder(found.encoder.seed)  # type: ignore[attr-defined]
    return all(
        torch.allclose(
            found.get(picture, flip), fresh.encode_images(load_pixels(picture, [Look(flip)])[0][None])[0], atol=1e-5
        )
        for picture in pictures
    )


# --- latents ------------------------------------------------------------------------------------------------------


def test_latents_are_what_the_vae_makes_of_the_picture(tmp_path: Path, encoder: Encoder) -> None:
    pictures = pictures_of(tmp_path) + pictures_of(tmp_path / "wide", size=(64, 24))
    found = fill(tmp_path, encoder, pictures, (False, True))
    assert right(found, pictures) and right(found, pictures, flip=True)
    assert found.get(pictures[0]).shape == (4, 16, 16) and found.get(pictures[0]).dtype == torch.float32
    assert found.batch([(pictures[0], False, 0), (pictures[1], True, 0)]).shape == (2, 4, 16, 16)


def test_a_second_run_encodes_nothing_and_reads_the_same(tmp_path: Path, encoder: Encoder) -> None:
    pictures = pictures_of(tmp_path)
    first = fill(tmp_path, encoder, pictures)
    again = Encoder()
    second = fill(tmp_path, again, pictures)
    assert again.pictures == [] and all(torch.equal(first.get(p), second.get(p)) for p in pictures)


def test_pictures_of_a_shape_are_encoded_together(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "ENCODE_PIXELS", 4 * 32 * 32)
    fill(tmp_path, encoder, pictures_of(tmp_path, 6) + pictures_of(tmp_path / "wide", 3, (64, 16)))
    assert encoder.pictures == [4, 2, 3]


@pytest.mark.parametrize(
    "change",
    [{"crop": (0.0, 0.0, 0.5, 0.5)}, {"bucket": (40, 24)}, {"sha256": "another"}, {"background": "#0000ff"}],
)
def test_latents_of_another_cut_or_content_are_not_taken(
    tmp_path: Path, encoder: Encoder, change: dict[str, Any]
) -> None:
    (picture,) = pictures_of(tmp_path, 1)
    fill(tmp_path, encoder, [picture])
    other = Picture(**{**vars(picture), **change})
    assert right(fill(tmp_path, encoder, [other]), [other]) and encoder.pictures == [1, 1]


def test_another_vae_does_not_read_the_old_latents(tmp_path: Path, encoder: Encoder) -> None:
    pictures = pictures_of(tmp_path)
    fill(tmp_path, encoder, pictures)
    assert right(fill(tmp_path, Encoder(1), pictures), pictures)


def test_a_new_caption_encodes_nothing(tmp_path: Path, encoder: Encoder) -> None:
    (picture,) = pictures_of(tmp_path, 1)
    fill(tmp_path, encoder, [picture])
    fill(tmp_path, encoder, [Picture(**{**vars(picture), "caption": "other", "repeats": 9, "id": "moved"})])
    assert encoder.pictures == [1]


@pytest.mark.parametrize("changes", [{"data__color_jitter": 0.2}, {"data__random_crop": True}])
def test_every_variant_is_encoded_once_and_the_same_in_every_run(
    tmp_path: Path, encoder: Encoder, changes: dict[str, Any]
) -> None:
    config = settings(data__flip=True, data__bucket_min=32, data__bucket_max=32, **changes)
    pictures = read_dataset(make_dataset(tmp_path / "data", [(96, 32)] * 2), config.data)  # cut to a square
    wanted = Sampler(pictures, config).wanted()
    first = latents(wanted, encoder, open_cache(tmp_path / "cache", 1), config.data)
    assert sum(encoder.pictures) == len(wanted) == 2 * 2 * 4
    second = latents(wanted, encoder, open_cache(tmp_path / "cache", 1), config.data)
    assert sum(encoder.pictures) == 16
    values = [first.get(*which) for which in wanted]
    assert all(torch.equal(value, second.get(*which)) for value, which in zip(values, wanted, strict=True))
    assert len({tuple(value.flatten().tolist()) for value in values}) == 16


def test_places_that_are_the_same_are_encoded_once(tmp_path: Path, encoder: Encoder) -> None:
    config = settings(data__random_crop=True)
    pictures = read_dataset(make_dataset(tmp_path / "data", [(32, 32)]), config.data)
    latents(Sampler(pictures, config).wanted(), encoder, open_cache(tmp_path / "cache", 1), config.data)
    assert encoder.pictures == [1]


def test_progress_reaches_all(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ENCODE_PIXELS", 2 * 32 * 32)
    pictures, told = pictures_of(tmp_path), []
    store = open_cache(tmp_path / "cache", 1)
    wanted = [(picture, False, 0) for picture in pictures]
    latents(wanted, encoder, store, DataConfig(), progress=lambda *now: told.append(now))
    assert told == [(0, 6), (2, 6), (4, 6), (6, 6)]


def test_a_stop_keeps_what_is_done(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ENCODE_PIXELS", 2 * 32 * 32)
    pictures = pictures_of(tmp_path, 20)
    wanted = [(picture, False, 0) for picture in pictures]
    store = open_cache(tmp_path / "cache", 1)
    latents(wanted, encoder, store, DataConfig(), should_stop=lambda: len(encoder.pictures) == 2)
    assert encoder.pictures == [2, 2] and threading.active_count() < 10
    fill(tmp_path, encoder, pictures)
    assert sum(encoder.pictures) == 20


def test_pictures_are_read_in_other_threads_a_little_ahead(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "ENCODE_PIXELS", 32 * 32)
    read, at_encoding, threads = [], [], set()

    def load(picture: Picture, looks: list[Look]) -> list[Tensor]:
        threads.add(threading.current_thread().name)
        read.append(picture.id)
        return load_pixels(picture, looks)

    real = encoder.encode_images
    monkeypatch.setattr(cache, "load_pixels", load)
    monkeypatch.setattr(
        encoder, "encode_images", lambda p: (time.sleep(0.02), at_encoding.append(len(read)), real(p))[2]
    )
    fill(tmp_path, encoder, pictures_of(tmp_path, 12))
    assert "MainThread" not in threads and len(encoder.pictures) == 12
    assert all(done - 1 <= ahead <= done + cache.AHEAD + 1 for done, ahead in enumerate(at_encoding, 1))
    assert at_encoding[2] > 3  # the next ones are read before they are needed


def test_a_broken_picture_is_named_and_the_others_are_kept(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "ENCODE_PIXELS", 32 * 32)
    pictures = pictures_of(tmp_path)
    whole = pictures[3].file.read_bytes()
    pictures[3].file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"picture-3\.png"):
        fill(tmp_path, encoder, pictures)
    pictures[3].file.write_bytes(whole)
    assert right(fill(tmp_path, encoder, pictures), pictures) and len(encoder.pictures) == 6


def test_latents_that_are_not_finite_are_refused_by_name_and_not_kept(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = encoder.encode_images
    monkeypatch.setattr(encoder, "encode_images", lambda pixels: real(pixels) * float("nan"))
    with pytest.raises(UserError, match=r"picture-0\.png.*not finite"):
        fill(tmp_path, encoder, pictures_of(tmp_path))
    assert files(tmp_path) == []


# --- masks --------------------------------------------------------------------------------------------------------


def masked_set(folder: Path, colour: int = 255) -> list[Picture]:
    """Two pictures, the first with a mask of its left half."""
    path = make_dataset(folder / "data", [(32, 32)] * 2)
    image = Image.new("L", (32, 32), 0)
    image.paste(colour, (0, 0, 16, 32))
    image.save(folder / "data/mask.png")
    entries = json.loads(path.read_text())["images"]
    entries[0]["mask"] = "mask.png"
    path.write_text(json.dumps({"images": entries}))
    return read_dataset(path, settings().data)


def test_masks_come_at_the_size_of_latents_beside_ones_for_the_others(tmp_path: Path, encoder: Encoder) -> None:
    one, other = masked_set(tmp_path)
    found = fill(tmp_path, encoder, [one, other], (False, True))
    assert found.mask(other) is None and found.masks([(other, False, 0)]) is None
    masks = found.masks([(one, False, 0), (one, True, 0), (other, False, 0)])
    assert masks is not None and masks.shape == (3, 1, 16, 16)
    assert [mask.mean().item() for mask in masks] == [0.5, 0.5, 1.0]
    assert masks[0, 0, 0, 0] == 1 and masks[1, 0, 0, 0] == 0


def test_masks_are_made_before_the_training_and_anew_when_they_change(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, encoder, masked_set(tmp_path))
    found = fill(tmp_path, encoder, masked_set(tmp_path, 51))
    (tmp_path / "data/mask.png").unlink()
    mask = found.mask(read_first(found, tmp_path))
    assert mask is not None and mask.max().item() == pytest.approx(0.2) and encoder.pictures == [2]


def read_first(found: LatentCache, folder: Path) -> Picture:
    """The first picture as it was read while its mask was there."""
    (folder / "again").mkdir()
    again = masked_set(folder / "again", 51)[0]
    assert found.store.has(found.mask_key(again, Look()))
    return again


def test_an_empty_mask_is_told_before_the_training(tmp_path: Path, encoder: Encoder) -> None:
    with pytest.raises(UserError, match=r"picture-0\.png leaves nothing"):
        fill(tmp_path, encoder, masked_set(tmp_path, 0))


# --- shards -------------------------------------------------------------------------------------------------------


def name(index: int) -> str:
    return f"{index:064d}"


def tiny(index: int, size: int = 8) -> dict[str, Tensor]:
    return {"value": torch.full((4, size), float(index))}


def filled(folder: Path, count: int = 200, start: int = 0, limit: int = GIGABYTE) -> Shards:
    store = Shards(folder / "cache/shards", limit)
    for index in range(start, start + count):
        store.add(name(index), tiny(index))
    store.flush()
    return store


def holds(store: Shards, indices: range) -> bool:
    return all(
        (entry := store.read(name(index))) is not None and torch.equal(entry["value"], tiny(index)["value"])
        for index in indices
    )


def test_many_entries_share_few_files(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert len(files(tmp_path)) == 4 and len(store) == 200
    assert holds(store, range(200)) and holds(Shards(store.folder, GIGABYTE), range(200))
    assert store.read("nothing") is None and not store.has("nothing")


def test_a_shard_is_full_by_its_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 5 * 4 * 8 * 4)
    filled(tmp_path, 20)
    assert len(files(tmp_path)) == 4


def test_what_is_not_yet_written_can_be_read(tmp_path: Path) -> None:
    store = Shards(tmp_path / "cache/shards", GIGABYTE)
    store.add("a", {"states": torch.ones(2, dtype=torch.bfloat16), "pooled": torch.zeros(())})
    before = store.read("a")
    store.flush()
    after = store.read("a")
    assert before is not None and after is not None and before.keys() == after.keys() == {"states", "pooled"}
    assert after["states"].dtype == torch.bfloat16 and torch.equal(before["states"], after["states"])


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("rubbish"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"format": 1, "shards": {"shard-gone.safetensors": [9, ["a"]]}}'),
        lambda path: path.write_text('{"format": 99, "shards": {}}'),
        lambda path: path.write_bytes(b""),
    ],
)
def test_a_lost_or_damaged_index_is_made_anew(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    folder = filled(tmp_path).folder
    whole = json.loads((folder / "index.json").read_text())
    harm(folder / "index.json")
    assert holds(Shards(folder, GIGABYTE), range(200))
    assert json.loads((folder / "index.json").read_text()) == whole


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


HARMS = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-50]),
    "rubbish": lambda path: path.write_bytes(b"rubbish"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "one bit": flip_a_byte,
    "foreign": lambda path: save_file({"value": torch.ones(3)}, path),
}


@pytest.mark.parametrize(
    ("harm", "lost"), [(harm, 1 if name == "one bit" else 3) for name, harm in HARMS.items()], ids=HARMS
)
def test_a_damaged_shard_is_dropped_and_only_what_it_held_is_encoded_anew(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None], lost: int
) -> None:
    monkeypatch.setattr(shards, "SHARD_ENTRIES", 3)
    pictures = pictures_of(tmp_path, 9)
    fill(tmp_path, encoder, pictures)
    harm(files(tmp_path)[0])
    again = Encoder()
    found = fill(tmp_path, again, pictures)
    assert right(found, pictures) and sum(again.pictures) == lost
    found.store.flush()
    third = Encoder()
    assert right(fill(tmp_path, third, pictures), pictures) and third.pictures == []


def test_a_shard_that_vanishes_in_the_run_is_encoded_anew(tmp_path: Path, encoder: Encoder) -> None:
    pictures = pictures_of(tmp_path)
    found = fill(tmp_path, encoder, pictures)
    for path in files(tmp_path):
        path.unlink()
    assert right(found, pictures)


def test_nan_in_a_kept_cache_is_not_believed(tmp_path: Path, encoder: Encoder) -> None:
    (picture,) = pictures_of(tmp_path, 1)
    found = fill(tmp_path, encoder, [picture])
    (path,) = files(tmp_path)
    (entry,) = load_file(path)
    value = torch.full((4, 16, 16), float("nan"))
    sums = json.dumps({entry.removesuffix(".value"): {"value": shards.checksum(value)}})
    save_file({entry: value}, path, {"format": "1", "crc32": sums})
    assert right(fill(tmp_path, encoder, [picture]), [picture]) and encoder.pictures == [1, 1]
    assert found.store.folder.exists()


def test_the_longest_unused_shards_go_first_and_never_those_of_the_run(tmp_path: Path) -> None:
    for age, start in enumerate((0, 64, 128)):
        before = files(tmp_path)
        filled(tmp_path, 64, start)
        (path,) = set(files(tmp_path)) - set(before)
        os.utime(path, (1000 + age, 1000 + age))
    size = path.stat().st_size
    run = Shards(tmp_path / "cache/shards", int(2.5 * size))
    assert holds(run, range(0, 1))  # the oldest is used now
    assert run.evict() == 0
    left = Shards(run.folder, GIGABYTE)
    assert holds(left, range(0, 64)) and holds(left, range(128, 192)) and not left.has(name(64))
    greedy = Shards(run.folder, 10)
    assert greedy.has(name(128))
    assert greedy.evict() == size - 10 and holds(greedy, range(128, 192)) and len(files(tmp_path)) == 1


def test_a_run_larger_than_the_limit_keeps_all_it_needs(tmp_path: Path, encoder: Encoder) -> None:
    pictures = pictures_of(tmp_path)
    found = fill(tmp_path, encoder, pictures, limit=1e-9)
    assert right(found, pictures) and encoder.pictures == [6]
    other = pictures_of(tmp_path / "other", 2, (64, 16))
    fill(tmp_path, encoder, other, limit=1e-9)
    assert len(files(tmp_path)) == 1  # what the first run needed has made room


def test_old_caches_and_leftovers_are_removed(tmp_path: Path, encoder: Encoder) -> None:
    for name in ("latents/ab", "text/0f"):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "x.safetensors").write_bytes(b"old")
    folder = tmp_path / "cache/shards"
    folder.mkdir()
    for name, age in ((".new-old.part", 7200), (".new-young.part", 0)):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (time.time() - age,) * 2)
    fill(tmp_path, encoder, pictures_of(tmp_path))
    assert not list((tmp_path / "cache").rglob("x.safetensors"))
    assert [path.name for path in folder.glob(".new-*")] == [".new-young.part"]


# --- several processes, full disks --------------------------------------------------------------------------------

FILLER = """
import sys, torch
from pathlib import Path
from lora_studio.engine.shards import Shards
store = Shards(Path(sys.argv[1]), 2**30)
print("ready", flush=True)
sys.stdin.readline()
for index in range(int(sys.argv[2])):
    if not store.has(f"{index:064d}"):
        store.add(f"{index:064d}", {"value": torch.full((4, 8), float(index))})
    if index == int(sys.argv[3]):
        print("half", flush=True)
        sys.stdin.readline()
store.flush()
print(len(store), flush=True)
"""


def filler(folder: Path, count: int, halt: int = -1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FILLER, str(folder), str(count), str(halt)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_two_processes_fill_the_same_cache_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "cache/shards"
    both = [filler(folder, 640) for _ in range(2)]
    for process in both:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["640", "640"]
    store = Shards(folder, GIGABYTE)
    assert holds(store, range(640)) and not list(folder.glob(".new-*"))
    written = sum(len(load_file(path)) for path in files(tmp_path))
    assert written == 640  # nothing twice
    assert set(json.loads((folder / "index.json").read_text())["shards"]) == {path.name for path in files(tmp_path)}


def test_a_killed_process_leaves_a_cache_that_can_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "cache/shards"
    process = filler(folder, 640, halt=200)
    process.stdin.write("\n")  # type: ignore[union-attr]
    process.stdin.flush()  # type: ignore[union-attr]
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store = Shards(folder, GIGABYTE)
    assert len(store) == 192 and holds(store, range(192))
    assert holds(filled(tmp_path, 640), range(640))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of every file is written, then the disk is full."""
    real = Path.write_bytes

    def write(self: Path, data: bytes) -> int:
        real(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path, encoder: Encoder) -> None:
    pictures = pictures_of(tmp_path)
    with pytest.raises(UserError, match="No space left") as caught:
        fill(tmp_path, encoder, pictures)
    assert "disk space" in caught.value.remedy
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert left in ([], [".lock"])
    texts = TextStates(encoder, 1, open_cache(tmp_path / "cache", 1))
    with pytest.raises(UserError, match="No space left"):
        texts([f"caption {index}" for index in range(shards.SHARD_ENTRIES)])


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    store = Shards(tmp_path / "cache/shards", GIGABYTE)
    keys = [name(index) for index in range(1200)]
    for index, key in enumerate(keys):
        store.add(key, tiny(index, 8192))  # 128 KB each, 150 MB in all
    store.flush()
    store = Shards(store.folder, GIGABYTE)
    for key in keys[:600]:
        store.read(key)
    before = psutil.Process().memory_info().rss
    for key in keys:
        store.read(key)
    assert psutil.Process().memory_info().rss - before < 30e6


# --- texts --------------------------------------------------------------------------------------------------------


def store_of(folder: Path) -> Shards:
    return open_cache(folder / "cache", 1)


@pytest.mark.parametrize("on_disk", [True, False])
def test_texts_are_encoded_once_and_come_in_the_order_asked_for(
    tmp_path: Path, encoder: Encoder, on_disk: bool
) -> None:
    texts = TextStates(encoder, 2, store_of(tmp_path) if on_disk else None, chunks=3)
    first = texts(["a", "b", "a"])
    second = texts(["b", "c"])
    assert encoder.texts == [["a", "b"], ["c"]]
    assert first.states.shape == (3, 231, 16) and first.pooled is not None and first.pooled.shape == (3, 16)
    expected = Encoder().encode_text(["a", "b", "c"], 2, 3)
    torch.testing.assert_close(first.states, expected.states[[0, 1, 0]])
    torch.testing.assert_close(second.pooled, expected.pooled[[1, 2]])  # type: ignore[index]
    assert not first.states.requires_grad


def test_a_second_run_reads_texts_from_disk(tmp_path: Path, encoder: Encoder) -> None:
    store = store_of(tmp_path)
    first = TextStates(encoder, 1, store)(["a", ""])
    store.evict()
    again = Encoder()
    second = TextStates(again, 1, store_of(tmp_path))(["a", ""])
    assert again.texts == [] and torch.equal(first.states, second.states)
    assert torch.equal(first.pooled, second.pooled)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        {"clip_skip": 2},
        {"chunks": 2},
        {"weighted": True},
        {"encoder": Encoder(1)},
        {"encoder": Encoder(0, torch.bfloat16)},
    ],
    ids=["clip_skip", "chunks", "weighted", "identity", "dtype"],
)  # fmt: skip
def test_texts_read_otherwise_are_not_mixed_up(tmp_path: Path, encoder: Encoder, other: dict[str, Any]) -> None:
    how = {"encoder": encoder, "clip_skip": 1, "chunks": 1, "weighted": False}
    store = store_of(tmp_path)
    first = TextStates(store=store, **how)(["a"])  # type: ignore[arg-type]
    second = TextStates(store=store, **{**how, **other})(["a"])  # type: ignore[arg-type]
    assert first.states.shape != second.states.shape or not torch.equal(first.states, second.states)


@pytest.mark.parametrize("on_disk", [True, False])
def test_memory_for_texts_is_bounded_and_the_longest_unused_go(tmp_path: Path, encoder: Encoder, on_disk: bool) -> None:
    row = (77 * 16 + 16) * 4
    texts = TextStates(encoder, 1, store_of(tmp_path) if on_disk else None, memory_bytes=3 * row)
    for caption in ("a", "b", "c", "a", "d"):  # d puts out b
        texts([caption])
    encoder.texts.clear()
    texts(["a", "c", "d"])
    assert encoder.texts == []
    texts(["b"])
    assert encoder.texts == ([] if on_disk else [["b"]])
    assert len(texts(list("abcdefgh"))) == 8  # more than fits in one batch


def test_a_damaged_text_is_encoded_anew(tmp_path: Path, encoder: Encoder) -> None:
    store = store_of(tmp_path)
    first = TextStates(encoder, 1, store)(["a"])
    store.evict()
    flip_a_byte(files(tmp_path)[0])
    again = TextStates(encoder, 1, store_of(tmp_path))(["a"])
    assert torch.equal(first.states, again.states) and encoder.texts == [["a"], ["a"]]


def test_latents_and_texts_share_one_limit(tmp_path: Path, encoder: Encoder) -> None:
    store = store_of(tmp_path)
    pictures = pictures_of(tmp_path)
    found = latents([(picture, False, 0) for picture in pictures], encoder, store, DataConfig())
    TextStates(encoder, 1, store)(["a", "b"])
    store.evict()
    assert len(files(tmp_path)) == 2 and len(store) == 8 and right(found, pictures)
