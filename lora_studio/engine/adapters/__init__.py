"""Adapters: what is trained beside the frozen base, and what a saved file does to a base."""

from lora_studio.engine.adapters.adapter import Adapter

__all__ = ["Adapter"]
