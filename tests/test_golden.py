"""Outputs and files of the old libraries.  KERAS_BACKEND=jax pytest tests/test_golden.py"""

import json

import numpy as np
import pytest
from conftest import GOLDEN
from tiny import assert_close, compiled, predict

from bert4keras3.models import build_transformer_model
from bert4keras3.models.registry import FAMILIES


def _cases(kind):
    if not GOLDEN.is_dir():
        return []
    if kind == "h5":
        index = json.loads((GOLDEN / "h5" / "index.json").read_text())
        return [name for name, case in index.items() if case["model"] in FAMILIES]
    folders = sorted(path.parent for path in (GOLDEN / "tf").glob("*/meta.json"))
    metas = {folder.name: json.loads((folder / "meta.json").read_text()) for folder in folders}
    return [name for name, meta in metas.items() if meta["model"] in FAMILIES]


@pytest.mark.parametrize("name", _cases("h5"))
def test_h5(name, golden):
    case = json.loads((golden / "h5" / "index.json").read_text())[name]
    model = build_transformer_model(
        model=case["model"],
        keras_weights_path=golden / "h5" / f"{name}.weights.h5",
        **case["kwargs"],
    )
    assert [x.name for x in model.inputs] == case["inputs"]
    data = np.load(golden / "h5" / f"{name}.npz")
    found = compiled(model, [data[f"input_{i}"] for i in range(len(model.inputs))])
    assert len(found) == case["n_outputs"]
    real = data["input_0"] != 0  # of rwkv6 only, some are not
    for i, output in enumerate(found):
        expected = data[f"output_{i}"]
        whole = output.shape[:2] != real.shape or real.all()
        assert_close(output if whole else output[real], expected if whole else expected[real])


def _cached(golden_cases):
    if not golden_cases:
        return []
    index = json.loads((GOLDEN / "h5" / "index.json").read_text())
    return [name for name in golden_cases if index[name]["cache"]]


@pytest.mark.parametrize("name", _cached(_cases("h5")))
def test_generation(name, golden):
    case = json.loads((golden / "h5" / "index.json").read_text())[name]
    transformer = build_transformer_model(
        model=case["model"],
        keras_weights_path=golden / "h5" / f"{name}.weights.h5",
        return_keras_model=False,
        **case["kwargs"],
    )
    data = np.load(golden / "h5" / f"{name}.npz")
    inputs = [data[f"cache_input_{i}"] for i in range(len(transformer.inputs))]
    model = transformer.build_cache_model([x.shape[1] for x in inputs], end_token=3)
    np.testing.assert_array_equal(model.predict(inputs, verbose=0), data["cache_output"])


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["A", "B"])
@pytest.mark.parametrize("name", _cases("tf"))
def test_tensorflow_checkpoint(name, rows, golden):
    folder = golden / "tf" / name
    meta = json.loads((folder / "meta.json").read_text())
    model = build_transformer_model(
        folder / "config.json", folder / "bert_model.ckpt", meta["model"], **meta["kwargs"]
    )
    data = np.load(folder / "io.npz")
    inputs = [data[f"{rows}_in_{i}"] for i in range(len(model.inputs))]
    real = inputs[-1 if "t5" in name else 0] != 0
    real[:, 0] = True
    for i, output in enumerate(predict(model, inputs)):
        expected = data[f"{rows}_out_{i}"]
        if output.ndim == 3:
            output, expected = output[real], expected[real]
        assert_close(output, expected)
