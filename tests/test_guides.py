"""Guides that begin with a Llama in a folder run, in both languages alike."""

import pytest
from guides import ROOT, blocks, run
from tiny import build


@pytest.mark.further
@pytest.mark.slow
@pytest.mark.parametrize("guide, folder", [("lora", "merged"), ("quantization", "Llama-int8")])
def test_the_guide_runs(guide, folder, tmp_path, monkeypatch):
    if not (ROOT / "docs").is_dir():
        pytest.skip("no documents beside the tests")
    code = blocks(f"docs/{guide}.md")
    assert code and code == blocks(f"docs/{guide}.zh.md")
    monkeypatch.chdir(tmp_path)
    build("llama").save_pretrained("Llama")
    run(f"docs/{guide}.md")
    assert (tmp_path / folder / "model.safetensors").is_file()
