"""The commands and code of docs/batch.md.  pytest tests/test_batch_guide.py"""

import importlib.util
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from guides import ROOT, blocks, run
from test_cli import VOCAB, save_writer
from tiny import build

from bert4keras3.cli import main

pytestmark = [
    pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="no docs beside the tests"),
    pytest.mark.once,
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what the guide names: tiny models, sentences and prompts."""
    model = tmp_path / "all-MiniLM-L6-v2"
    model.mkdir()
    build("bert").save_pretrained(model)
    (model / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    writer = tmp_path / "Qwen2-0.5B"
    writer.mkdir()
    save_writer(writer, build("llama", vocab_size=len(VOCAB), pad_token_id=None, max_position=256))
    (tmp_path / "sentences.txt").write_text("a b c\nx y\n" * 6)
    (tmp_path / "prompts.txt").write_text("ab\nxyz\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell's commands")
def test_commands_run(folder, monkeypatch):
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    command = folder / "bin" / "bert4keras3"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m bert4keras3 "$@"\n')
    command.chmod(0o755)
    lines = [line for b in blocks("docs/batch.md", "bash") for line in b.splitlines() if line]
    for line in lines:
        program, *arguments = shlex.split(line)
        if "--ray" in arguments and importlib.util.find_spec("ray") is None:
            continue
        if program == "bert4keras3":
            assert main(arguments) == 0
        else:
            subprocess.run(["sh", "-c", line], check=True)
    assert np.load("vectors.npy").shape == (12, 16)
    assert (folder / "vectors.jsonl").read_text().count("\n") == 12
    assert (folder / "texts.jsonl").read_text().count("\n") == 2


@pytest.mark.slow
def test_code_runs(folder, capsys):
    names = run("docs/batch.md")
    assert names["vector"].shape == (16,) and len(names["text"]) == 8


def test_both_languages_have_the_same_examples():
    for language in ("bash", "python"):
        assert blocks("docs/batch.md", language) == blocks("docs/batch.zh.md", language)
