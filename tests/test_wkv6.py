"""RWKV-6's operator against its definition.  KERAS_BACKEND=jax pytest tests/test_wkv6.py"""

import keras
import numpy as np
import pytest
import torch
from tiny import assert_close, numpy, tensor

from bert4keras3.layers import RWKVKernelOperator
from bert4keras3.layers.wkv6 import wkv6, wkv6_chunked, wkv6_naive


def draw_inputs(length, extreme=False, batch=2, heads=2, size=4):
    """r, k, v, w, u and a state."""
    rng = np.random.default_rng(length)
    shape = (batch, length, heads, size)
    r, k, v = (rng.normal(size=shape).astype("float32") for _ in range(3))
    w = rng.normal(size=shape) * (30 if extreme else 1) - (0 if extreme else 2)
    u = rng.normal(size=(heads, size))
    state = rng.normal(size=(batch, heads, size, size))
    return [r, k, v, *(x.astype("float32") for x in (w, u, state))]


def reference(inputs, dtype):
    """y, the state and the gradients of `loss` by torch, token by token."""
    tensors = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in inputs]
    r, k, v, w, u, state = tensors
    ys = []
    for t in range(r.shape[1]):
        outer = k[:, t, :, :, None] * v[:, t, :, None, :]
        ys.append(((u[..., None] * outer + state) * r[:, t, :, :, None]).sum(-2))
        state = torch.exp(-torch.exp(w[:, t]))[..., None] * state + outer
    y = torch.stack(ys, 1)
    (torch.sin(y).sum() + torch.cos(state).sum()).backward()
    outputs = [x.detach().double().numpy() for x in (y, state)]
    return outputs, [x.grad.double().numpy() for x in tensors]


def gradients(function, inputs):
    """Gradients of the same loss by the backend."""

    def loss(*tensors):
        y, state = function(*tensors)
        return keras.ops.sum(keras.ops.sin(y)) + keras.ops.sum(keras.ops.cos(state))

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        found = jax.jit(jax.grad(loss, argnums=tuple(range(len(inputs)))))(*map(tensor, inputs))
    elif backend == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(x) for x in inputs]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(*tensors)
        found = tape.gradient(value, tensors)
    else:
        tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
        loss(*tensors).backward()
        found = [x.grad for x in tensors]
    return [np.asarray(numpy(x), "float64") for x in found]


def error(found, expected):
    """Largest difference, relative to the largest value."""
    return np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, pytest.param(1000, marks=pytest.mark.slow)])
def test_outputs_and_states(length, extreme):
    inputs = draw_inputs(length, extreme)
    expected, _ = reference(inputs, torch.float64)
    for found, wanted in zip(wkv6(*map(tensor, inputs)), expected, strict=True):
        assert error(numpy(found), wanted) < 1e-5


@pytest.mark.parametrize("extreme", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 65])
def test_gradients(length, extreme):
    """All of them, the state's and the decays' too, as good as those of the plain loop."""
    inputs = draw_inputs(length, extreme)
    _, expected = reference(inputs, torch.float64)
    _, plain = reference(inputs, torch.float32)
    for found, wanted, own in zip(gradients(wkv6, inputs), expected, plain, strict=True):
        assert np.isfinite(found).all()
        assert error(found, wanted) <= max(1e-5, error(own, wanted))


def test_the_definition_in_keras():
    inputs = draw_inputs(7)
    expected, _ = reference(inputs, torch.float64)
    for found, wanted in zip(wkv6_naive(*map(tensor, inputs)), expected, strict=True):
        assert error(numpy(found), wanted) < 1e-5


def test_no_state_and_a_state_for_all():
    *inputs, state = draw_inputs(5)
    zeros = wkv6(*map(tensor, [*inputs, np.zeros_like(state)]))
    shared = wkv6(*map(tensor, [*inputs, np.repeat(state[:1], 2, axis=0)]))
    for found, wanted in zip(wkv6(*map(tensor, inputs)), zeros, strict=True):
        assert_close(numpy(found), numpy(wanted), 0)
    for found, wanted in zip(wkv6(*map(tensor, [*inputs, state[:1]])), shared, strict=True):
        assert_close(numpy(found), numpy(wanted), 0)


def test_without_decay_and_key_a_token_changes_nothing():
    *_, state = inputs = draw_inputs(40)
    inputs[1], inputs[3] = np.zeros_like(inputs[1]), np.full_like(inputs[3], -1e9)
    found = wkv6(*map(tensor, inputs))[1]
    assert_close(numpy(found), state, 0)


def test_any_chunk_size():
    inputs = [tensor(x) for x in draw_inputs(19)]
    expected = wkv6_chunked(*inputs, chunk=1)
    for chunk in (2, 8, 64):
        for found, wanted in zip(wkv6_chunked(*inputs, chunk=chunk), expected, strict=True):
            assert_close(numpy(found), numpy(wanted))


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="lengths known at run time")
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_within_a_function(compiled):
    import tensorflow as tf

    inputs = draw_inputs(40)
    expected = reference(inputs, torch.float64)[1]
    specs = [tf.TensorSpec([None, 40 if compiled else None, *x.shape[2:]]) for x in inputs[:4]]
    specs += [tf.TensorSpec(x.shape) for x in inputs[4:]]

    @tf.function(input_signature=specs, jit_compile=compiled)
    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y, state = wkv6(*tensors)
            loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(tf.cos(state))
        return tape.gradient(loss, tensors)

    for found, wanted in zip(run(*inputs), expected, strict=True):
        assert error(found.numpy(), wanted) < 1e-5


def flat(inputs):
    """With the heads side by side, as the documented operator takes them."""
    *xs, u, state = inputs
    return [tensor(x.reshape(*x.shape[:2], -1)) for x in xs], tensor(u), state


def test_documented_operator():
    inputs = draw_inputs(6, batch=3)
    (r, k, v, w), u, state = flat(inputs)
    kernel, other = RWKVKernelOperator(4), RWKVKernelOperator(4, max_sequence_length=5)
    y, none = kernel(r, k, v, w, u)
    assert none is None and tuple(y.shape) == tuple(r.shape)
    expected = wkv6(*map(tensor, inputs[:5]))
    assert_close(numpy(y), numpy(expected[0]).reshape(y.shape), 0)
    flat_u = keras.ops.reshape(u, (-1,))
    y, after = kernel(r, k, v, w, flat_u, with_state=True, init_state=state)
    assert_close(numpy(after), numpy(wkv6(*map(tensor, inputs))[1]), 0)
    y, mapped = kernel(
        r, k, v, w, u, with_state=True, init_state=state[::-1][:2], state_map=[1, 0, 1]
    )
    chosen = state[[1, 2, 1]]
    assert_close(numpy(mapped), numpy(wkv6(*map(tensor, [*inputs[:5], chosen]))[1]), 0)
    one = kernel(r, k, v, w, u, True, state[0])[1]
    assert_close(numpy(one), numpy(kernel(r, k, v, w, u, True, state[:1])[1]), 0)
    with pytest.raises(ValueError, match="at most max_sequence_length=5 tokens, got 6"):
        other(r, k, v, w, u)
    with pytest.raises(ValueError, match="2 states for 3 rows need a state_map"):
        kernel(r, k, v, w, u, True, state[:2])
    with pytest.raises(ValueError, match="k: expected the shape"):
        kernel(r, k[:, :2], v, w, u)
    with pytest.raises(ValueError, match="multiple of head_size=3"):
        RWKVKernelOperator(3)(r, k, v, w, u)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    """What is accumulated is float32."""
    inputs = draw_inputs(50)
    (r, k, v, w), u, state = flat(inputs)
    half = [keras.ops.cast(x, dtype) for x in (r, k, v, w)]
    y, after = RWKVKernelOperator(4)(*half, keras.ops.cast(u, dtype), True, state)
    wanted = {"bfloat16": "bfloat16", "float16": "float32"}[dtype]
    assert keras.backend.standardize_dtype(y.dtype) == wanted
    assert keras.backend.standardize_dtype(after.dtype) == "float32"
    expected, _ = reference(inputs, torch.float64)
    found = numpy(keras.ops.cast(y, "float32")).reshape(expected[0].shape)
    assert error(found, expected[0]) < 2e-2
    assert error(numpy(after), expected[1]) < 2e-2
