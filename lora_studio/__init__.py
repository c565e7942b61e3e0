"""LoRA Studio: from a pile of pictures to a tested LoRA, in six steps."""

__version__ = "0.4.0"
