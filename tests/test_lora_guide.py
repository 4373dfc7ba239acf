"""The guides docs/lora.md and docs/lora.zh.md run."""

import re
from pathlib import Path

import pytest
from tiny import build

ROOT = Path(__file__).resolve().parents[1]


def blocks(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)


@pytest.mark.further
@pytest.mark.slow
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
