"""CRF, MEMM, Viterbi, global pointers.  KERAS_BACKEND=jax pytest tests/test_labelling.py"""

import itertools

import numpy as np
import pytest
from conftest import needs_keras3
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import assert_close, draw, each, numpy, tensor

from bert4keras3 import ops
from bert4keras3.layers import (
    ConditionalRandomField,
    EfficientGlobalPointer,
    GlobalPointer,
    MaximumEntropyMarkovModel,
)
from bert4keras3.ops import keras
from bert4keras3.snippets import ViterbiDecoder, tag_rules

CHAINS = {
    "crf": ConditionalRandomField,
    "memm": MaximumEntropyMarkovModel,
    "memm_h3": lambda **options: MaximumEntropyMarkovModel(hidden_dim=3, **options),
}
MASKS = {
    "none": [[1, 1, 1, 1], [1, 1, 1, 1]],
    "right": [[1, 1, 1, 0], [1, 0, 0, 0]],
    "left": [[0, 1, 1, 1], [0, 0, 0, 1]],
    "holes": [[1, 0, 1, 1], [0, 1, 0, 1]],
    "nothing": [[1, 0, 0, 1], [0, 0, 0, 0]],
}


def make(kind, labels=3, seed=0, **options):
    layer = CHAINS[kind](**options)
    layer.build((None, None, labels))
    for i, weight in enumerate(layer.weights):
        weight.assign(draw(*weight.shape, seed=seed + i))
    return layer


def log_softmax(x):
    return x - np.log(np.exp(x).sum())


def path_scores(layer, scores):
    """The score of every path through `(length, labels)`, by the definition."""
    trans = numpy(layer.trans).astype("float64")
    labels = scores.shape[1]
    result = {}
    for path in itertools.product(range(labels), repeat=len(scores)):
        pairs = list(itertools.pairwise(path))
        if isinstance(layer, ConditionalRandomField):
            score = sum(s[p] for s, p in zip(scores, path, strict=True))
            score += sum(trans[i, j] for i, j in pairs)
        else:
            score = log_softmax(scores[0])[path[0]] + log_softmax(scores[-1])[path[-1]]
            for t, (i, j) in enumerate(pairs):
                score += log_softmax((scores[t + 1] + trans[i]) / 2)[j]
                score += log_softmax((scores[t] + trans[:, j]) / 2)[i]
        result[path] = score
    return result


# ----------------------------------------------------------------------- golden


@pytest.mark.parametrize("name", ["crf_nomask", "crf_mask", "memm_mask", "memm_h3_nomask"])
def test_golden(name, golden):
    data = np.load(golden / "layers" / f"{name}.npz")
    layer = CHAINS[name.rsplit("_", 1)[0]]()
    x, y = tensor(data["x"]), data["y"]
    layer.build(x.shape)
    layer.set_weights([data[f"w_{i}"] for i in range(len(layer.weights))])
    out = layer(x, mask=tensor(data["mask"]) if "mask" in data else None)
    np.testing.assert_array_equal(numpy(out) == -np.inf, data["out"] == -np.inf)
    assert_close(np.maximum(numpy(out), -1e9), np.maximum(data["out"], -1e9))
    dense = np.eye(5, dtype="float32")[y]
    for kind, labels in (("sparse", y), ("sparse", y[..., None]), ("dense", dense)):
        found = numpy(getattr(layer, f"{kind}_loss")(tensor(labels), out))
        assert_close(found, data[f"{kind}_loss"])
        found = numpy(getattr(layer, f"{kind}_accuracy")(tensor(labels), out))
        assert_close(found, data[f"{kind}_accuracy"])


GOLDEN_POINTERS = {
    "gp_nomask": lambda: GlobalPointer(3, 8),
    "gp_mask": lambda: GlobalPointer(3, 8),
    "gp_norope_mask": lambda: GlobalPointer(3, 8, RoPE=False),
    "egp_nomask": lambda: EfficientGlobalPointer(3, 8),
    "egp_mask": lambda: EfficientGlobalPointer(3, 8),
}


@pytest.mark.parametrize("name", GOLDEN_POINTERS)
def test_golden_pointers(name, golden):
    data = np.load(golden / "layers" / f"{name}.npz")
    layer = GOLDEN_POINTERS[name]()
    layer.build(data["x"].shape)
    layer.set_weights([data[f"w_{i}"] for i in range(len(layer.weights))])
    mask = tensor(data["mask"]) if "mask" in data else None
    found = numpy(layer(tensor(data["x"]), mask=mask))
    np.testing.assert_array_equal(found == -np.inf, data["out"] == -np.inf)
    assert_close(np.maximum(found, -1e9), np.maximum(data["out"], -1e9))
    assert layer.compute_mask(None, mask) is None


# ------------------------------------------------------------- by the definition


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", CHAINS)
def test_loss_and_path_by_enumeration(kind, mask):
    layer = make(kind)
    x, y = draw(2, 4, 3, seed=5), np.random.default_rng(1).integers(0, 3, (2, 4))
    keep = np.array(MASKS[mask], dtype=bool)
    labels = np.where(keep, y, -100)  # what lies at masked steps does not matter
    out = layer(tensor(x), mask=tensor(keep))
    losses, paths, weights = [], np.zeros((2, 4), int), []
    for row in range(2):
        real = keep[row]
        if not real.any():
            losses.append(0.0)
            continue
        scores = path_scores(layer, x[row][real].astype("float64"))
        mine = scores[tuple(y[row][real])]
        if kind == "crf":
            losses.append(np.log(np.exp(list(scores.values())).sum()) - mine)
        else:
            losses.append(-mine / 2)
        paths[row, real] = max(scores, key=scores.get)
        weights.append(real.sum())
    expected = losses if kind == "crf" else np.sum(losses) / np.sum(weights)
    found = numpy(layer.sparse_loss(tensor(labels), out))
    assert_close(found, expected)
    np.testing.assert_array_equal(numpy(layer.decode(out)), paths)


@pytest.mark.once
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_viterbi_against_brute_force(data):
    """Host and device, with rules, against all paths."""
    length, labels = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 4))
    seed = data.draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    some = st.none() | st.sets(st.integers(0, labels - 1), min_size=1)
    starts, ends = data.draw(some), data.draw(some)
    allowed = rng.random((labels, labels)) < 0.7 if data.draw(st.booleans()) else None
    trans = rng.normal(size=(labels, labels))
    nodes = rng.normal(size=(length, labels))
    before = nodes.copy()

    def score(path):
        pairs = list(itertools.pairwise(path))
        fits = not path or (
            (starts is None or path[0] in starts) and (ends is None or path[-1] in ends)
        )
        if not fits or (allowed is not None and not all(allowed[i, j] for i, j in pairs)):
            return -np.inf
        return nodes[range(length), list(path)].sum() + sum(trans[i, j] for i, j in pairs)

    paths = list(itertools.product(range(labels), repeat=length))
    best = max(paths, key=score)
    decoder = ViterbiDecoder(trans, starts, ends, allowed)
    if score(best) == -np.inf:
        with pytest.raises(ValueError, match="no path"):
            decoder.decode(nodes)
        return
    np.testing.assert_array_equal(decoder.decode(nodes), best)
    np.testing.assert_array_equal(nodes, before)
    layer = ConditionalRandomField(starts=starts, ends=ends, allowed=allowed)
    layer.build((None, None, labels))
    layer.set_weights([trans])
    if length:
        found = numpy(layer.decode(tensor(nodes[None].astype("float32"))))[0]
        assert abs(score(tuple(found)) - score(best)) < 1e-5


def test_viterbi_golden(golden):
    import json

    case = json.loads((golden / "snippets" / "snippets.json").read_text())["viterbi"]
    nodes = np.array(case["nodes"])
    bound = ViterbiDecoder(np.array(case["trans"]), case["starts"], case["ends"])
    np.testing.assert_array_equal(bound.decode(nodes), case["out"])
    free = ViterbiDecoder(np.array(case["trans"]))
    np.testing.assert_array_equal(free.decode(nodes), case["out_free"])
    padded = np.concatenate([nodes, np.full((3, 4), -np.inf)])
    np.testing.assert_array_equal(free.decode(padded), case["out_free"] + [0, 0, 0])


# ------------------------------------------------------------------- gradients


@needs_keras3
@pytest.mark.parametrize("mask", ["none", "holes", "nothing"])
@pytest.mark.parametrize("kind", each(CHAINS, quick=("crf",)))
def test_gradients_against_finite_differences(kind, mask):
    layer = make(kind, seed=3)
    x, y = draw(2, 4, 3, seed=6), np.array([[0, 2, 1, 1], [2, 0, 0, 1]])
    keep = np.array(MASKS[mask], dtype=bool)

    def loss(scores, *weights):
        for variable, weight in zip(layer.trainable_variables, weights, strict=True):
            variable.assign(weight)
        out = layer(tensor(scores), mask=tensor(keep))
        return layer.sparse_loss(tensor(y), out)

    weights = [numpy(v) for v in layer.trainable_variables]
    arguments = [x, *weights]
    found = gradients(lambda v, *w: total(layer, v, w, y, keep), arguments)
    for position, gradient in enumerate(found):
        assert np.isfinite(gradient).all()
        for seed in range(3):
            direction, sides = draw(*gradient.shape, seed=seed), []
            for step in (1e-2, -1e-2):
                moved = [a.copy() for a in arguments]
                moved[position] += step * direction
                sides.append(numpy(loss(*moved)).astype("float64").sum())
            slope = (sides[0] - sides[1]) / 2e-2
            np.testing.assert_allclose((gradient * direction).sum(), slope, atol=5e-3)


def total(layer, scores, weights, y, keep):
    mapping = list(zip(layer.trainable_variables, weights, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return ops.sum(layer.sparse_loss(tensor(y), layer(scores, mask=tensor(keep))))


def gradients(function, arrays):
    """Gradients of a scalar function of float32 arrays, on any backend."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return [np.asarray(g) for g in jax.grad(function, range(len(arrays)))(*arrays)]
    if backend == "tensorflow":
        import tensorflow as tf

        values = [tf.constant(a) for a in arrays]
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = function(*values)
        return [g.numpy() for g in tape.gradient(result, values)]
    import torch

    values = [torch.tensor(a, requires_grad=True) for a in arrays]
    return [g.numpy() for g in torch.autograd.grad(function(*values), values)]


# ---------------------------------------------------------------- training, files


@pytest.mark.parametrize("kind", each(CHAINS, quick=("crf",)))
def test_training_and_files(kind, tmp_path):
    """Labels that follow from the tokens are learnt; transitions survive both kinds of files."""
    tokens = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(7, 8, mask_zero=True)(tokens)
    layer = CHAINS[kind](lr_multiplier=10, name="chain")
    scores = layer(keras.layers.Dense(3)(hidden))
    model = keras.Model(tokens, scores)
    # XLA where there is any: its loops over the steps are differentiated.
    compiles = keras.backend.backend() != "torch" and kind != "memm_h3"
    model.compile(
        "adam", layer.sparse_loss, metrics=metrics_of(layer), jit_compile=compiles or "auto"
    )
    tagger = keras.Model(tokens, layer(scores, decode=True))
    rng = np.random.default_rng(0)
    x = rng.integers(1, 7, (32, 5))
    x[::3, 3:] = 0
    y = x % 3
    before = numpy(layer.trans)
    losses = model.fit(x, y, batch_size=16, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert not np.allclose(before, numpy(layer.trans))
    found = tagger.predict(x, verbose=0)
    assert found.shape == x.shape and not found[x == 0].any()

    model.save_weights(tmp_path / "m.weights.h5")
    trained = numpy(layer.trans)
    for weight in layer.weights:
        weight.assign(np.zeros(weight.shape))
    model.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(numpy(layer.trans), trained)

    tagger.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(numpy(loaded.get_layer("chain").trans), trained)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), found)

    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    chain = loaded.get_layer("chain")
    assert chain is not layer and loaded.loss.layer is chain
    np.testing.assert_array_equal(numpy(chain.trans), trained)
    evaluated = [m.evaluate(x, y, verbose=0, return_dict=True) for m in (model, loaded)]
    assert evaluated[0] == pytest.approx(evaluated[1])
    loaded.fit(x, y, verbose=0)
    assert not np.array_equal(numpy(chain.trans), trained)
    np.testing.assert_array_equal(numpy(layer.trans), trained)


def metrics_of(layer):
    """What can be a metric: on JAX, Keras shows metrics no weights."""
    sees_weights = isinstance(layer, ConditionalRandomField) or keras.backend.backend() != "jax"
    return [layer.sparse_accuracy] if sees_weights else []


def test_metrics_that_need_weights():
    if keras.backend.backend() != "jax":
        pytest.skip("metrics see weights here")
    layer = make("memm")
    model = keras.Sequential([keras.Input((4, 3)), layer])
    model.compile("adam", layer.sparse_loss, metrics=[layer.sparse_accuracy])
    with pytest.raises(RuntimeError, match="leave it out of compile"):
        model.fit(draw(2, 4, 3), np.zeros((2, 4)), verbose=0)


def test_lr_multiplier():
    """The transitions start where they would, and what is stored is smaller."""
    layers = [ConditionalRandomField(lr_multiplier=m) for m in (1, 1000)]
    for layer in layers:
        layer.build((None, None, 50))
    spans = [np.abs(numpy(layer.trans)).max() for layer in layers]
    np.testing.assert_allclose(spans[0], spans[1], rtol=0.05)
    assert np.abs(layers[1].get_weights()[0]).max() < 1e-3


def test_constrained_decoding():
    names = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    layer = make("crf", labels=5, **tag_rules(names))
    assert type(layer).from_config(layer.get_config()).allowed == layer.allowed
    keep = np.random.default_rng(0).random((16, 9)) < 0.8
    path = numpy(layer(tensor(draw(16, 9, 5, seed=1) * 3), mask=tensor(keep), decode=True))
    host = ViterbiDecoder(layer.trans, **tag_rules(names))
    out = numpy(layer(tensor(draw(16, 9, 5, seed=1) * 3), mask=tensor(keep)))
    for row, real, scores in zip(path, keep, out, strict=True):
        tags = [names[i] for i in row[real]]
        for before, after in itertools.pairwise(["O", *tags]):
            assert after[0] != "I" or before[2:] == after[2:]
        np.testing.assert_array_equal(row, host.decode(scores))


@pytest.mark.once
def test_tag_rules():
    rules = tag_rules(["B", "M", "E", "S"])
    assert rules["starts"] == [0, 3] and rules["ends"] == [2, 3]
    assert rules["allowed"] == [
        [False, True, True, False],
        [False, True, True, False],
        [True, False, False, True],
        [True, False, False, True],
    ]
    assert tag_rules(["O", "B-X", "I-X"])["ends"] == [0, 1, 2]
    with pytest.raises(ValueError, match="label 'PER'"):
        tag_rules(["O", "PER"])


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize("kind", CHAINS)
def test_labels_out_of_range(kind):
    layer = make(kind)
    x = tensor(draw(2, 4, 3))
    with pytest.raises(ValueError, match="2 labels out of range, the first is 3; expected 0 to 2"):
        layer.sparse_loss(tensor(np.array([[0, 3, 1, 1], [-1, 0, 0, 0]])), x)
    with pytest.raises(ValueError, match=r"expected scores \(batch, length, 3\), got \(2, 4, 5\)"):
        layer.sparse_loss(tensor(np.zeros((2, 4), "int32")), tensor(draw(2, 4, 5)))


def test_compiled_labels_out_of_range():
    """A program cannot raise: the loss of such a row is NaN, not that of another label."""
    layer = make("crf")
    model = keras.Sequential([keras.Input((4, 3)), layer])
    model.compile(loss=layer.sparse_loss)
    if keras.backend.backend() == "torch":
        with pytest.raises(ValueError, match="out of range"):
            model.evaluate(draw(2, 4, 3), np.full((2, 4), 3), verbose=0)
    else:
        assert np.isnan(model.evaluate(draw(2, 4, 3), np.full((2, 4), 3), verbose=0))


@pytest.mark.parametrize("kind", CHAINS)
def test_one_label_and_empty_batches(kind):
    layer = make(kind, labels=1)
    model = keras.Sequential([keras.Input((4, 1)), layer])
    model.compile(loss=layer.sparse_loss, metrics=metrics_of(layer))
    x = draw(2, 4, 1)
    logs = model.evaluate(x, np.zeros((2, 4)), verbose=0, return_dict=True)
    assert abs(logs.pop("loss")) < 1e-6 and all(value == 1 for value in logs.values())
    assert not numpy(layer.decode(tensor(x))).any()
    layer = make(kind)
    for shape in ((0, 4), (2, 0), (0, 0)):
        x, y = tensor(np.zeros((*shape, 3), "float32")), tensor(np.zeros(shape, "int32"))
        assert not numpy(layer.sparse_loss(y, x)).any()
        assert numpy(layer.decode(x)).shape == shape
    with pytest.raises(ValueError, match="starts: expected labels from 0 to 2, got \\[7\\]"):
        CHAINS[kind](starts=[7]).build((None, None, 3))
    with pytest.raises(ValueError, match="lr_multiplier: 0 is not positive"):
        CHAINS[kind](lr_multiplier=0)


def test_viterbi_decoder_errors():
    with pytest.raises(ValueError, match="square matrix"):
        ViterbiDecoder(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"nodes: expected \(length, 2\), got \(3, 4\)"):
        ViterbiDecoder(np.zeros((2, 2))).decode(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="allowed: expected the shape"):
        ViterbiDecoder(np.zeros((2, 2)), allowed=[[True]])
    decoder = ViterbiDecoder(make("crf").trans, starts=[0], ends=[0])
    assert decoder.num_labels == 3 and decoder.non_starts == [1, 2]
    decoder.trans = np.zeros((3, 3))  # as a callback does after each epoch
    assert decoder.decode(np.zeros((2, 3))).tolist() == [0, 0]


def test_global_pointer_of_odd_size_and_files(tmp_path):
    with pytest.raises(ValueError, match="head_size: RoPE needs an even number, got 5"):
        GlobalPointer(2, 5)
    tokens = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(7, 8, mask_zero=True)(tokens)
    outputs = [cls(2, 4)(hidden) for cls in (GlobalPointer, EfficientGlobalPointer)]
    model = keras.Model(tokens, outputs)
    assert [tuple(x.shape) for x in outputs] == [(None, 2, None, None)] * 2
    x = np.array([[1, 2, 3, 0]])
    expected = model.predict(x, verbose=0)
    assert (expected[0][0, :, 3] == -np.inf).all() and (expected[0][0, :, :, 3] == -np.inf).all()
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for found, output in zip(loaded.predict(x, verbose=0), expected, strict=True):
        np.testing.assert_array_equal(found, output)
