"""Flash attention gives what the usual way gives.  KERAS_BACKEND=torch pytest tests/test_flash.py

On a GPU, with the kernels themselves: KERAS_BACKEND=jax python benchmarks/flash.py
"""

import warnings

import numpy as np
import pytest
import tiny
from test_labelling import gradients
from tiny import draw, inputs_for, numpy, predict, tensor

from bert4keras3 import ops
from bert4keras3.layers import MultiHeadAttention, flash
from bert4keras3.models import build_transformer_model
from bert4keras3.ops import keras

on_tensorflow = keras.backend.backend() == "tensorflow"
without_kernel = pytest.mark.skipif(on_tensorflow, reason="TensorFlow has no such kernel")
# What no kernel can compute, and the reason that is said.
OBSTACLES = {
    "nezha": "relative positions are part of keys and values",
    "gemma2": "scores are capped",
    "bert_residual": "the attention scores are returned",
    "gau": "GAU_alpha has another kind of attention",
    "deberta": "Deberta has another kind of attention",
    "rwkv6": "RWKV6 has another kind of attention",
}


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(flash, "_said", set())


@pytest.fixture
def calls(monkeypatch):
    """Calls of Keras' operator. On a CPU torch has kernels too, JAX only the formula."""
    found, operator = [], ops.dot_product_attention

    def attend(*args, flash_attention, **kwargs):
        found.append(kwargs)
        if keras.backend.backend() == "jax":
            assert flash_attention is True
            flash_attention = False
        return operator(*args, flash_attention=flash_attention, **kwargs)

    monkeypatch.setattr(ops, "dot_product_attention", attend)
    monkeypatch.setattr(flash, "_jax_obstacle", lambda *args: None)
    return found


def pair(name, **options):
    """The same model with and without, and a batch with padding."""
    models = [tiny.build(name, flash_attention=on, **options) for on in (False, True)]
    arrays = inputs_for(models[0])
    for length, tokens in zip((9, 4, 1), arrays[0], strict=True):
        tokens[length:] = 0
    return models, arrays


def has_kernel(name):
    others = ("gau", "deberta", "nezha", "rwkv", "gemma2", "realformer", "albert_unshared_lm")
    return not any(other in name for other in others)


@without_kernel
@pytest.mark.parametrize("name", tiny.each([n for n in tiny.ALL if has_kernel(n)]))
def test_same_logits(name, calls):
    """Masks of every family, padding, grouped heads, relative biases."""
    (plain, fused), arrays = pair(name)
    expected, found = predict(plain.model, arrays), predict(fused.model, arrays)
    for a, b in zip(found, expected, strict=True):
        tiny.assert_close(a, b)
    assert calls


@without_kernel
@pytest.mark.parametrize("name", tiny.each(("bert_unilm", "llama", "t5"), quick=("t5",)))
def test_same_gradients(name, calls):
    models, arrays = pair(name)
    inputs, found = [tensor(x) for x in arrays], []
    for transformer in models:
        model = keras.Model(transformer.inputs, transformer.outputs[-1])
        variables = model.trainable_variables

        def loss(*values, model=model, variables=variables):
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                outputs = model(inputs, training=False)
            return ops.mean(ops.square(outputs))

        found.append(gradients(loss, [np.array(numpy(v)) for v in variables]))
    assert calls
    for a, b in zip(*found, strict=True):
        tiny.assert_close(b, a)


@without_kernel
@pytest.mark.parametrize("name", ["llama", "bert_unilm", "t5"])
def test_same_texts(name, calls):
    """Prompts of two lengths: the prefill is a mask with slots that hold nothing yet."""
    (plain, fused), _ = pair(name, end_token_id=2)
    prompts = [[3, 4, 5, 6, 7], [8, 9]]
    expected = plain.generate(prompts, max_new_tokens=6)
    assert fused.generate(prompts, max_new_tokens=6) == expected
    assert calls


BIASES = {
    "none": None,
    "bool": np.tri(6, dtype=bool),
    "bool of rows": np.random.default_rng(0).random((2, 6, 6)) < 0.5,
    "bool of heads": np.random.default_rng(1).random((2, 4, 6, 6)) < 0.5,
    "float": draw(6, 6),
    "float of rows": draw(2, 6, 6),
    "float of heads": draw(2, 4, 6, 6),
}


@without_kernel
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", BIASES)
def test_layer(kind, padded, calls):
    """Any bias, scale and grouping of heads; queries that see nothing get nothing."""
    x, bias = draw(2, 6, 16), BIASES[kind]
    mask = np.arange(6)[None] < np.array([[4], [0]]) if padded else None
    inputs = [tensor(a) for a in ([x] * 3 if bias is None else [x, x, x, bias])]
    arguments = {} if bias is None else {"a_bias": True}
    if padded:
        arguments["mask"] = [None, None, tensor(mask)]
    found = []
    for on in (False, True):
        keras.utils.set_random_seed(0)
        layer = MultiHeadAttention(2, 8, query_head=4, query_scale=0.3, flash_attention=on)
        found.append(numpy(layer(inputs, **arguments)))
    assert len(calls) == 1
    tiny.assert_close(found[1], found[0])


@without_kernel
def test_causal_masks_are_not_read_without_padding(calls):
    """Then torch and JAX have kernels that skip what is hidden."""
    (plain, fused), arrays = pair("llama", pad_token_id=None)
    tiny.assert_close(predict(fused.model, arrays)[-1], predict(plain.model, arrays)[-1])
    assert all(call["is_causal"] and call["mask"] is None for call in calls)
    windowed = tiny.build("gemma3", pad_token_id=None, flash_attention=True)
    calls.clear()
    predict(windowed.model, inputs_for(windowed))
    assert [call["is_causal"] for call in calls] == [False, True]


@without_kernel
@pytest.mark.parametrize("name", tiny.each(OBSTACLES, quick=("nezha", "gemma2")))
def test_what_no_kernel_can_is_computed_the_usual_way(name, calls):
    options = {"residual_attention_scores": True} if name == "bert_residual" else {}
    family = name.removesuffix("_residual")
    with pytest.warns(UserWarning, match=OBSTACLES[name]) as said:
        (plain, fused), arrays = pair(family, **options)
        found = predict(fused.model, arrays)
        predict(fused.model, arrays)
    assert len([w for w in said if "flash attention" in str(w.message)]) == 1
    for a, b in zip(found, predict(plain.model, arrays), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not calls


@without_kernel
def test_dropout_of_weights_in_training_only(calls):
    _, fused = pair("bert", attention_dropout_rate=0.5)[0]
    inputs = [tensor(x) for x in inputs_for(fused)]
    fused.model(inputs, training=False)
    assert calls
    calls.clear()
    with pytest.warns(UserWarning, match="attention weights are dropped out in training"):
        fused.model(inputs, training=True)
    assert not calls


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
def test_on_a_cpu_jax_says_so_once():
    (plain, fused), arrays = pair("llama")
    with pytest.warns(UserWarning, match="this is a CPU") as said:
        found = predict(fused.model, arrays)[-1]
    assert len(said) == 1
    np.testing.assert_array_equal(found, predict(plain.model, arrays)[-1])


def test_switch(monkeypatch):
    """The documents' variable, and the argument that is stronger."""
    monkeypatch.setenv("FLASH_ATTN", "1")
    if on_tensorflow:
        for build in (lambda: tiny.build("bert"), lambda: MultiHeadAttention(2, 8)):
            with pytest.raises(ValueError, match="flash attention .* TensorFlow has no such"):
                build()
        assert not tiny.build("bert", flash_attention=False).flash_attention
        return
    arguments = {**tiny.SIZES, "model": "bert", "return_keras_model": False}
    assert build_transformer_model(**arguments).flash_attention
    assert not build_transformer_model(**arguments, flash_attention=False).flash_attention
    monkeypatch.setenv("FLASH_ATTN", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transformer = build_transformer_model(**arguments)
    assert not transformer.flash_attention
