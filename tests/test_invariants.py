"""What holds for every family.  KERAS_BACKEND=jax pytest tests/test_invariants.py"""

import numpy as np
import pytest
import tiny
from tiny import assert_close, build, compiled, inputs_for, predict

from bert4keras3.models.checkpoints import checkpoint_weights
from bert4keras3.ops import keras, seam
from bert4keras3.weights import CheckpointError
from bert4keras3.weights.table import join_axis


@pytest.mark.parametrize("name", tiny.each(tiny.ALL))
def test_padded_rows_equal_the_rows_alone(name):
    transformer = build(name)
    arrays = inputs_for(transformer)
    lengths = [9, 6, 1]
    padded = [a.copy() for a in arrays]
    for row, length in enumerate(lengths):
        padded[0][row, length:] = 0
    together = predict(transformer.model, padded)
    for row, length in enumerate(lengths):
        alone = predict(transformer.model, [a[row : row + 1, :length] for a in arrays])
        for a, b in zip(together, alone, strict=True):
            part = a[row : row + 1, :length] if a.ndim == 3 else a[row : row + 1]
            assert_close(part, b)


@pytest.mark.parametrize("name", tiny.each(tiny.ALL))
def test_compiled_equals_eager(name):
    """TensorFlow compiles for any length once it has seen a second one."""
    transformer = build(name)
    for length in (9, 6) if keras.backend.backend() == "tensorflow" else (9,):
        arrays = inputs_for(transformer, length=length)
        expected = predict(transformer.model, arrays)
        for a, b in zip(compiled(transformer.model, arrays), expected, strict=True):
            assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.each(tiny.ALL))
def test_every_weight_takes_part(name):
    """A weight that changes nothing is a weight that is not used."""
    transformer = build(name)
    arrays = inputs_for(transformer)
    before = predict(transformer.model, arrays)
    for variable in transformer.model.weights:
        value = keras.ops.convert_to_numpy(variable)
        # A constant added to all keys' biases cancels in the softmax: draw at random.
        noise = np.random.default_rng(3).normal(size=value.shape).astype("float32")
        variable.assign(value + noise)
        after = predict(transformer.model, arrays)
        variable.assign(value)
        changed = any(np.abs(a - b).max() > 1e-6 for a, b in zip(before, after, strict=True))
        path = seam.variable_path(variable)
        assert changed or path.endswith("k_dense/bias"), path


@pytest.mark.parametrize("name", tiny.each(tiny.ALL))
def test_h5_round_trip(name, tmp_path):
    transformer = build(name)
    arrays = inputs_for(transformer)
    expected = predict(transformer.model, arrays)
    path = tmp_path / "model.weights.h5"
    transformer.save_weights(path)
    other = build(name, keras_weights_path=None)
    tiny.randomize(other.model, seed=5)
    other.load_weights(path)
    for a, b in zip(predict(other.model, arrays), expected, strict=True):
        assert_close(a, b, 0)
    # Keras itself reads the same file into the same weights.
    tiny.randomize(other.model, seed=5)
    other.model.load_weights(path)
    for a, b in zip(predict(other.model, arrays), expected, strict=True):
        assert_close(a, b, 0)


@pytest.mark.parametrize("name", tiny.each(tiny.ALL))
def test_tensorflow_round_trip(name, tmp_path):
    transformer = build(name)
    if transformer.tables.get("tf") and "unshared" in name:
        # One tensor of the file stands for all blocks.
        with pytest.raises(CheckpointError, match="are one tensor in these files"):
            transformer.save_weights_as_checkpoint(tmp_path / "model.ckpt")
        paths = {seam.variable_path(v): v for v in transformer.model.weights}
        for path, variable in paths.items():
            if "-0-" in path:
                variable.assign(paths[path.replace("-0-", "-1-", 1)])
    transformer.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    other = build(name)
    tiny.randomize(other.model, seed=5)
    other.load_weights_from_checkpoint(tmp_path / "model.ckpt")
    assert other.load_report.complete and not other.load_report.unused
    for a, b in zip(transformer.model.weights, other.model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("form", ["tf", "hf"])
@pytest.mark.parametrize("name", tiny.each(tiny.ALL))
def test_table_rows_match_the_layers(name, form, tmp_path):
    """Every weight has a name in the table, and transforms have inverses."""
    transformer = build(name)
    if form not in transformer.tables:
        assert transformer.tables
        return
    table = transformer.table(form)
    names = [tensor.name for row in table.values() for tensor in row]
    assert len(names) == len(set(names)) or "unshared" in name
    for layer in transformer.model.layers:
        row = table.get(layer.name, [])
        if form == "hf" and layer.trainable_weights and not row:
            with pytest.raises(CheckpointError):
                transformer.save_pretrained(tmp_path)
            continue
        assert len(row) == len(layer.trainable_weights), layer.name
        for tensor, weight in zip(row, checkpoint_weights(layer), strict=False):
            value, parts = weight.numpy(), tensor.name.rpartition("of")[2]
            copies = int(parts) if ":part" in tensor.name or ":stack" in tensor.name else 1
            stored = np.concatenate([tensor.write(value)] * copies, axis=join_axis(tensor.name))
            np.testing.assert_array_equal(tensor.read(stored), value)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.each(tiny.ALL))
def test_keras_file_round_trip(name, tmp_path):
    transformer = build(name)
    arrays = inputs_for(transformer)
    expected = predict(transformer.model, arrays)
    transformer.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(predict(loaded, arrays), expected, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", tiny.each(tiny.ALL))
def test_bfloat16_is_near(name):
    arrays = inputs_for(build(name))
    expected = predict(build(name).model, arrays)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = predict(build(name).model, arrays)
    finally:
        keras.config.set_dtype_policy("float32")
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 5e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.each(tiny.ALL))
def test_one_fit_lowers_the_loss(name):
    keras.utils.set_random_seed(0)
    transformer = build(name, dropout_rate=0.1, attention_dropout_rate=0.1)
    arrays = inputs_for(transformer, rows=8)
    model = keras.Model(transformer.inputs, transformer.outputs[-1])
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    inputs = arrays if len(arrays) > 1 else arrays[0]
    target = np.zeros_like(predict(model, arrays)[0])
    before = model.evaluate(inputs, target, verbose=0)
    model.fit(inputs, target, epochs=5, verbose=0)
    assert model.evaluate(inputs, target, verbose=0) < before


@pytest.mark.parametrize("name", tiny.each(tiny.DECODERS))
def test_step_by_step_equals_the_whole(name):
    """A prompt, then single tokens, at rows of different lengths."""
    transformer = build(name)
    arrays = inputs_for(transformer)
    rows, length = arrays[0].shape[:2]
    steps, source = tiny.split(transformer, arrays, [9, 6, 4])
    # What is seen both ways (the first two tokens) must lie within the prompt.
    after = np.maximum(np.arange(length) - 1, 0)
    for segments in steps[1:]:
        segments[:] = after if transformer.segment_attention else after > 0
    expected = predict(transformer.model, arrays)[-1]
    arrays = steps
    slots, starts = 12, np.array([4, 2, 3])
    states = transformer.initial_states(rows, slots, source=source)
    positions = np.tile(np.arange(4), (rows, 1))
    prompt = [a[:, :4] for a in arrays]
    outputs, states = transformer.step(_tensors(prompt), positions, starts, states, slots)
    found = np.array(keras.ops.convert_to_numpy(_last(outputs)))
    for row, start in enumerate(starts):
        assert_close(found[row, :start], expected[row, :start])
    for offset in range(length - starts.max()):
        at = starts + offset
        token = [np.take_along_axis(a, at[:, None], axis=1) for a in arrays]
        outputs, states = transformer.step(_tensors(token), at[:, None], at + 1, states, slots)
        found = keras.ops.convert_to_numpy(_last(outputs))
        for row, position in enumerate(at):
            assert_close(found[row, 0], expected[row, position])


def _last(outputs):
    return outputs[-1] if isinstance(outputs, (list, tuple)) else outputs


def _tensors(arrays):
    return [keras.ops.convert_to_tensor(a) for a in arrays]
