"""RWKV's operators against their definitions.  KERAS_BACKEND=jax pytest tests/test_wkv.py"""

import sys
import types

import keras
import numpy as np
import pytest
import torch
from tiny import assert_close, numpy, tensor

from bert4keras3.layers import RWKVKernelOperator
from bert4keras3.layers.wkv6 import wkv6, wkv6_chunked, wkv6_naive
from bert4keras3.layers.wkv7 import wkv7, wkv7_chunked, wkv7_naive


def draw_wkv6(length, extreme=False, batch=2, heads=2, size=4):
    """r, k, v, w, u and a state."""
    rng = np.random.default_rng(length)
    shape = (batch, length, heads, size)
    r, k, v = (rng.normal(size=shape).astype("float32") for _ in range(3))
    w = rng.normal(size=shape) * (30 if extreme else 1) - (0 if extreme else 2)
    u = rng.normal(size=(heads, size))
    state = rng.normal(size=(batch, heads, size, size))
    return [r, k, v, *(x.astype("float32") for x in (w, u, state))]


def draw_wkv7(length, extreme=False, batch=2, heads=2, size=4):
    """r, w, k, v, a, b and a state; with extremes all decays there are, and keys that repeat."""
    rng = np.random.default_rng(length)
    shape = (batch, length, heads, size)
    r, k, v, unit = (rng.normal(size=shape) for _ in range(4))
    if extreme:
        unit[:, length // 3 : length // 2] = unit[:, :1]
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    w, rates = (1 / (1 + np.exp(-rng.normal(size=shape) * (30 if extreme else 1))) for _ in "wa")
    w *= -30 * rng.uniform(size=shape) if extreme else -0.6
    state = rng.normal(size=(batch, heads, size, size))
    return [x.astype("float32") for x in (r, w, k, v, -unit, unit * rates, state)]


def step_wkv6(state, r, k, v, w, u):
    """y and the state afterwards; all but u of one token, `(batch, heads, size)`."""
    outer = k[..., :, None] * v[..., None, :]
    y = ((u[..., None] * outer + state) * r[..., None]).sum(-2)
    return y, torch.exp(-torch.exp(w))[..., None] * state + outer


def step_wkv7(state, r, w, k, v, a, b):
    """The same."""
    read = (state @ a[..., None]) @ b[..., None, :]
    state = state * torch.exp(w)[..., None, :] + read + v[..., None] * k[..., None, :]
    return (state @ r[..., None])[..., 0], state


# The operator, its other forms, its inputs and the definition.
WKV6 = (wkv6, wkv6_chunked, wkv6_naive, draw_wkv6, step_wkv6)
WKV7 = (wkv7, wkv7_chunked, wkv7_naive, draw_wkv7, step_wkv7)
each_operator = pytest.mark.parametrize("operator", [WKV6, WKV7], ids=["wkv6", "wkv7"])


def reference(step, inputs, dtype):
    """y, the state and the gradients of `loss` by torch, token by token."""
    tensors = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in inputs]
    *xs, state = tensors
    ys = []
    for t in range(inputs[0].shape[1]):
        y, state = step(state, *(x[:, t] if x.ndim == 4 else x for x in xs))
        ys.append(y)
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


@each_operator
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, pytest.param(1000, marks=pytest.mark.slow)])
def test_outputs_and_states(operator, length, extreme):
    wkv, *_, draw, step = operator
    inputs = draw(length, extreme)
    expected, _ = reference(step, inputs, torch.float64)
    for found, wanted in zip(wkv(*map(tensor, inputs)), expected, strict=True):
        assert error(numpy(found), wanted) < 1e-5


@each_operator
@pytest.mark.parametrize("extreme", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 65])
def test_gradients(operator, length, extreme):
    """All of them, the state's and the decays' too, as good as those of the plain loop."""
    wkv, *_, draw, step = operator
    inputs = draw(length, extreme)
    _, expected = reference(step, inputs, torch.float64)
    _, plain = reference(step, inputs, torch.float32)
    for found, wanted, own in zip(gradients(wkv, inputs), expected, plain, strict=True):
        assert np.isfinite(found).all()
        assert error(found, wanted) <= max(1e-5, error(own, wanted))


@each_operator
def test_the_definition_in_keras(operator):
    _, _, naive, draw, step = operator
    inputs = draw(7)
    expected, _ = reference(step, inputs, torch.float64)
    for found, wanted in zip(naive(*map(tensor, inputs)), expected, strict=True):
        assert error(numpy(found), wanted) < 1e-5


@each_operator
def test_no_state_and_a_state_for_all(operator):
    wkv, *_, draw, _ = operator
    *inputs, state = draw(1)
    zeros = wkv(*map(tensor, [*inputs, np.zeros_like(state)]))
    shared = wkv(*map(tensor, [*inputs, np.repeat(state[:1], 2, axis=0)]))
    for found, wanted in zip(wkv(*map(tensor, inputs)), zeros, strict=True):
        assert_close(numpy(found), numpy(wanted), 0)
    for found, wanted in zip(wkv(*map(tensor, [*inputs, state[:1]])), shared, strict=True):
        assert_close(numpy(found), numpy(wanted), 0)


def test_without_decay_and_key_a_token_changes_nothing():
    *_, state = inputs = draw_wkv6(40)
    inputs[1], inputs[3] = np.zeros_like(inputs[1]), np.full_like(inputs[3], -1e9)
    assert_close(numpy(wkv6(*map(tensor, inputs))[1]), state, 0)
    *_, state = inputs = draw_wkv7(40)
    for i in (1, 2, 4):
        inputs[i] = np.zeros_like(inputs[i])
    assert_close(numpy(wkv7(*map(tensor, inputs))[1]), state, 0)


@each_operator
def test_any_chunk_size(operator):
    _, chunked, _, draw, _ = operator
    inputs = [tensor(x) for x in draw(19)]
    expected = chunked(*inputs, chunk=1)
    for chunk in (4, 64):
        for found, wanted in zip(chunked(*inputs, chunk=chunk), expected, strict=True):
            assert_close(numpy(found), numpy(wanted))


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="lengths known at run time")
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.further)])
@each_operator
def test_gradients_within_a_function(operator, compiled):
    import tensorflow as tf

    wkv, *_, draw, step = operator
    inputs = draw(40)
    expected = reference(step, inputs, torch.float64)[1]
    specs = []
    for x in inputs:
        by_token = x.shape[1] == 40
        shape = [None, 40 if compiled else None, *x.shape[2:]] if by_token else x.shape
        specs.append(tf.TensorSpec(shape))

    @tf.function(input_signature=specs, jit_compile=compiled)
    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y, state = wkv(*tensors)
            loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(tf.cos(state))
        return tape.gradient(loss, tensors)

    for found, wanted in zip(run(*inputs), expected, strict=True):
        assert error(found.numpy(), wanted) < 1e-5


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the kernel is one of torch")
def test_a_fused_kernel_only_where_asked_for(monkeypatch):
    """By a stand-in with the kernel's conventions: the kernel itself needs a GPU."""
    inputs = [tensor(x) for x in draw_wkv6(9)]
    expected, calls = wkv6(*inputs), []

    def chunk_rwkv6(r, k, v, w, u, scale, initial_state, output_final_state):
        calls.append((scale, output_final_state))
        return wkv6_naive(r, k, v, torch.log(-w), u, initial_state)

    for name in ("fla", "fla.ops", "fla.ops.rwkv6"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["fla.ops.rwkv6"].chunk_rwkv6 = chunk_rwkv6
    cases = [(True, "1", 0), (True, None, 0), (False, "0", 0), (True, "0", 1)]
    for available, switch, count in cases:
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        monkeypatch.delenv("OPS_KERNEL", raising=False)
        if switch:
            monkeypatch.setenv("OPS_KERNEL", switch)
        for found, wanted in zip(wkv6(*inputs), expected, strict=True):
            assert_close(numpy(found), numpy(wanted))
        assert calls == [(1.0, True)] * count


def flat(inputs):
    """With the heads side by side, as the documented operator takes them."""
    *xs, u, state = inputs
    return [tensor(x.reshape(*x.shape[:2], -1)) for x in xs], tensor(u), state


def test_documented_operator():
    inputs = draw_wkv6(6, batch=3)
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
    inputs = draw_wkv6(50)
    (r, k, v, w), u, state = flat(inputs)
    half = [keras.ops.cast(x, dtype) for x in (r, k, v, w)]
    y, after = RWKVKernelOperator(4)(*half, keras.ops.cast(u, dtype), True, state)
    wanted = {"bfloat16": "bfloat16", "float16": "float32"}[dtype]
    assert keras.backend.standardize_dtype(y.dtype) == wanted
    assert keras.backend.standardize_dtype(after.dtype) == "float32"
    expected, _ = reference(step_wkv6, inputs, torch.float64)
    found = numpy(keras.ops.cast(y, "float32")).reshape(expected[0].shape)
    assert error(found, expected[0]) < 2e-2
    assert error(numpy(after), expected[1]) < 2e-2
