"""The command that stores keys for boards."""

import io
import json
import sys

import pytest

from lora_studio import cli


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORA_STUDIO_CONFIG", str(tmp_path))

    def call(*words, typed=""):
        monkeypatch.setattr(sys, "argv", ["lora-studio", "keys", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        code = cli.main()
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_a_key_is_stored_listed_without_itself_and_forgotten(run):
    code, out, err = run("gelbooru.com", "--user", "4711", typed="hush-hush\n")
    assert (code, out.strip()) == (0, "gelbooru.com: 4711")
    code, more, _ = run("--json")
    assert json.loads(more)["keys"] == {"gelbooru.com": "4711"}
    assert "hush" not in out + err + more
    assert run("gelbooru.com", "--forget")[1].strip() == "No keys are stored."


@pytest.mark.parametrize("line", ["gelbooru.com", "--user me", "a/b --user me", "x.com --user me", "--forget"])
def test_half_a_key_is_an_error_that_says_what_is_missing(run, line):
    code, out, err = run(*line.split())
    assert code == 1 and "Error:" in err and not out
