"""The documented tensor helpers.  KERAS_BACKEND=jax pytest tests/test_backend.py"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import assert_close, draw, numpy, tensor

from bert4keras3 import backend, ops
from bert4keras3.ops import keras


def test_losses_golden(golden):
    data = np.load(golden / "losses" / "losses.npz")
    found = backend.multilabel_categorical_crossentropy(tensor(data["ml_y"]), tensor(data["ml_p"]))
    assert_close(numpy(found), data["ml_loss"])
    for mask_zero in (0, 1):
        found = backend.sparse_multilabel_categorical_crossentropy(
            tensor(data["sml_y"]), tensor(data[f"sml_p_{mask_zero}"]), mask_zero=bool(mask_zero)
        )
        assert_close(numpy(found), data[f"sml_loss_{mask_zero}"])


def test_masking_golden(golden):
    data = np.load(golden / "losses" / "losses.npz")
    x, mask = tensor(data["sm_x"]), tensor(data["sm_mask"])
    for key, value in (("sm_0", 0), ("sm_ninf", "-inf"), ("sm_inf", "inf")):
        np.testing.assert_array_equal(numpy(backend.sequence_masking(x, mask, value)), data[key])


def test_activations_and_positions_golden(golden):
    data = np.load(golden / "losses" / "losses.npz")
    assert_close(numpy(backend.gelu_erf(tensor(data["gelu_x"]))), data["gelu_erf"])
    assert_close(numpy(backend.gelu_tanh(tensor(data["gelu_x"]))), data["gelu_tanh"])
    assert_close(numpy(backend.sinusoidal_embeddings(tensor(data["sin_pos"]), 8)), data["sin_emb"])
    rotated = backend.apply_rotary_position_embeddings(
        tensor(data["sin_emb"]), tensor(data["rope_q"])
    )
    assert_close(numpy(rotated), data["rope_out"])
    schedule = {1000: 1, 2000: 0.1}
    assert_close(numpy(backend.piecewise_linear(data["pl_t"], schedule)), data["pl_v"])


@pytest.mark.parametrize("method", ["softmax", "softmax_plus", "softmax-fp32"])
def test_attention_normalize_golden(method, golden):
    data = np.load(golden / "losses" / "losses.npz")
    mask = tensor(data["an_mask"][:, 0, 0].astype(bool))
    found = backend.attention_normalize(tensor(data["an_a"]), mask, -1, method)
    assert_close(numpy(found), data["an_" + method.replace("-fp32", "")])


def test_squared_relu_divides_by_the_visible_keys(golden):
    data = np.load(golden / "losses" / "losses.npz")
    visible = data["an_mask"].astype(bool)
    expected = np.maximum(data["an_a"], 0) ** 2 * visible / visible.sum(-1, keepdims=True)
    found = backend.attention_normalize(
        tensor(data["an_a"]), tensor(visible[:, 0, 0]), -1, "squared_relu"
    )
    assert_close(numpy(found), expected)


def test_rows_that_see_nothing_are_zero_in_every_dtype():
    for dtype in ("float32", "float16", "bfloat16"):
        for method in ("softmax", "softmax-fp32", "softmax_plus", "squared_relu"):
            scores = ops.cast(tensor(np.ones((2, 1, 3, 4), "float32")), dtype)
            mask = tensor(np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool))
            found = backend.attention_normalize(scores, mask, -1, method)
            assert backend.dtype(found) == dtype
            found = numpy(ops.cast(found, "float32"))
            assert (found[1] == 0).all() and (found[0, ..., 2:] == 0).all()
            assert np.isfinite(found).all()
    with pytest.raises(ValueError, match="unknown attention normalization 'sigmoid'"):
        backend.attention_normalize(scores, method="sigmoid")


def test_sequence_masking_options(rng):
    x = rng.normal(size=(2, 3, 3)).astype("float32")
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    both, full = backend.sequence_masking(
        tensor(x), tensor(mask), "-inf", axis=[1, 2], return_mask=True
    )
    visible = mask[:, :, None] * mask[:, None, :]
    np.testing.assert_array_equal(numpy(full) + np.zeros_like(x, bool), visible.astype(bool))
    assert (np.isinf(numpy(both)) == (visible == 0)).all()
    causal = np.tril(np.ones((3, 3), bool))
    found = backend.sequence_masking(tensor(x), None, 0, bias=tensor(causal))
    assert_close(numpy(found), x * causal)
    added = backend.sequence_masking(tensor(x), tensor(mask), 7, axis=-1, bias=tensor(x))
    assert_close(numpy(added), np.where(mask[:, None, :], 2 * x, 7))
    assert backend.sequence_masking(tensor(x), return_mask=True)[1] is None
    same = backend.get_sequence_masking(tensor(x), tensor(mask), axis=1)
    assert backend.dtype(same) == "int32"


def test_shapes(rng):
    x = tensor(rng.normal(size=(2, 3, 4, 5)).astype("float32"))
    assert tuple(backend.flatten(x, 1, 3).shape) == (2, 12, 5)
    assert tuple(backend.flatten(x).shape) == (120,)
    assert tuple(backend.flatten(x, 2).shape) == (2, 3, 20)
    assert tuple(backend.reshape(x, (6, 20)).shape) == (6, 20)
    assert tuple(backend.reshape(x, (2, -1), 2).shape) == (2, 3, 2, 2, 5)
    assert tuple(backend.align(x[0, 0], [0, -1], 4).shape) == (4, 1, 1, 5)
    with pytest.raises(ValueError, match="ascend"):
        backend.align(x[0, 0], [1, 0])
    padded = backend.divisible_temporal_padding(x, 4)
    assert tuple(padded.shape) == (2, 4, 4, 5)
    assert (numpy(padded)[:, 3] == 0).all()
    assert backend.divisible_temporal_padding(x, 3).shape[1] == 3
    assert_close(numpy(backend.root_mean_square(x, -1)), np.sqrt((numpy(x) ** 2).mean(-1)))
    np.testing.assert_array_equal(backend.int_shape(x), [2, 3, 4, 5])


def test_small_helpers(rng):
    params = rng.normal(size=(2, 5, 3)).astype("float32")
    indices = np.array([[0, 4], [1, 1]])
    found = backend.batch_gather(tensor(params), tensor(indices))
    assert_close(numpy(found), np.take_along_axis(params, indices[..., None], 1))
    found = backend.divide_no_nan(tensor([1.0, 0.0, 2.0]), tensor([2.0, 0.0, 0.0]))
    np.testing.assert_array_equal(numpy(found), [0.5, 0.0, np.inf])
    assert_close(numpy(backend.leaky_relu(tensor([-1.0, 2.0]))), [-0.2, 2.0])
    assert_close(numpy(backend.swish(tensor([0.0, 1.0]))), [0.0, 1 / (1 + np.exp(-1))])
    with pytest.raises(ValueError, match="even dimension, got 3"):
        backend.sinusoidal_embeddings(tensor([1]), 3)
    table = backend.Sinusoidal()((7, 4))
    assert_close(numpy(table), numpy(backend.sinusoidal_embeddings(ops.arange(7), 4)))


def gradient(function, x):
    """The gradient of a scalar function of one array, on any backend."""
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(function)(x))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x).numpy()
    import torch

    x = torch.tensor(x, requires_grad=True)
    function(x).backward()
    return x.grad.numpy()


def test_losses_have_gradients(rng):
    scores = rng.normal(size=(3, 6)).astype("float32")
    scores[0, 2] = -np.inf
    soft = np.array([[1, 0, 0, 1, 0, 0], [0] * 6, [0.3, 0.5, 1, 0, 0, 0]], "float32")
    ids = np.array([[1, 0], [2, 3], [5, 0]])

    def dense(x):
        return ops.sum(backend.multilabel_categorical_crossentropy(tensor(soft), x))

    def sparse(x):
        return ops.sum(backend.sparse_multilabel_categorical_crossentropy(tensor(ids), x, True))

    for loss, x in ((dense, scores), (sparse, np.where(np.isinf(scores), 0, scores))):
        found = gradient(loss, x)
        assert np.isfinite(found).all()
        step = np.zeros_like(x)
        step[1, 1] = 1e-2
        slope = (float(loss(tensor(x + step))) - float(loss(tensor(x - step)))) / 2e-2
        assert abs(slope - found[1, 1]) < 1e-3


def test_set_gelu():
    x = tensor([1.0])
    try:
        backend.set_gelu("tanh")
        assert backend.get_activation("gelu") is backend.gelu_tanh
    finally:
        backend.set_gelu("erf")
    assert backend.get_activation("gelu") is backend.gelu_erf
    assert float(backend.get_activation("gelu_tanh")(x)[0]) != float(backend.gelu_erf(x)[0])
    with pytest.raises(ValueError, match="'erf' or 'tanh', got 'fast'"):
        backend.set_gelu("fast")
    with pytest.raises(ValueError, match="unknown activation 'gelo'"):
        backend.get_activation("gelo")


def test_search_layer():
    a = keras.Input((3,))
    first = keras.layers.Dense(3, name="first")
    b = keras.layers.Dense(2, name="second")(first(a))
    assert backend.search_layer(b, "first") is first
    assert backend.search_layer(b, "none") is None


def test_half_rotation_is_a_rotation(rng):
    x = rng.normal(size=(2, 5, 3, 8)).astype("float32")
    positions = np.tile(np.arange(5), (2, 1))
    found = numpy(backend.rotate_halves(tensor(x), tensor(positions)))
    assert_close(np.linalg.norm(found, axis=-1), np.linalg.norm(x, axis=-1))
    shifted = numpy(backend.rotate_halves(tensor(x), tensor(positions * 2), scaling_factor=2.0))
    assert_close(found, shifted)
    turned = numpy(
        backend.apply_rotary_position_embeddings(
            backend.sinusoidal_embeddings(tensor(positions), 8),
            tensor(x.reshape(2, 5, 3, 2, 4).swapaxes(-1, -2).reshape(2, 5, 3, 8)),
        )
    )
    interleaved = found.reshape(2, 5, 3, 2, 4).swapaxes(-1, -2).reshape(2, 5, 3, 8)
    assert_close(turned, interleaved)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the cache is JAX's")
def test_compilation_cache(tmp_path):
    """A second process finds what the first one compiled; one variable switches it on."""
    code = (
        "from bert4keras3.models import build_transformer_model\n"
        "t = build_transformer_model(model='llama', vocab_size=9, hidden_size=8, max_position=64,"
        " num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, hidden_act='silu',"
        " with_lm='linear', return_keras_model=False)\n"
        "t.generate([1, 2], 2)\n"
    )
    environment = {**os.environ, "BERT4KERAS3_COMPILATION_CACHE": str(tmp_path / "programs")}
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        kept.append(
            {path.name for path in (tmp_path / "programs").iterdir() if "atime" not in path.name}
        )
    assert kept[0] and kept[0] == kept[1]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the cache is JAX's")
def test_default_folder_of_the_compilation_cache(tmp_path, monkeypatch):
    """It belongs to the user and the processor, and does not grow without end."""
    settings = {}
    monkeypatch.setattr("jax.config.update", settings.__setitem__)
    monkeypatch.setattr("bert4keras3.backend.compilation.MOST_BYTES", 9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Path(backend.enable_compilation_cache())
    assert folder.parent == tmp_path / "bert4keras3" / "programs"
    assert settings["jax_compilation_cache_dir"] == str(folder)
    for i in range(4):
        (folder / f"program-{i}").write_bytes(b"1234")
        os.utime(folder / f"program-{i}", (i, i))
    backend.enable_compilation_cache()
    assert {path.name for path in folder.iterdir()} == {"program-2", "program-3"}
    settings.clear()
    with pytest.warns(UserWarning, match="is off: .*program-3"):
        assert backend.enable_compilation_cache(folder / "program-3" / "folder") is None
    assert not settings


def test_compilation_cache_elsewhere():
    if keras.backend.backend() != "jax":
        with pytest.warns(UserWarning, match="it has no effect"):
            assert backend.enable_compilation_cache() is None


def test_devices_are_listed():
    assert backend.get_available_gpus() == backend.list_devices("gpu")
    assert all(isinstance(name, str) for name in backend.list_devices("tpu"))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
def test_rows_of_small_tables_on_a_gpu(monkeypatch):
    """Chosen among instead of gathered: same rows, same gradients, NaN beyond the end."""
    import jax

    rng = np.random.default_rng(0)
    table, ids = draw(3, 4), rng.integers(0, 3, (2, 5)).astype("int32")
    weights = draw(2, 5, 4, seed=1)

    def loss(table):
        return ops.sum(ops.lookup(table, ids) * weights)

    expected = jax.value_and_grad(loss)(table)
    monkeypatch.setattr(ops, "is_jax_on", lambda platform: platform == "gpu")
    value, gradients = jax.value_and_grad(loss)(table)
    assert value == expected[0]
    np.testing.assert_allclose(gradients, expected[1], rtol=1e-6)
    assert np.isnan(ops.lookup(table, np.array([7], "int32"))).all()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
def test_single_rows_on_a_gpu(monkeypatch):
    """A row in 16 bits is multiplied as two."""
    monkeypatch.setattr(ops, "is_jax_on", lambda platform: platform == "gpu")
    x, kernel = (ops.cast(draw(*shape), "float16") for shape in ((1, 1, 6), (6, 4)))
    found = ops.project(x, kernel)
    assert found.shape == (1, 1, 4) and found.dtype == "float16"
    np.testing.assert_allclose(found, ops.matmul(x, kernel), rtol=2e-3, atol=2e-3)
