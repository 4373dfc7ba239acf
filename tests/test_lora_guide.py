"""The guides docs/lora.md and docs/lora.zh.md, and examples/tune_lora.py, run."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from tiny import build

ROOT = Path(__file__).resolve().parents[1]


def blocks(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)


@pytest.mark.once
def test_the_guide_runs(tmp_path, monkeypatch):
    if not (ROOT / "docs").is_dir():
        pytest.skip("no documents beside the tests")
    code = blocks("lora.md")
    assert code and code == blocks("lora.zh.md")
    monkeypatch.chdir(tmp_path)
    build("llama").save_pretrained("Llama")
    scope = {}
    for block in code:
        exec(compile(block, "lora.md", "exec"), scope)
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    if not (ROOT / "examples").is_dir():
        pytest.skip("no examples beside the tests")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    example = importlib.import_module("tune_lora")
    try:
        losses, _ = example.main(["--smoke", "--output", str(tmp_path / "adapter")])
    finally:
        sys.modules.pop("tune_lora")
    assert losses[-1] < 20 and (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert "weights are trained" in capsys.readouterr().out
