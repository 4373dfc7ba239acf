"""Every example runs to its end with --smoke.  pytest tests/test_examples.py"""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(
    path
    for name in ("basic_*.py", "task_*.py", "pretrain.py", "train_poet.py", "tune_*.py")
    for path in EXAMPLES.glob(name)
)


@pytest.mark.further
@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example(script, tmp_path, monkeypatch, capsys):
    """In this process, as starting Keras takes longer than most of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [str(script), "--smoke"])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.once
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_names_a_run_for_real(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(script), run_name="__main__")
    text = capsys.readouterr().out
    assert "--smoke" in text and f"python examples/{script.name}" in text
