import os
from pathlib import Path

import pytest

from lora_studio.core import machine


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is a shell script")
@pytest.mark.parametrize(
    ("visible", "count"), [(None, 3), ("", 0), ("0", 1), ("0, 2", 2), ("1,-1,2", 1), ("0,1,2,3,4", 3)]
)
def test_cards_that_are_hidden_from_programs_do_not_count(
    visible: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'Card, 8 MiB\\nCard, 8 MiB\\nCard, 8 MiB\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine._graphics_cards.cache_clear()
    try:
        assert machine.num_cards() == count
    finally:
        machine._graphics_cards.cache_clear()
