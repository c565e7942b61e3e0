"""The direction of imports: launch -> ui | cli -> steps -> engine | tagger | judge -> core."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lora_studio"
COMMANDS = {
    "cli_captions",
    "cli_common",
    "cli_curate",
    "cli_gather",
    "cli_keys",
    "cli_seen",
    "cli_tag",
    "cli_words",
    "terminal",
    "steps",
    "engine",
    "judge",
    "core",
}
ALLOWED = {
    "core": {"core"},
    "judge": {"judge", "core"},
    "vision": {"vision", "judge", "core"},
    "engine": {"engine", "core", "torchvision_ops"},
    "tagger": {"tagger", "core", "torchvision_ops"},
    "steps": {"steps", "engine", "tagger", "vision", "judge", "core", "lora_studio"},  # its version is told to sites
    "ui": {"ui", "steps", "engine", "tagger", "judge", "core", "lora_studio"},
    "cli": COMMANDS | {"cli", "demo", "ui", "tagger", "lora_studio"},
    **{f"cli_{name}": COMMANDS for name in ("captions", "seen", "tag", "words")},
    "cli_common": {"cli_common", "core"},
    "cli_curate": COMMANDS,
    "cli_gather": COMMANDS,
    "cli_keys": COMMANDS,
    "terminal": {"terminal", "core"},
    "demo": {"demo", "steps", "engine", "tagger", "judge", "core", "lora_studio"},
    "torchvision_ops": set(),
    "__main__": {"cli"},
    "__init__": set(),
}
HEAVY = {
    "torch",
    "cv2",
    "av",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "lycoris",
    "open_clip",
    "timm",
    "torchvision",
    "onnxruntime",
}
HOME = {
    "gradio": {"ui"},
    "cv2": {"vision", "tagger"},  # the taggers' way of making pictures smaller
    "av": {"vision"},
    **{name: {"engine"} for name in ("diffusers", "peft", "accelerate", "lycoris")},
    "transformers": {"engine", "tagger"},  # models that describe pictures are its image-text-to-text classes
    **{name: {"tagger"} for name in ("open_clip", "timm", "onnxruntime")},
    "torch": {"engine", "tagger", "torchvision_ops"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "lora_studio":
            target = (
                rest[0]
                if (rest and (PACKAGE / rest[0]).is_dir()) or (PACKAGE / f"{rest[0]}.py").is_file()
                else "lora_studio"
            )
            assert target in ALLOWED[part(path)], f"{path.name} imports {name}"
        assert part(path) in HOME.get(top, {part(path)}), f"{path.name} imports {name}"


MODULES = "core.jobs core.project steps.conception steps.gathering steps.curation steps.tagging steps.training "
MODULES += "steps.testing cli"


def test_nothing_heavy_is_imported_by_steps_and_command_line():
    code = "import sys\n" + "".join(f"import lora_studio.{name}\n" for name in MODULES.split())
    code += f"print(sorted({HEAVY | {'gradio'}!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
