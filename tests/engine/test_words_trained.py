"""Tags, sentences, wildcards and the trigger through a training: what is encoded, validated and written down."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_studio.core.errors import UserError
from lora_studio.engine.checkpoint import load_lora
from lora_studio.engine.config import DataConfig, TrainJob
from lora_studio.engine.data import Sampler, read_dataset
from lora_studio.engine.families.latent import LatentFamily
from lora_studio.engine.families.parts import load_tokenizer
from lora_studio.engine.prompts import tokenize
from lora_studio.engine.train import fingerprint, most_tokens, prepare, train
from lora_studio.engine.wording import vary
from tests.engine.conftest import Recorder, settings
from tests.tiny import make_dataset

PROSE = "A woman, in red, in red, with {a cup|a cat}."


def rewritten(folder: Path, **words: Any) -> Path:
    """A small set whose entries say `words`."""
    path = make_dataset(folder)
    entries = json.loads(path.read_text())["images"]
    path.write_text(json.dumps({"images": [entry | words for entry in entries]}))
    return path


def test_sentences_are_encoded_once_for_all_runs_though_tags_would_be_shuffled(
    make_job: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = rewritten(tmp_path / "data", caption="", prose=PROSE)
    config = make_job(dataset, optimizer__text_encoder_lr=0, data__tag_dropout=0.5)
    train(config, Recorder(tmp_path / "cold"))
    loaded = []
    real = LatentFamily.part
    monkeypatch.setattr(LatentFamily, "part", lambda self, name: loaded.append(name) or real(self, name))
    train(config, Recorder(tmp_path / "warm"))
    assert set(loaded) == {"unet"}
    loaded.clear()
    train(make_job(dataset, optimizer__text_encoder_lr=0, data__wildcards=True), Recorder(tmp_path / "wild"))
    assert "text_encoder" in loaded  # they vary now


def test_validation_is_asked_with_the_whole_words(make_job: Callable, tmp_path: Path) -> None:
    dataset = rewritten(tmp_path / "data", caption="hat, {red|blue} hair", prose="She sits.")
    changes = {"data__wildcards": True, "data__caption_dropout": 1.0, "data__tag_dropout": 0.9}
    trainer = prepare(TrainJob.load(make_job(dataset, **changes)), Recorder(tmp_path / "run"))
    asked = []
    real = trainer.texts
    trainer.texts = lambda texts: asked.append((torch.is_grad_enabled(), *texts)) or real(texts)  # type: ignore[method-assign]
    trainer.run()
    whole = {texts for with_grad, *texts_ in asked if not with_grad for texts in texts_}
    assert whole == {"zorbi, hat, red hair, She sits."}
    assert {text for with_grad, *texts in asked if with_grad for text in texts} == {""}


def test_what_is_preserved_is_asked_without_the_trigger(make_job: Callable, tmp_path: Path) -> None:
    dataset = rewritten(tmp_path / "data", caption="", prose="zorbi sits, and sits, and sits.")
    trainer = prepare(TrainJob.load(make_job(dataset, objective__preservation=1.0)), Recorder(tmp_path / "run"))
    asked: set[str] = set()
    real = trainer.texts
    trainer.texts = lambda texts: asked.update(texts) or real(texts)  # type: ignore[method-assign]
    trainer.run()
    assert asked == {"zorbi sits, and sits, and sits.", "sits, and sits, and sits."}


def test_the_file_counts_tags_that_can_come_up_and_no_sentences(make_job: Callable, tmp_path: Path) -> None:
    def written(name: str, **words: Any) -> dict[str, str]:
        job = make_job(rewritten(tmp_path / name, **words), data__wildcards=True, run__epochs=1)
        summary = train(job, Recorder(tmp_path / f"run-{name}"))
        return load_lora(tmp_path / f"run-{name}" / summary["checkpoints"][-1])[1]

    both = written("both", caption="hat, {red|blue} hair", prose="She sits, smiling.")
    assert json.loads(both["ss_tag_frequency"]) == {"1_zorbi": {"zorbi": 4, "hat": 4, "red hair": 4, "blue hair": 4}}
    (dataset,) = json.loads(both["ss_datasets"])
    assert dataset["subsets"][0]["enable_wildcard"] is True
    prose = written("prose", caption="", prose="She sits, smiling.")
    assert json.loads(prose["ss_tag_frequency"]) == {"1_zorbi": {"zorbi": 4}}


def test_no_order_of_the_tags_needs_more_tokens_than_were_reckoned_with(base: Path, tmp_path: Path) -> None:
    """`a),` may be fewer tokens than `a)` and `,`: a caption that fits exactly in one order must fit in all."""
    config = settings(data__wildcards=True).data
    path = rewritten(tmp_path, caption="zorbi, (a), (b), {c d e f g|h}, !, ?!", prose="She {sits|is sitting} there.")
    pictures = read_dataset(path, config, "zorbi")
    tokenizer = load_tokenizer(base, "tokenizer")

    def num_tokens(texts: list[str]) -> list[int]:
        return [len(found) for found in tokenize(tokenizer, texts, False)]

    most = most_tokens(pictures, config, num_tokens)
    shown = [vary(pictures[0].words, config, random.Random(seed)).text for seed in range(500)]
    assert max(num_tokens(shown)) <= most <= max(num_tokens(shown)) + 8
    plain = DataConfig(shuffle_tags=False)
    assert most_tokens(pictures, plain, num_tokens) == max(
        num_tokens([one.words.whole(plain).text for one in pictures])
    )


def test_regularisation_pictures_are_never_called_by_the_trigger(tmp_path: Path) -> None:
    folder = tmp_path / "others"
    make_dataset(folder)
    (folder / "picture-0.txt").write_text("a woman, smiling")
    config = settings(data__regularization=str(folder))
    pictures = read_dataset(rewritten(tmp_path / "data", caption="hat"), config.data, "zorbi")
    shown = [sample for step in (1, 2) for batch in Sampler(pictures, config).batches(step, 2) for sample in batch]
    assert {one.caption.startswith("zorbi") for one in shown if not one.picture.regularization} == {True}
    assert not any("zorbi" in one.caption for one in shown if one.picture.regularization)


def test_sets_without_sentences_keep_the_fingerprint_of_their_saved_states(tmp_path: Path) -> None:
    config = settings().data
    before = fingerprint(read_dataset(make_dataset(tmp_path / "a"), config))
    assert before == fingerprint(read_dataset(rewritten(tmp_path / "b", prose=""), config, "zorbi"))
    assert before != fingerprint(read_dataset(rewritten(tmp_path / "c", prose="Text."), config))


@pytest.mark.parametrize("prose", [1, ["a"], {"a": 1}])
def test_sentences_that_are_no_text_are_refused(prose: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="entry of the list of pictures is damaged"):
        read_dataset(rewritten(tmp_path, prose=prose), settings().data)
