"""Models that write sentences, of the smallest size in the true file formats, with random weights."""

import json
from pathlib import Path

from lora_studio import torchvision_ops  # noqa: F401  isort: skip
import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

COCA = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 1,
        "width": 16,
        "head_width": 8,
        "patch_size": 16,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "attn_pooler_queries": 8,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "attn_pooler_heads": 2,
    },
    "custom_text": True,
}
CHAT = (
    "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)
TEXT = "a red blue green round square picture of with hat hair on the left right USER ASSISTANT what is it"


def coca(folder: Path) -> Path:
    """`open_clip_config.json` and `open_clip_model.safetensors`, as laion's CoCa models on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = open_clip.CoCa(**{name: value for name, value in COCA.items() if name != "custom_text"})
    torch.nn.init.normal_(model.text_decoder.text_projection, std=0.5)  # as zeros it would say one word to everything
    preprocess = {"size": [32, 32], "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": COCA, "preprocess_cfg": preprocess}))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


def words(special: list[str]) -> Tokenizer:
    """A tokenizer of a few words."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=special)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def llava(folder: Path) -> Path:
    """A LLaVA that can be asked: config.json, model.safetensors, processor with a chat template."""
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words(special), unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    image = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        image_processor=image, tokenizer=tokenizer, patch_size=16, vision_feature_select_strategy="default",
        image_token="<image>", chat_template=CHAT, num_additional_image_tokens=1,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32,
            patch_size=16, projection_dim=16,
        ),
        text_config=LlamaConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=3,
        ),
        image_token_index=4,
        vision_feature_layer=-1,
        image_seq_length=4,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(20)  # the picture has a say in random weights only when they are large
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    """A BLIP, which has no chat template and describes unasked."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *TEXT.lower().split()]))
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    torch.manual_seed(0)
    config = BlipConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3,
            "pad_token_id": 0, "max_position_embeddings": 64, "projection_dim": 16,
        },
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 16,
        },
        projection_dim=16,
    )  # fmt: skip
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(20)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
