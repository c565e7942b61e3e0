"""Latents and text states on disk, shared between runs, keyed by all that went into them, so never stale."""

import hashlib
import shutil
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lora_studio.core.errors import UserError
from lora_studio.core.images import WHITE
from lora_studio.engine.buckets import Size
from lora_studio.engine.config import DataConfig
from lora_studio.engine.families.base import Text
from lora_studio.engine.picture import Look, Picture, load_masks, load_pixels, look_of, may_have_mask
from lora_studio.engine.shards import Shards

ENCODE_PIXELS = 2**20  # pictures encoded at once: as many as make up one megapixel
DECODERS = 4  # threads that read pictures
AHEAD = 2  # batches read while one is encoded
TEXT_MEMORY = 128 * 2**20  # bytes of text states kept on the device
VERSION = "2"  # raise when what is cached changes its meaning

Wanted = tuple[Picture, bool, int]
"""A picture, whether it is mirrored, and which variant."""


class ImageEncoder(Protocol):
    """What is asked of a family for latents."""

    def encode_images(self, pixels: Tensor) -> Tensor: ...

    def identity(self, name: str) -> str: ...


class TextEncoder(Protocol):
    """What is asked of a family for text states."""

    device: torch.device
    dtype: torch.dtype

    def encode_text(self, captions: list[str], clip_skip: int, chunks: int = 1, weighted: bool = False) -> Text: ...

    def identity(self, name: str) -> str: ...


def key(*parts: object) -> str:
    """Name of a cache entry: SHA-256 over everything it was made from."""
    return hashlib.sha256("\0".join(map(str, (VERSION, *parts))).encode()).hexdigest()


def open_cache(folder: Path, cache_gb: float) -> Shards:
    """The project's cache, for latents and texts together: one for a run, `evict()` when all it needs was asked for.

    Files of the first version, one for each entry, are removed.
    """
    for old in ("latents", "text"):
        for part in (folder / old).glob("[0-9a-f][0-9a-f]"):
            shutil.rmtree(part, ignore_errors=True)
    return Shards(folder / "shards", int(cache_gb * 2**30))


# --- latents --------------------------------------------------------------------------------------------------------


class LatentCache:
    """Latents of many pictures, read from disk as they are asked for: memory does not grow with the set."""

    def __init__(self, store: Shards, encoder: ImageEncoder, config: DataConfig) -> None:
        self.store, self.encoder, self.config = store, encoder, config
        self._vae = encoder.identity("vae")

    def get(self, picture: Picture, flip: bool = False, variant: int = 0) -> Tensor:
        """(C, h, w) fp32 on the CPU. What is damaged or has vanished since is encoded anew."""
        look = look_of(picture, flip, variant, self.config)
        name = self.key(picture, look)
        value = self._read(name)
        if value is None:
            self.encode([(picture, look)], load_pixels(picture, [look]))
            value = self._read(name)
        assert value is not None  # encode keeps it or raises
        return value

    def _read(self, name: str) -> Tensor | None:
        entry = self.store.read(name)
        if entry is None:
            return None
        if torch.isfinite(entry["value"]).all():
            return entry["value"]
        self.store.discard(name)
        return None

    def mask(self, picture: Picture, flip: bool = False, variant: int = 0) -> Tensor | None:
        """(1, h, w) in 0..1 on the CPU, at the size of the latents; None for a picture that has no mask."""
        if not may_have_mask(picture):
            return None
        look = look_of(picture, flip, variant, self.config)
        value = self._read(self.mask_key(picture, look))
        if value is None:
            height, width = self.get(picture, flip, variant).shape[-2:]
            value = load_masks(picture, [look], (height, width))[0]
            self.store.add(self.mask_key(picture, look), {"value": value})
        return value

    def batch(self, wanted: Sequence[Wanted]) -> Tensor:
        """(B, C, h, w) latents of pictures of one shape."""
        return torch.stack([self.get(*which) for which in wanted])

    def masks(self, wanted: Sequence[Wanted]) -> Tensor | None:
        """(B, 1, h, w) for pictures of one shape; None when none of them has a mask."""
        found = [self.mask(*which) for which in wanted]
        some = next((mask for mask in found if mask is not None), None)
        if some is None:
            return None
        return torch.stack([torch.ones_like(some) if mask is None else mask for mask in found])

    def key(self, picture: Picture, look: Look) -> str:
        """Everything that the latents are made from."""
        how = [look.flip, look.place, look.jitter]
        if picture.background != WHITE:
            how.append(picture.background)
        return key("latents", picture.sha256, picture.crop, picture.bucket, self._vae, "fp32", *how)

    def mask_key(self, picture: Picture, look: Look) -> str:
        """Everything that the mask is made from; the VAE because it decides the size of latents."""
        how = (look.flip, look.place, picture.alpha_mask, picture.mask_sha256)
        return key("mask", picture.sha256, picture.crop, picture.bucket, self._vae, *how)

    def encode(self, batch: Sequence[tuple[Picture, Look]], pixels: list[Tensor]) -> None:
        """Encode a batch of one shape and keep it. Raises UserError naming a picture whose latents are not finite."""
        encoded = self.encoder.encode_images(torch.stack(pixels)).float().cpu()
        for (picture, _), value in zip(batch, encoded, strict=True):
            _refuse_broken(value, picture)
        for (picture, look), value in zip(batch, encoded, strict=True):
            self.store.add(self.key(picture, look), {"value": value})


def latents(
    wanted: Iterable[Wanted],
    encoder: ImageEncoder,
    store: Shards,
    config: DataConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> LatentCache:
    """A cache that holds the latents of all that is wanted; what was not kept is encoded in batches of one shape,
    while the next pictures are read in other threads. Stops early when asked to, keeping what is done.

    Raises UserError naming the picture that cannot be read or whose latents are not finite, or when the disk is full.
    """
    cache = LatentCache(store, encoder, config)
    looks = {which: look_of(*which, config) for which in wanted}
    # variants of a picture without room to move are the same
    distinct = {cache.key(which[0], look): (which, look) for which, look in looks.items()}
    missing: dict[Size, list[tuple[Picture, Look]]] = {}
    for name, ((picture, *_), look) in distinct.items():
        if not store.has(name):
            missing.setdefault(picture.bucket, []).append((picture, look))
    done = len(distinct) - sum(map(len, missing.values()))
    progress(done, len(distinct))
    try:
        with closing(_read_ahead(_batches(missing))) as batches:
            for batch, pixels in batches:
                if should_stop():
                    return cache
                cache.encode(batch, pixels)
                done += len(batch)
                progress(done, len(distinct))
        for which, look in looks.items():
            if may_have_mask(which[0]) and not store.has(cache.mask_key(which[0], look)):
                if should_stop():
                    return cache
                cache.mask(*which)
    finally:
        store.flush()
    return cache


def _batches(missing: dict[Size, list[tuple[Picture, Look]]]) -> Iterator[list[tuple[Picture, Look]]]:
    """Batches of one shape, of about a megapixel."""
    for bucket, entries in missing.items():
        size = max(1, ENCODE_PIXELS // (bucket[0] * bucket[1]))
        for start in range(0, len(entries), size):
            yield entries[start : start + size]


def _read_ahead(
    batches: Iterator[list[tuple[Picture, Look]]],
) -> Iterator[tuple[list[tuple[Picture, Look]], list[Tensor]]]:
    """Each batch with its pixels; those of the next ones are read meanwhile. Looks of one picture that stand side by
    side share one decoding."""
    with ThreadPoolExecutor(DECODERS) as pool:
        waiting: deque[tuple[list[tuple[Picture, Look]], list[Future[list[Tensor]]]]] = deque()
        try:
            for batch in batches:
                groups = [(picture, [look for _, look in pairs]) for picture, pairs in groupby(batch, lambda p: p[0])]
                waiting.append((batch, [pool.submit(load_pixels, *group) for group in groups]))
                if len(waiting) > AHEAD:
                    yield _read(*waiting.popleft())
            while waiting:
                yield _read(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _read(
    batch: list[tuple[Picture, Look]], futures: list[Future[list[Tensor]]]
) -> tuple[list[tuple[Picture, Look]], list[Tensor]]:
    return batch, [pixels for future in futures for pixels in future.result()]


def _refuse_broken(value: Tensor, picture: Picture) -> None:
    if not torch.isfinite(value).all():
        raise UserError(
            f"The VAE of the base model turned {picture.file.name} into numbers that are not finite (NaN).",
            "The base's VAE is damaged or the picture is extreme: reject the picture, or use another base.",
        )


# --- texts ----------------------------------------------------------------------------------------------------------


class TextStates:
    """States of captions by frozen text encoders; a bounded number in memory, and on disk when `store` is given.

    All have the same number of `chunks` (pieces of 75 tokens), so that any captions can share a batch.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        clip_skip: int,
        store: Shards | None,
        chunks: int = 1,
        weighted: bool = False,
        memory_bytes: int = TEXT_MEMORY,
    ) -> None:
        self.encoder, self.clip_skip, self.store = encoder, clip_skip, store
        self.chunks, self.weighted, self.memory_bytes = chunks, weighted, memory_bytes
        self._identity = encoder.identity("text") if store is not None else ""
        self._memory: OrderedDict[str, Text] = OrderedDict()
        self._bytes = 0

    def __call__(self, texts: Sequence[str]) -> Text:
        """The captions as the network reads them, one row each, on the encoder's device; only those not met before
        are encoded."""
        found: dict[str, Text] = {}
        for text in dict.fromkeys(texts):
            kept = self._kept(text)
            if kept is not None:
                found[text] = kept
        new = [text for text in dict.fromkeys(texts) if text not in found]
        if new:
            with torch.no_grad():
                states = self.encoder.encode_text(new, self.clip_skip, self.chunks, self.weighted)
            for row, text in enumerate(new):
                _refuse_broken_text(states[row : row + 1], text)
                found[text] = states[row : row + 1]
                self._keep(text, found[text])
        return Text.cat([found[text] for text in texts])

    def key(self, text: str) -> str:
        """Everything that the states are made from."""
        how = (self.clip_skip, self.chunks, self.weighted, self.encoder.dtype)
        return key("text", text, self._identity, *how)

    def _kept(self, text: str) -> Text | None:
        if text in self._memory:
            self._memory.move_to_end(text)
            return self._memory[text]
        entry = self.store.read(self.key(text)) if self.store is not None else None
        if entry is None or not all(bool(torch.isfinite(value).all()) for value in entry.values()):
            return None
        kept = Text(**entry).to(self.encoder.device)
        self._remember(text, kept)
        return kept

    def _keep(self, text: str, states: Text) -> None:
        if self.store is not None:
            self.store.add(self.key(text), states.tensors())
        self._remember(text, states)

    def _remember(self, text: str, states: Text) -> None:
        """Keep a row in memory and forget those longest unused when they are too many."""
        own = Text(**{name: value.clone() for name, value in states.tensors().items()})  # a row of a batch holds it all
        self._memory[text] = own
        self._bytes += _nbytes(own)
        while self._bytes > self.memory_bytes and len(self._memory) > 1:
            self._bytes -= _nbytes(self._memory.popitem(last=False)[1])


def _refuse_broken_text(states: Text, text: str) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in states.tensors().values()):
        raise UserError(
            f"The text part of the base model turned {text[:80]!r} into numbers that are not finite (NaN).",
            "The base's text part is damaged, or run.precision is too coarse for it: choose fp32, or another base.",
        )


def _nbytes(text: Text) -> int:
    return sum(value.nbytes for value in text.tensors().values())
