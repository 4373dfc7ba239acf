"""The guides docs/lora.md and docs/lora.zh.md run."""

import pytest
from guides import ROOT, blocks, run
from tiny import build


@pytest.mark.further
@pytest.mark.slow
def test_the_guide_runs(tmp_path, monkeypatch):
    if not (ROOT / "docs").is_dir():
        pytest.skip("no documents beside the tests")
    code = blocks("docs/lora.md")
    assert code and code == blocks("docs/lora.zh.md")
    monkeypatch.chdir(tmp_path)
    build("llama").save_pretrained("Llama")
    run("docs/lora.md")
    assert (tmp_path / "merged" / "model.safetensors").is_file()
