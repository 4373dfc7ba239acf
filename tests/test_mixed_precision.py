"""Training in float16 and bfloat16, and recomputing.  KERAS_BACKEND=jax pytest"""

import contextlib

import numpy as np
import pytest
import tiny
from test_labelling import gradients
from tiny import draw, inputs_for, numpy, tensor

from bert4keras3 import ops
from bert4keras3.backend import (
    attention_normalize,
    multilabel_categorical_crossentropy,
    sparse_multilabel_categorical_crossentropy,
)
from bert4keras3.layers import (
    ConditionalRandomField,
    EfficientGlobalPointer,
    GlobalPointer,
    MaximumEntropyMarkovModel,
)
from bert4keras3.models import build_transformer_model
from bert4keras3.ops import keras
from bert4keras3.training import enable_lora
from bert4keras3.training.losses import cosent_loss, pair_similarities, rdrop_crossentropy

HALVES = ("mixed_float16", "mixed_bfloat16")
# Each kind of attention and of norms once.
FAMILIES = {
    "bert_heads": "mixed_float16",
    "gau_unilm": "mixed_float16",
    "deberta": "mixed_float16",
    "t5": "mixed_bfloat16",
    "llama": "mixed_bfloat16",
}
MASK = np.array([[True, True, False], [False, False, False]])


@contextlib.contextmanager
def policy(name):
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def new_model(name, **options):
    """A tiny model with dropout, and a batch with padding, one row of nothing else."""
    rates = {"dropout_rate": 0.2, "attention_dropout_rate": 0.3}
    arguments = {**tiny.SIZES, **tiny.ALL[name], **rates, "num_hidden_layers": 1, **options}
    arguments["return_keras_model"] = False
    transformer = build_transformer_model(**arguments)
    tiny.randomize(transformer.model)
    model = keras.Model(transformer.inputs, transformer.outputs[-1])
    arrays = inputs_for(transformer, rows=4)
    for length, tokens in zip((9, 4, 1, 0), arrays[0], strict=True):
        tokens[length:] = 0
    return model, arrays


def train(model, arrays, optimizer, steps=2):
    """Losses of some steps, and what became of the weights."""
    model.compile(optimizer, "mse")
    inputs = arrays if len(arrays) > 1 else arrays[0]
    sizes = zip(model.output_shape, (*arrays[-1].shape, 0), strict=False)
    target = np.zeros([known or size for known, size in sizes], "float32")
    losses = [float(model.train_on_batch(inputs, target)) for _ in range(steps)]
    return losses, [numpy(w.value) for w in model.weights if "float" in w.dtype]


@pytest.mark.parametrize("name", FAMILIES)
def test_families_train(name):
    """Also rows of nothing but padding: a softmax that sees no key."""
    with policy(FAMILIES[name]):
        model, arrays = new_model(name)
        before = [numpy(w.value) for w in model.trainable_weights]
        losses, weights = train(model, arrays, keras.optimizers.Adam(1e-3), steps=5)
    assert np.isfinite(losses).all()
    assert all(np.isfinite(w).all() for w in weights)
    scale = getattr(model.optimizer, "dynamic_scale", None)
    assert (scale is None) == (FAMILIES[name] != "mixed_float16")
    # A step that overflows is left out, and halves the scale from 32,768 on.
    assert scale is None or numpy(scale.value) >= 4096
    after = [numpy(w.value) for w in model.trainable_weights]
    moved = [np.abs(a - b).max() > 5e-4 for a, b in zip(after, before, strict=True)]
    assert np.mean(moved) > 0.8


def span_loss(layer, x):
    targets = np.zeros((2, 2, 9), "float32")
    targets[0, 0, 1] = 1
    scores = ops.reshape(layer(x, mask=tensor(MASK)), (2, 2, 9))
    return multilabel_categorical_crossentropy(tensor(targets), scores)


def chain_loss(layer, x):
    labels = tensor(np.array([[0, 1, 2], [0, 0, 0]]))
    return layer.sparse_loss(labels, layer(x, mask=tensor(MASK)))


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize(
    "layer, loss",
    [
        (lambda: GlobalPointer(2, 4), span_loss),
        (lambda: EfficientGlobalPointer(2, 4), span_loss),
        (ConditionalRandomField, chain_loss),
        (MaximumEntropyMarkovModel, chain_loss),
    ],
    ids=["pointer", "efficient_pointer", "crf", "memm"],
)
def test_heads(name, layer, loss):
    """Losses and gradients are finite, with large scores and with rows of padding."""
    with policy(name):
        layer = layer()
        layer.build((2, 3, 4))
        x = 20 * draw(2, 3, 4)
        assert np.isfinite(numpy(loss(layer, tensor(x)))).all()
        assert np.isfinite(gradients(lambda a: ops.sum(loss(layer, a)), [x])[0]).all()


SCORES = 20 * draw(3, 6)
SCORES[1] = -np.inf
TARGETS = np.array([[2, 0], [0, 0], [1, 3]])
SURE = np.array([[30.0, -30, 30, -30, -30, -30]] * 3, "float32")
LOSSES = {
    "multilabel": (
        lambda x: multilabel_categorical_crossentropy(tensor(np.eye(3, 6, 2)), x),
        SCORES,
    ),
    "sparse": (
        lambda x: sparse_multilabel_categorical_crossentropy(tensor(TARGETS), x, mask_zero=True),
        SCORES,
    ),
    "sparse_sure": (
        lambda x: sparse_multilabel_categorical_crossentropy(tensor(TARGETS), x),
        SURE,
    ),
    "cosent": (
        lambda x: cosent_loss(tensor(np.array([1, 0, 2])), pair_similarities(x)),
        np.zeros((6, 4), "float32"),
    ),
    "rdrop": (lambda x: rdrop_crossentropy(tensor(np.array([0, 1])), x), 100 * draw(2, 4)),
}


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, half):
    loss, scores = LOSSES[name]

    def of_half(x):
        return ops.sum(ops.cast(loss(ops.cast(x, half)), "float32"))

    assert np.isfinite(numpy(of_half(tensor(scores))))
    assert np.isfinite(gradients(of_half, [scores])[0]).all()
    found, expected = numpy(of_half(tensor(scores))), numpy(ops.sum(loss(tensor(scores))))
    assert found == pytest.approx(expected, rel=2e-2, abs=1e-2)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("method", ["softmax", "softmax_plus", "squared_relu", "softmax-fp32"])
def test_attention_that_sees_nothing(method, half):
    visible = tensor(np.array([[True, True, False, False], [False] * 4])[:, None])

    def weights(x):
        weights = attention_normalize(ops.cast(x, half), None, -1, method, bias=visible)
        return ops.cast(weights, "float32")

    scores = 50 * draw(2, 3, 4)
    found = numpy(weights(tensor(scores)))
    assert np.isfinite(found).all() and not found[1].any() and found[0].any()
    found = gradients(lambda a: ops.sum(ops.square(weights(a))), [scores])[0]
    assert np.isfinite(found).all() and not found[1].any()


# ------------------------------------------------------------------ recomputing


REMAT = {"bert": "float32", "deberta": "mixed_float16", "llama": "float32"}


@pytest.mark.parametrize(
    "name", ["bert", *(pytest.param(n, marks=pytest.mark.further) for n in ("deberta", "llama"))]
)
def test_remat_changes_no_gradient(name):
    """With dropout: the second computation drops out what the first did; Llama's is LoRA's."""
    found = []
    for remat in (False, True):
        keras.utils.set_random_seed(3)
        with policy(REMAT[name]):
            model, arrays = new_model(name, remat=remat)
            if name == "llama":
                enable_lora(model, rank=2, dropout=0.5)
            found.append(train(model, arrays, keras.optimizers.SGD(0.1)))
    (losses, weights), (same_losses, same_weights) = found
    assert losses == pytest.approx(same_losses, rel=1e-5)
    tolerance = 1e-6 if REMAT[name] == "float32" else 1e-4
    for a, b in zip(weights, same_weights, strict=True):
        tiny.assert_close(a, b, tolerance)


@pytest.mark.parametrize("name", ["bert", "llama", "gau", "t5"])
def test_remat_keeps_less(name, monkeypatch):
    """What PyTorch keeps for gradients; benchmarks/remat.py measures the others."""
    if keras.backend.backend() != "torch":
        pytest.skip("only torch says what it keeps")
    import torch

    kept = []
    for value in ("0", "1"):
        monkeypatch.setenv("RECOMPUTE", value)
        model, arrays = new_model(name, num_hidden_layers=2)
        weights = {w.value.data_ptr() for w in model.weights}
        found = {}

        def keep(x, weights=weights, found=found):
            if x.data_ptr() not in weights:
                found[x.data_ptr()] = x.nbytes
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            outputs = model([tensor(x) for x in arrays], training=True)
        kept.append(sum(found.values()))
        del outputs
    assert kept[1] < 0.6 * kept[0]


def test_remat_switch(monkeypatch):
    monkeypatch.setenv("RECOMPUTE", "perhaps")
    with pytest.raises(ValueError, match="environment variable RECOMPUTE: expected 1 or 0"):
        new_model("bert")
    monkeypatch.setenv("RECOMPUTE", "1")
    assert not tiny.build("bert", remat=False).remat
