"""Single layers: numbers, shapes, masks, files.  KERAS_BACKEND=jax pytest tests/test_layers.py"""

import itertools

import numpy as np
import pytest
from conftest import needs_keras3
from tiny import assert_close, draw, numpy, tensor

from bert4keras3 import backend, ops
from bert4keras3.layers import (
    Add,
    AttentionBias,
    BatchConcat,
    BatchSplit,
    CausalMask,
    Concatenate1D,
    DebertaRelativeEmbedding,
    Dense,
    DisentangledSelfAttention,
    Embedding,
    FeedForward,
    FirstToken,
    GatedAttentionUnit,
    GemmaFeedForward,
    GroupNorm,
    LastToken,
    LayerNormalization,
    LLamaFeedForward,
    LlamaLayerNorm,
    Loss,
    MaskedLMHead,
    MultiHeadAttention,
    PositionEmbedding,
    RelativePositionEmbedding,
    RelativePositionEmbeddingT5,
    RMSNormalization,
    RotaryEmbedding,
    ScaleOffset,
    SegmentMask,
    SinusoidalPositionEmbedding,
)
from bert4keras3.ops import keras


def randomize(layer):
    for i, variable in enumerate(layer.weights):
        variable.assign(draw(*variable.shape, seed=i) * 0.5)


# ----------------------------------------------------------------------- golden

GOLDEN_LAYERS = {
    "ln": lambda: LayerNormalization(),
    "ln_conditional": lambda: LayerNormalization(
        conditional=True, hidden_units=6, hidden_activation="tanh"
    ),
    "pos": lambda: PositionEmbedding(9, 16),
    "pos_hier": lambda: PositionEmbedding(4, 16, hierarchical=True),
    "scaleoffset": lambda: ScaleOffset(),
    "sinpos": lambda: SinusoidalPositionEmbedding(16),
    "ffn": lambda: FeedForward(24, ["gelu", "linear"]),
    "gau": lambda: GatedAttentionUnit(24, 8),
}


@pytest.mark.parametrize("name", GOLDEN_LAYERS)
def test_golden(name, golden):
    data = np.load(golden / "layers" / f"{name}.npz")
    layer = GOLDEN_LAYERS[name]()
    inputs = [tensor(data[key]) for key in ("x", "cond") if key in data]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    layer(inputs)
    values = [data[key] for key in sorted(data) if key.startswith("w_") and key != "w_names"]
    layer.set_weights(values)
    assert_close(numpy(layer(inputs)), data["out"])


# ---------------------------------------------------- every layer: shapes, files

X, Y = (2, 5, 8), (2, 3, 8)
# name: layer, input shapes, call arguments
CASES = {
    "Add": (lambda: Add(mask_from=0), [X, X], {}),
    "AttentionBias": (lambda: AttentionBias(), [(5, 5), (2, 4, 5, 5)], {}),
    "CausalMask": (lambda: CausalMask(), X, {}),
    "Concatenate1D": (lambda: Concatenate1D(), [X, Y], {}),
    "FeedForward": (lambda: FeedForward(12, ["gelu", "linear"], use_bias=False), X, {}),
    "DebertaRelativeEmbedding": (lambda: DebertaRelativeEmbedding(8, 3), X, {}),
    "DisentangledSelfAttention": (
        lambda: DisentangledSelfAttention(2, 8, 16, 4, dropout=0.1),
        [X, (8, 8), (5, 5)],
        {"a_bias": True},
    ),
    "FirstToken": (lambda: FirstToken(), X, {}),
    "LastToken": (lambda: LastToken(), X, {}),
    "GatedAttentionUnit": (
        lambda: GatedAttentionUnit(6, 4, normalization="softmax_plus"),
        [X, (1, 5, 4)],
        {"p_bias": "rotary"},
    ),
    "GatedAttentionUnit-factorized": (
        lambda: GatedAttentionUnit(6, 4, self_attention=False, factorization=True),
        [X, Y, Y, (5, 3)],
        {"a_bias": True},
    ),
    "GroupNorm": (lambda: GroupNorm(8, 4, epsilon=1e-3), X, {}),
    "MaskedLMHead": (lambda: MaskedLMHead(11, 6, "gelu", 1e-5), X, {}),
    "LayerNormalization": (lambda: LayerNormalization(epsilon=1e-5, zero_mean=False), X, {}),
    "LayerNormalization-conditional": (
        lambda: LayerNormalization(conditional=True, hidden_units=3, hidden_activation="gelu"),
        [X, (2, 4)],
        {},
    ),
    "GemmaFeedForward": (lambda: GemmaFeedForward(6, use_bias=False), X, {}),
    "LLamaFeedForward": (lambda: LLamaFeedForward(6, "silu"), X, {}),
    "LlamaLayerNorm": (lambda: LlamaLayerNorm(epsilon=1e-3), X, {}),
    "RMSNormalization": (lambda: RMSNormalization(1e-3), X, {}),
    "CausalMask-window": (lambda: CausalMask(window=2), X, {}),
    "Dense": (lambda: Dense(7, "relu"), X, {}),
    "MultiHeadAttention": (lambda: MultiHeadAttention(4, 3, out_dim=7), [X, Y, Y], {}),
    "MultiHeadAttention-scores": (
        lambda: MultiHeadAttention(2, 4, return_attention_scores=True, attention_dropout=0.1),
        [X, X, X],
        {},
    ),
    "MultiHeadAttention-einsum": (
        lambda: MultiHeadAttention(
            2, 4, 8, query_head=4, use_EinsumDense=True, flatten_o_dense=False, GQA_mode="gemma"
        ),
        [X, X, X],
        {},
    ),
    "PositionEmbedding": (lambda: PositionEmbedding(9, 8, embeddings_initializer="normal"), X, {}),
    "PositionEmbedding-concat": (lambda: PositionEmbedding(9, 4, "concat"), X, {}),
    "PositionEmbedding-zero": (lambda: PositionEmbedding(9, 4, "zero"), X, {}),
    "RelativePositionEmbedding": (lambda: RelativePositionEmbedding(7, 4), [X, Y], {}),
    "RelativePositionEmbeddingT5": (
        lambda: RelativePositionEmbeddingT5(8, 2, 10, False, "normal"),
        [X, Y],
        {},
    ),
    "RotaryEmbedding": (lambda: RotaryEmbedding(1000, 2.0), (2, 5, 3, 8), {}),
    "ScaleOffset": (lambda: ScaleOffset(scale=2.0, offset=False), X, {}),
    "SinusoidalPositionEmbedding": (lambda: SinusoidalPositionEmbedding(8, "mul"), X, {}),
}


def inputs_of(shapes):
    if isinstance(shapes, list):
        return [tensor(draw(*shape, seed=i)) for i, shape in enumerate(shapes)]
    return tensor(draw(*shapes))


@needs_keras3
@pytest.mark.parametrize("name", CASES)
def test_symbolic_shape_equals_real_shape(name):
    make, shapes, arguments = CASES[name]
    layer, inputs = make(), inputs_of(shapes)
    real = keras.tree.flatten(layer(inputs, **arguments))
    symbolic = [keras.KerasTensor(x.shape, x.dtype) for x in keras.tree.flatten(inputs)]
    symbolic = symbolic if isinstance(shapes, list) else symbolic[0]
    spec = keras.tree.flatten(make()(symbolic, **arguments))
    for a, b in zip(real, spec, strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        assert backend.dtype(a) == backend.dtype(b)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_config_round_trip(name):
    make, shapes, arguments = CASES[name]
    layer, inputs = make(), inputs_of(shapes)
    layer(inputs, **arguments)
    randomize(layer)
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == layer.get_config()
    copy(inputs, **arguments)
    copy.set_weights(layer.get_weights())
    pairs = zip(
        keras.tree.flatten(layer(inputs, **arguments)),
        keras.tree.flatten(copy(inputs, **arguments)),
        strict=True,
    )
    for a, b in pairs:
        assert_close(numpy(a), numpy(b), 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", [n for n in CASES if "Mask" not in n])
def test_dtype_policies(name, dtype):
    make, shapes, arguments = CASES[name]
    layer, plain = make(), make()
    policy = keras.DTypePolicy(dtype)
    layer = type(layer).from_config({**layer.get_config(), "dtype": policy})
    inputs = inputs_of(shapes)
    outputs = keras.tree.flatten(layer(inputs, **arguments))
    assert {backend.dtype(x) for x in outputs} == {policy.compute_dtype}
    plain(inputs, **arguments)
    randomize(plain)
    layer.set_weights(plain.get_weights())
    for a, b in zip(
        keras.tree.flatten(layer(inputs, **arguments)),
        keras.tree.flatten(plain(inputs, **arguments)),
        strict=True,
    ):
        assert_close(numpy(ops.cast(a, "float32")), numpy(b), 5e-2)


# ------------------------------------------------------------------- embeddings


def test_embedding_modes_and_mask():
    layer = Embedding(11, 4, mask_zero=True)
    ids = np.array([[0, 3, 0, 5], [2, 0, 0, 0]])
    vectors = layer(tensor(ids))
    assert_close(numpy(vectors), layer.get_weights()[0][ids])
    logits = layer(vectors, mode="dense")
    assert_close(numpy(logits), numpy(vectors) @ layer.get_weights()[0].T)
    np.testing.assert_array_equal(
        numpy(layer.compute_mask(tensor(ids))), [[1, 1, 0, 1], [1, 0, 0, 0]]
    )
    strict = Embedding(11, 4, mask_zero=True, pad_token_id=2, first_is_token=False)
    np.testing.assert_array_equal(numpy(strict.compute_mask(tensor(ids))), ids != 2)
    assert Embedding(11, 4).compute_mask(tensor(ids)) is None
    assert Embedding(11, 4, mask_zero=True, pad_token_id=None).compute_mask(tensor(ids)) is None
    assert_close(numpy(layer(tensor(ids.astype("float32")))), numpy(vectors), 0)
    with pytest.raises(ValueError, match="'embedding' or 'dense', got 'sparse'"):
        layer(vectors, mode="sparse")


def test_position_merge_modes_and_custom_ids():
    x, ids = draw(*X), np.array([[4, 3, 2, 1, 0], [8, 8, 0, 0, 1]])
    for make in (PositionEmbedding, SinusoidalPositionEmbedding):
        sizes = (9, 8) if make is PositionEmbedding else (8,)
        for mode, custom in itertools.product(("add", "mul", "zero", "concat"), (False, True)):
            layer = make(*sizes, merge_mode=mode, custom_position_ids=custom)
            inputs = [tensor(x), tensor(ids)] if custom else tensor(x)
            layer(inputs)
            randomize(layer)
            if make is PositionEmbedding:
                table = layer.get_weights()[0]
            else:
                table = numpy(backend.sinusoidal_embeddings(np.arange(9), 8))
            p = table[ids] if custom else table[None, :5]
            expected = {
                "add": x + p,
                "mul": x * (1 + p),
                "zero": p,
                "concat": np.concatenate([x, p + np.zeros_like(x)], -1),
            }[mode]
            assert_close(numpy(layer(inputs)), expected)


def test_hierarchical_positions_reach_the_square():
    layer = PositionEmbedding(4, 8, hierarchical=0.3)
    x = np.zeros((1, 16, 8), "float32")
    layer(tensor(x))
    randomize(layer)
    table = layer.get_weights()[0]
    found = numpy(layer(tensor(x)))[0]
    assert_close(found[:4], table)  # the first positions stay what they were
    u = (table - 0.3 * table[:1]) / 0.7
    assert_close(found[14], 0.3 * u[3] + 0.7 * u[2])
    with pytest.raises(ValueError, match="17 tokens, but the position table ends at 16"):
        layer(tensor(np.zeros((1, 17, 8), "float32")))


def test_positions_beyond_the_table_raise():
    layer = PositionEmbedding(4, 8, name="Embedding-Position")
    with pytest.raises(ValueError, match="'Embedding-Position': a sequence of 5 tokens.*ends at 4"):
        layer(tensor(draw(*X)))


def test_t5_buckets_equal_the_paper_s_formula():
    """Bidirectional and causal, far beyond max_distance."""
    for buckets, farthest, both in ((32, 128, True), (32, 128, False), (12, 40, True)):
        layer = RelativePositionEmbeddingT5(buckets, 1, farthest, both)
        distance = np.arange(-300, 301)
        found = numpy(layer.rows_of(tensor(distance.astype("int32"))))
        half = buckets // 2 if both else buckets
        n = np.abs(distance) if both else np.maximum(-distance, 0)
        exact = half // 2
        ratio = np.log(np.maximum(n, 1) / exact) / np.log(farthest / exact)
        far = np.minimum(exact + np.floor(ratio * (half - exact) + 1e-9), half - 1)
        expected = np.where(n < exact, n, far) + np.where(both & (distance > 0), half, 0)
        np.testing.assert_array_equal(found, expected)


def test_relative_positions_clip():
    layer = RelativePositionEmbedding(5, 3)
    inputs = [tensor(draw(1, 4, 2)), tensor(draw(1, 6, 2))]
    layer(inputs)
    randomize(layer)
    distance = np.arange(6)[None] - np.arange(4)[:, None]
    assert_close(numpy(layer(inputs)), layer.get_weights()[0][np.clip(distance, -2, 2) + 2])
    step = layer(inputs, positions=tensor(np.array([[2, 3]])), slots=6)
    assert_close(numpy(step)[0], numpy(layer(inputs))[2:4])


def test_rotary_embedding_start_index():
    x = draw(2, 6, 3, 8)
    layer = RotaryEmbedding()
    whole = numpy(layer(tensor(x)))
    assert_close(numpy(layer(tensor(x[:, 4:]), start_index=4)), whole[:, 4:])
    turned = RotaryEmbedding(sequence_axis=2)(tensor(x.swapaxes(1, 2)))
    assert_close(numpy(turned), whole.swapaxes(1, 2))


# ------------------------------------------------------------------------ glue


def test_masks_of_glue_layers():
    mask = tensor(np.array([[True, True, False]]))
    other = tensor(np.array([[True, False, True]]))
    np.testing.assert_array_equal(numpy(Add().compute_mask(None, [mask, None])), numpy(mask))
    np.testing.assert_array_equal(numpy(Add().compute_mask(None, [mask, other])), [[1, 0, 0]])
    only = Add(mask_from=0).compute_mask(None, [mask, other])
    np.testing.assert_array_equal(numpy(only), numpy(mask))
    inputs = [tensor(draw(1, 3, 2)), tensor(draw(1, 2, 2))]
    joined = Concatenate1D().compute_mask(inputs, [mask, None])
    np.testing.assert_array_equal(numpy(joined), [[1, 1, 0, 1, 1]])
    assert Concatenate1D().compute_mask(inputs, [None, None]) is None


def test_segment_mask_values():
    segments = np.array([[0, 0, 1, 1, 0]])
    found = numpy(SegmentMask()(tensor(segments)))[0]
    marks = np.cumsum(segments[0])
    np.testing.assert_array_equal(found, marks[None] <= marks[:, None])
    found = numpy(SegmentMask(cumulative=False)(tensor(segments)))[0]
    np.testing.assert_array_equal(found, segments[0][None] <= segments[0][:, None])


class Difference(Loss):
    def compute_loss(self, inputs, mask=None):
        return ops.mean(ops.square(inputs[0] - inputs[1]))


def test_loss_layer_trains_a_model_without_a_loss():
    x = keras.Input((3,))
    y = keras.Input((1,))
    output = Difference(1)([y, keras.layers.Dense(1)(x)])
    model = keras.Model([x, y], output)
    model.compile("adam")
    data = [draw(16, 3), draw(16, 1, seed=2)]
    history = model.fit(data, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert len(Difference([1, 0])([tensor(data[1]), tensor(data[1])])) == 2
    with pytest.raises(TypeError, match="does not define compute_loss"):
        Loss()(tensor(data[0]))


@pytest.mark.parametrize("parts", [3, [1, 2], [0.5, 0.25, 0.25]])
def test_batches_are_split_and_joined(parts):
    x, y = keras.Input((4,)), keras.Input((2,))
    split = BatchSplit(parts)
    pieces = split([x, y])
    count = parts if isinstance(parts, int) else len(parts)
    assert len(pieces) == 2 * count
    whole = [BatchConcat()(pieces[:count]), BatchConcat()(pieces[count:])]
    model = keras.Model([x, y], [*pieces, *whole])
    assert model.output_shape[-1] == (None, 2)
    arrays = [draw(8, 4), draw(8, 2)]
    found = [numpy(z) for z in model([tensor(a) for a in arrays])]
    shares = [1] * parts if isinstance(parts, int) else parts
    ends = [int(8 * sum(shares[: i + 1]) / sum(shares)) for i in range(count)]
    for piece, part in zip(found[:count], np.split(arrays[0], ends[:-1]), strict=True):
        np.testing.assert_array_equal(piece, part)
    np.testing.assert_array_equal(found[-2], arrays[0])
    np.testing.assert_array_equal(found[-1], arrays[1])
    mask = tensor(np.arange(8) % 2 == 0)
    masks = split.compute_mask([None, None], [mask, None])
    assert masks[count:] == [None] * count
    joined = BatchConcat().compute_mask(None, masks[:count])
    np.testing.assert_array_equal(numpy(joined), numpy(mask))
    assert BatchSplit.from_config(split.get_config()).parts == parts
    with pytest.raises(ValueError, match="parts: expected some shares, got 0"):
        BatchSplit(0)


def test_scale_offset_constants_and_conditions():
    x, condition = draw(*X), draw(2, 4, seed=3)
    assert_close(numpy(ScaleOffset(scale=2.0, offset=-1.0)(tensor(x))), 2 * x - 1)
    layer = ScaleOffset(conditional=True)
    assert_close(numpy(layer([tensor(x), tensor(condition)])), x)  # starts as the identity
    randomize(layer)
    beta, gamma, to_beta, to_gamma = layer.get_weights()
    expected = x * (gamma + condition @ to_gamma)[:, None] + (beta + condition @ to_beta)[:, None]
    assert_close(numpy(layer([tensor(x), tensor(condition)])), expected)


def test_initial_kernels_differ():
    """One Keras initializer object draws the same values each time it is asked."""
    layer = MultiHeadAttention(2, 4, kernel_initializer=keras.initializers.TruncatedNormal())
    layer(inputs_of([X, X, X]))
    assert np.abs(numpy(layer.q_dense.kernel) - numpy(layer.k_dense.kernel)).max() > 1e-3


def test_root_mean_square_norms():
    x, scale = draw(2, 3, 8), draw(8, seed=1)
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    for layer, factor in ((LlamaLayerNorm(), scale), (RMSNormalization(), 1 + scale)):
        layer.build(x.shape)
        initial = numpy(layer(tensor(x)))
        assert_close(initial, normed)
        layer.scale.assign(scale)
        assert_close(numpy(layer(tensor(x))), normed * factor)


def test_group_norm():
    layer, x = GroupNorm(8, 4, epsilon=0.5), draw(2, 3, 8)
    layer.build(x.shape)
    randomize(layer)
    scale, offset, gamma, beta = (numpy(w) for w in layer.weights)
    groups = x.reshape(2, 3, 2, 4)
    groups = groups - groups.mean(-1, keepdims=True)
    groups = groups / np.sqrt(np.square(groups).mean(-1, keepdims=True) + 0.5)
    expected = (groups * gamma + beta) * scale + offset
    assert_close(numpy(layer(tensor(x))), expected.reshape(x.shape))
    with pytest.raises(ValueError, match="hidden_size=8 is no multiple of head_size=3"):
        GroupNorm(8, 3)


def test_the_last_token_is_the_last_that_counts():
    x = draw(3, 4, 2)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]], bool)
    found = numpy(LastToken()(tensor(x), mask=tensor(mask)))
    np.testing.assert_array_equal(found, x[[0, 1, 2], [3, 1, 3]])
    np.testing.assert_array_equal(numpy(LastToken()(tensor(x))), x[:, -1])


def test_gated_feed_forwards():
    """By name and order of their weights, which is file format."""
    x = draw(2, 3, 4)
    for layer, activation in (
        (LLamaFeedForward(6, "silu", use_bias=False), backend.swish),
        (LLamaFeedForward(6, ["relu"], use_bias=False), keras.activations.relu),
        (GemmaFeedForward(6, use_bias=False), backend.gelu_tanh),
    ):
        found = numpy(layer(tensor(x)))
        gate, up, down = layer.get_weights()
        assert_close(found, (numpy(activation(tensor(x @ gate))) * (x @ up)) @ down)


def test_llama_activation_is_computed_in_float32():
    dtypes = []

    def activation(x):
        dtypes.append(keras.backend.standardize_dtype(x.dtype))
        return x

    layer = LLamaFeedForward(6, activation, dtype="bfloat16")
    output = layer(ops.cast(tensor(draw(2, 3, 4)), "bfloat16"))
    assert set(dtypes) == {"float32"}
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"


def test_bfloat16_products_are_near_float32():
    """One row, several rows, and the transposed table of tied embeddings."""
    kernel = draw(64, 48)
    for rows in ((1, 1), (1, 5), (3, 1)):
        x = draw(*rows, 64)
        for transposed in (False, True):
            matrix = kernel.T if transposed else kernel
            found = ops.project(
                ops.cast(tensor(x), "bfloat16"), ops.cast(tensor(matrix), "bfloat16"), transposed
            )
            assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
            assert_close(numpy(ops.cast(found, "float32")), x @ kernel, 2e-2)


def test_sliding_window():
    seen = numpy(CausalMask(window=2)(tensor(draw(1, 4, 2))))
    expected = np.tril(np.ones((4, 4), bool)) & ~np.tril(np.ones((4, 4), bool), -2)
    np.testing.assert_array_equal(seen, expected)
