"""Names of older libraries in scripts.  pytest tests/test_migration.py"""

import importlib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4keras3 import ops
from bert4keras3.cli import main
from bert4keras3.cli.migrate import markdown
from bert4keras3.migration import NAMES, find_old_names, look_up

DOCS = Path(__file__).parent.parent / "docs"
pytestmark = pytest.mark.once

SCRIPT = """
import numpy as np
from bert4keras.backend import keras, K
from bert4keras.models import *
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr as linear
from transformers import AutoTokenizer, TFAutoModelForTokenClassification, TFBertModel
import tensorflow as tf

x = K.sum(K.floatx(), axis=1)
keras.backend.mean(x), tf.keras.backend.exp(x), keras.backend.clear_session()
AdamLR = linear(Adam)
class Model(BERT):
    def apply_main_cache_layers(self, x):
        return x
AdamLR(1e-3).apply_ema_weights()
K = other
"""
BUILD = "bert4keras3.models.build_transformer_model(folder"
EXPECTED = [
    (3, "bert4keras.backend.K", "bert4keras3.backend.K"),
    (3, "bert4keras.backend.keras", "bert4keras3.backend.keras"),
    (4, "bert4keras.models", "bert4keras3.models"),
    (5, "bert4keras.optimizers.Adam", "keras.optimizers.Adam"),
    (
        5,
        "bert4keras.optimizers.extend_with_piecewise_linear_lr",
        "Adam(bert4keras3.training.PiecewiseLinear(schedule, learning_rate))",
    ),
    (
        6,
        "transformers.TFAutoModelForTokenClassification",
        f'{BUILD}, head="token_classification")',
    ),
    (6, "transformers.TFBertModel", f"{BUILD})"),
    (9, "bert4keras.backend.K.sum", "bert4keras3.ops.sum"),
    (10, "keras.backend.mean", "bert4keras3.ops.mean"),
    (10, "tensorflow.keras.backend.exp", "bert4keras3.ops.exp"),
    (13, "def apply_main_cache_layers", NAMES["def apply_main_cache_layers"]),
    (15, ".apply_ema_weights", NAMES[".apply_ema_weights"]),
]


def test_old_names_are_found():
    assert find_old_names(SCRIPT) == EXPECTED


@pytest.mark.parametrize(
    ("code", "old"),
    [
        ("import bert4keras.backend as b; b.K.sum(1)", "bert4keras.backend.K.sum"),
        ("from tensorflow.keras import backend as K; K.mean(1)", "tensorflow.keras.backend.mean"),
        ("from bert4keras3.layers import *; TakeLayer()", "bert4keras3.layers.TakeLayer"),
        ("from bert4keras3.models import *; K.cast(1)", "bert4keras3.models.K.cast"),
        ("import transformers as t; t.TFT5EncoderModel", "transformers.TFT5EncoderModel"),
    ],
)
def test_ways_to_import(code, old):
    assert old in [finding.old for finding in find_old_names(code)]


def test_a_script_that_needs_no_change():
    code = """
from bert4keras3.backend import keras, ops
from bert4keras3.Models.Berts import BERT
from transformers import AutoTokenizer
from .bert4keras import K
K.sum(1), ops.sum(1), keras.backend.floatx(), self.K.sum(2)
"""
    assert find_old_names(code) == []


def test_what_is_advised_exists():
    for old, new in NAMES.items():
        for name in re.findall(r"bert4keras3(?:\.\w+)+", new):
            module, _, member = name.rpartition(".")
            assert hasattr(importlib.import_module(module), member), (old, name)
        for name in re.findall(r"(?<!\w)keras((?:\.\w+)+)", new):
            found = ops.seam.keras if ops.seam.is_tf_keras else importlib.import_module("keras")
            for part in name[1:].split("."):
                found = getattr(found, part)


def test_what_is_old_is_gone():
    """A name that this library has needs no other."""
    for old in NAMES:
        module, _, member = old.rpartition(".")
        if old.startswith("bert4keras3."):
            assert not hasattr(importlib.import_module(module), member), old


def test_the_guides_have_every_name():
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    assert len(rows) == len(NAMES)
    for guide in ("migrating.md", "migrating.zh.md"):
        text = (DOCS / guide).read_text(encoding="utf-8")
        assert [line for line in text.splitlines() if line.startswith("| `")] == rows


def test_the_command(tmp_path, capsys):
    (tmp_path / "old.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "new.py").write_text("import bert4keras3", encoding="utf-8")
    assert main(["migrate", str(tmp_path / "new.py")]) == 0
    assert capsys.readouterr().out == ""
    assert main(["migrate", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{tmp_path / 'old.py'}:{n}: {old} -> {new}" for n, old, new in EXPECTED]
    (tmp_path / "new.py").write_text("print 1", encoding="utf-8")
    assert main(["migrate", str(tmp_path / "new.py")]) == 1
    assert "new.py, line 1: no Python 3" in capsys.readouterr().err
    assert main(["migrate", str(tmp_path / "none.py")]) == 1
    assert "none.py: No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["migrate"])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(sorted(NAMES)))
def test_any_text(code, name):
    for text in (code, f"import {name}\n{code}", f"from {name} import *; {code}"):
        try:
            find_old_names(text)
        except ValueError as error:
            assert "no Python 3" in str(error)
    look_up(name + code)
