"""Gradio, imported quietly and in half the time. Every module of `ui` takes `gr` from here.

While gradio is imported, each component class parses its own source to write a `.pyi` beside it: half of the import
time, and writes into the package. `create_or_modify_pyi` skips a class whose file cannot be found (OSError), so
`inspect.getfile` says so for classes while the import lasts. Measured: 2.4 s -> 1.2 s (gradio 6.31).
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at import; anything but "True" is off
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_RUN_HISTORY"] = "False"  # else inputs are kept in the browser's storage


@contextmanager
def classes_without_files() -> Iterator[None]:
    """Let `inspect.getfile` raise OSError for gradio's component classes; restored on the way out."""
    original = inspect.getfile

    def getfile(thing: Any) -> str:
        if inspect.isclass(thing) and thing.__module__.startswith("gradio."):
            raise OSError("not asked for while gradio is imported")
        return original(thing)

    inspect.getfile = getfile
    try:
        yield
    finally:
        inspect.getfile = original


with classes_without_files():
    import gradio as gr

__all__ = ["gr"]
