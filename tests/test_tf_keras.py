"""TF_KERAS=1: the library under `tf.keras`, in a process of its own.  pytest tests/test_tf_keras.py

    TF_KERAS=1 KERAS_BACKEND=tensorflow pytest tests/test_golden.py tests/test_invariants.py

runs all families there; here are a few.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from conftest import GOLDEN

from bert4keras3 import _environment

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.once
needs_tf_keras = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("tf_keras", "tensorflow"))),
    reason="tf-keras is not installed",
)
CLASSIC = "albert nezha electra roformer_v2 gau gpt2_ml deberta".split()
CHECKPOINTS = "bert_lm t5".split()
GOLDEN_CASES = [
    *[f"tests/test_golden.py::test_h5[{name}]" for name in CLASSIC],
    *[f"tests/test_golden.py::test_tensorflow_checkpoint[{name}-B]" for name in CHECKPOINTS],
    "tests/test_golden.py::test_generation[bert_lm]",
]
INVARIANTS = [
    f"tests/test_invariants.py::{name}"
    for name in (
        "test_one_fit_lowers_the_loss[llama]",
        "test_keras_file_round_trip[t5]",
        "test_padded_rows_equal_the_rows_alone[deberta]",
        "test_h5_round_trip[gau_unilm]",
    )
]
EXAMPLES = ["task_seq2seq"]


def run(arguments, **variables):
    """Run tests in a process with TF_KERAS=1."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**own, "TF_KERAS": "1", "KERAS_BACKEND": "tensorflow", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert "skipped" not in ended.stdout.splitlines()[-1]  # nothing of it needs Keras 3


@needs_tf_keras
@pytest.mark.slow
def test_the_library_under_tf_keras(tmp_path):
    transformer = tiny.build("bert_heads")
    arrays = tiny.inputs_for(transformer)
    expected = tiny.predict(transformer.model, arrays)
    transformer.save_weights(tmp_path / "keras3.weights.h5")
    np.savez(tmp_path / "outputs.npz", *expected)
    examples = [f"tests/test_examples.py::test_example[{name}]" for name in EXAMPLES]
    golden = GOLDEN_CASES if GOLDEN.is_dir() else []
    run(
        ["tests/under_tf_keras.py", *INVARIANTS, *examples, *golden],
        BERT4KERAS3_TEST_FOLDER=str(tmp_path),
    )
    for load in (transformer.load_weights, transformer.model.load_weights):
        tiny.randomize(transformer.model, seed=5)
        load(tmp_path / "keras2.weights.h5")
        for a, b in zip(tiny.predict(transformer.model, arrays), expected, strict=True):
            tiny.assert_close(a, b)


# ------------------------------------------------------------------ the variable


@pytest.fixture
def environment(monkeypatch):
    """No choice made yet; what is set meanwhile is undone."""
    for name in ("TF_KERAS", "KERAS_BACKEND", "TF_USE_LEGACY_KERAS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@needs_tf_keras
def test_it_chooses_tensorflow(environment):
    environment.setenv("TF_KERAS", "1")
    _environment.select_backend()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_is_refused(environment, backend):
    environment.setenv("TF_KERAS", "1")
    environment.setenv("KERAS_BACKEND", backend)
    with pytest.raises(ValueError, match=f"TF_KERAS=1 .* KERAS_BACKEND={backend}: unset one"):
        _environment.select_backend()


def test_what_is_missing_is_named_with_the_command(environment):
    environment.setenv("TF_KERAS", "1")
    environment.setattr(_environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs tensorflow and tf_keras: .*--no-deps tf-keras"):
        _environment.select_backend()


def test_a_keras_that_is_there_already_is_refused(environment):
    backend = next((b for b in ("torch", "jax") if importlib.util.find_spec(b)), None)
    if backend is None or not importlib.util.find_spec("tf_keras"):
        pytest.skip("needs a second backend, and tf-keras")
    code = (
        f"import os; os.environ['KERAS_BACKEND'] = '{backend}'; import keras; "
        "os.environ.pop('KERAS_BACKEND'); os.environ['TF_KERAS'] = '1'; import bert4keras3.ops"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode and f"Keras was imported with {backend}" in ended.stderr
