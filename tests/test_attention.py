"""Multi-head attention against plain numpy.  KERAS_BACKEND=jax pytest tests/test_attention.py"""

import numpy as np
import pytest
from tiny import assert_close, draw, numpy, tensor

from bert4keras3 import backend
from bert4keras3.layers import (
    MultiHeadAttention,
    RelativePositionEmbedding,
    RelativePositionEmbeddingT5,
    SinusoidalPositionEmbedding,
)


def made(inputs, arguments=None, **kwargs):
    """A layer with random weights, biases too."""
    layer = MultiHeadAttention(**kwargs)
    layer(inputs, **(arguments or {}))
    for i, variable in enumerate(layer.weights):
        variable.assign(draw(*variable.shape, seed=10 + i) * 0.4)
    return layer


def reference(layer, q, k, v, visible=None, bias=None, rope=None, typical=None, t5=None):
    """The textbook formula, one head and row at a time, in float64."""

    def dense(x, d):
        return x @ np.float64(numpy(d.kernel)) + (np.float64(numpy(d.bias)) if d.use_bias else 0)

    H, h, size = layer.query_head, layer.heads, layer.head_size
    Q = dense(q, layer.q_dense).reshape(*q.shape[:2], H, layer.key_size)
    K = dense(k, layer.k_dense).reshape(*k.shape[:2], h, layer.key_size)
    V = dense(v, layer.v_dense).reshape(*v.shape[:2], h, size)
    if rope is not None:
        Q, K = rope(Q), rope(K)
    out = np.zeros((*q.shape[:2], H, size))
    scores = np.zeros((len(q), H, q.shape[1], k.shape[1]))
    for b in range(len(q)):
        for i in range(H):
            j = i // (H // h)
            a = Q[b, :, i] @ K[b, :, j].T
            if typical is not None:
                a = a + np.einsum("jd,jkd->jk", Q[b, :, i], typical)
            if t5 is not None:
                a = a + t5[:, :, i]
            a = a / np.sqrt(layer.key_size) if layer.attention_scale else a
            scores[b, i] = a
            a = a + (0 if bias is None else bias)
            m = np.ones_like(a, bool) if visible is None else visible[b] & np.ones_like(a, bool)
            n = m.sum(-1, keepdims=True)
            if layer.normalization == "squared_relu":
                p = np.maximum(a, 0) ** 2 * m / n
            else:
                if layer.normalization == "softmax_plus":
                    a = a * np.log(np.maximum(n, 16)) / np.log(512)
                p = np.exp(np.where(m, a, -np.inf))
                p = p / p.sum(-1, keepdims=True)
            out[b, :, i] = p @ V[b, :, j]
            if typical is not None:
                out[b, :, i] += np.einsum("jk,jkd->jd", p, typical)
    return dense(out.reshape(*q.shape[:2], -1), layer.o_dense), scores


@pytest.mark.slow
@pytest.mark.parametrize(
    "normalization", ["softmax", "softmax-fp32", "softmax_plus", "squared_relu"]
)
@pytest.mark.parametrize(
    "sizes",
    [
        {"heads": 2, "head_size": 4},
        {"heads": 2, "head_size": 4, "key_size": 6, "out_dim": 5, "use_bias": False},
        {"heads": 2, "head_size": 3, "query_head": 6, "o_bias": False, "GQA_mode": "gemma"},
        {"heads": 1, "head_size": 4, "query_head": 4, "attention_scale": False},
    ],
)
def test_against_numpy(sizes, normalization):
    q, k = draw(2, 5, 8), draw(2, 20, 8, seed=1)
    v = draw(2, 20, 7, seed=2)
    mask = np.arange(20)[None] < np.array([20, 11])[:, None]
    inputs = [tensor(x) for x in (q, k, v)]
    layer = made(inputs, normalization=normalization, return_attention_scores=True, **sizes)
    found, scores = layer(inputs, mask=[None, None, tensor(mask)])
    expected, expected_scores = reference(layer, q, k, v, mask[:, None])
    assert_close(numpy(found), expected)
    assert_close(numpy(scores), expected_scores)


@pytest.mark.parametrize("kind", ["bool 2d", "bool 3d", "float 4d"])
def test_attention_bias(kind):
    x = draw(2, 6, 8)
    causal = np.tril(np.ones((6, 6), bool))
    visible, bias = causal[None].repeat(2, 0), None
    if kind == "bool 3d":
        visible = causal[None] & (np.arange(6) != np.array([[2], [7]]))[:, None] | np.eye(
            6, dtype=bool
        )
    given = causal if kind == "bool 2d" else visible
    if kind == "float 4d":
        bias = draw(1, 1, 6, 6, seed=4)
        given, visible = bias, None
    inputs = [*[tensor(x)] * 3, tensor(given)]
    layer = made(inputs, {"a_bias": True}, heads=2, head_size=4)
    expected, _ = reference(layer, x, x, x, visible, None if bias is None else bias[0, 0])
    assert_close(numpy(layer(inputs, a_bias=True)), expected)


def test_rotary_su():
    x = draw(2, 6, 8)
    table = SinusoidalPositionEmbedding(4, "zero")(tensor(x))
    inputs = [*[tensor(x)] * 3, table]
    layer = made(inputs, {"p_bias": "rotary"}, heads=2, head_size=4)

    def rope(heads):
        return numpy(
            backend.apply_rotary_position_embeddings(table, tensor(heads.astype("float32")))
        )

    expected, _ = reference(layer, x, x, x, rope=rope)
    assert_close(numpy(layer(inputs, p_bias="rotary")), expected)


def test_rotary_keras():
    x = draw(2, 6, 8)
    inputs = [*[tensor(x)] * 3, tensor(x)]  # the fourth is only a place holder
    layer = made(
        inputs,
        {"p_bias": "rotary"},
        heads=2,
        head_size=4,
        rope_mode="keras",
        max_wavelength=100.0,
        scaling_factor=2.0,
    )

    def rope(heads):
        positions = np.arange(6) / 2.0
        angle = positions[:, None, None] * 100.0 ** (-np.arange(2) / 2)
        sin, cos = np.sin(angle), np.cos(angle)
        a, b = heads[..., :2], heads[..., 2:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    expected, _ = reference(layer, x, x, x, rope=rope)
    assert_close(numpy(layer(inputs, p_bias="rotary")), expected)


@pytest.mark.parametrize("query_head", [2, 4])
def test_relative_positions(query_head):
    x = draw(2, 6, 8)
    typical = RelativePositionEmbedding(9, 4, "normal")([tensor(x)] * 2)
    inputs = [*[tensor(x)] * 3, typical]
    layer = made(
        inputs, {"p_bias": "typical_relative"}, heads=2, head_size=4, query_head=query_head
    )
    expected, _ = reference(layer, x, x, x, typical=numpy(typical))
    assert_close(numpy(layer(inputs, p_bias="typical_relative")), expected)

    t5 = RelativePositionEmbeddingT5(8, query_head, 20, True, "normal")([tensor(x)] * 2)
    inputs = [*[tensor(x)] * 3, t5]
    expected, _ = reference(layer, x, x, x, t5=numpy(t5))
    assert_close(numpy(layer(inputs, p_bias="t5_relative")), expected)


@pytest.mark.parametrize("n, m", [(3, 6), (6, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize(
    "layer",
    [
        RelativePositionEmbedding(9, 4, "normal"),
        RelativePositionEmbeddingT5(8, 2, 20, True, "normal"),
    ],
)
def test_relative_positions_of_all_pairs(layer, n, m):
    vectors = numpy(layer([tensor(draw(1, n, 2)), tensor(draw(1, m, 2))]))
    distance = (np.arange(m) - np.arange(n)[:, None]).astype("int32")
    rows = numpy(layer.rows_of(distance))
    np.testing.assert_array_equal(vectors, numpy(layer.embeddings)[rows])


def test_einsum_dense_equals_dense():
    inputs = [tensor(draw(2, 5, 8))] * 3
    sizes = {"heads": 2, "head_size": 4, "out_dim": 8, "query_head": 4}
    plain = made(inputs, use_bias=False, o_bias=False, **sizes)
    q, k, v, o = plain.get_weights()
    for flat in (False, True):
        einsum = made(inputs, use_EinsumDense=True, flatten_o_dense=flat, o_bias=False, **sizes)
        einsum.set_weights(
            [
                q.reshape(8, 4, 4).swapaxes(0, 1),
                k.reshape(8, 2, 4).swapaxes(0, 1),
                v.reshape(8, 2, 4).swapaxes(0, 1),
                o if flat else o.reshape(4, 4, 8),
            ]
        )
        assert_close(numpy(einsum(inputs)), numpy(plain(inputs)))


def test_dropout_only_in_training():
    inputs = [tensor(draw(2, 5, 8))] * 3
    layer = made(inputs, heads=2, head_size=4, attention_dropout=0.5)
    assert_close(numpy(layer(inputs)), numpy(layer(inputs, training=False)), 0)
    assert np.abs(numpy(layer(inputs, training=True)) - numpy(layer(inputs))).max() > 1e-3


@pytest.mark.parametrize("name", ["cache_update_index", "is_cache_update_index"])
@pytest.mark.parametrize("rope_mode", ["su", "keras"])
def test_documented_cache(rope_mode, name):
    """Prompt of 3, then single tokens, through the stacked cache; equals the whole at once."""
    x, slots = draw(2, 6, 8), 6
    table = SinusoidalPositionEmbedding(4, "zero")(tensor(x))
    causal = np.tril(np.ones((6, 6), bool))
    arguments = {"a_bias": True, "p_bias": "rotary"}
    inputs = [*[tensor(x)] * 3, tensor(causal), table]
    layer = made(inputs, arguments, heads=2, head_size=4, rope_mode=rope_mode)
    expected = numpy(layer(inputs, **arguments))
    cache = tensor(np.zeros((2, 2, slots, 2, 4), "float32"))
    arguments |= {"use_cache": True, name: True}
    for start, end in ((0, 3), (3, 4), (4, 6)):
        part = tensor(x[:, start:end])
        index = tensor(np.int32(start))
        inputs = [part, part, part, tensor(causal[start:end]), table[:, start:end], cache, index]
        found, cache = layer(inputs, **arguments)
        assert_close(numpy(found), expected[:, start:end])
    # Without an index the cache is attended as it is.
    inputs = [tensor(x)] * 3 + [tensor(causal), table, cache]
    del arguments[name]
    if rope_mode == "su":
        found, same = layer(inputs, **arguments)
        assert_close(numpy(found), expected)
        assert_close(numpy(same), numpy(cache), 0)


def test_state_with_rows_at_different_positions():
    x = draw(2, 6, 8)
    causal = np.tril(np.ones((6, 6), bool))
    inputs = [*[tensor(x)] * 3, tensor(causal)]
    layer = made(inputs, {"a_bias": True}, heads=2, head_size=4)
    expected = numpy(layer(inputs, a_bias=True))
    state = layer.initial_state(2, 8)
    lengths = np.array([4, 2])
    part = tensor(x[:, :4])
    positions = np.tile(np.arange(4), (2, 1))
    wide = np.arange(8)[None, None] <= positions[:, :, None]
    _, state = layer(
        [part, part, part, tensor(wide)],
        a_bias=True,
        state=state,
        positions=tensor(positions),
        lengths=tensor(lengths),
    )
    token = tensor(np.take_along_axis(x, lengths[:, None, None], 1))
    wide = np.arange(8)[None, None] <= lengths[:, None, None]
    found, _ = layer(
        [token, token, token, tensor(wide)],
        a_bias=True,
        state=state,
        positions=tensor(lengths[:, None]),
        lengths=tensor(lengths + 1),
    )
    for row, position in enumerate(lengths):
        assert_close(numpy(found)[row, 0], expected[row, position])


def test_errors_name_the_layer_and_what_was_expected():
    x = tensor(draw(2, 5, 8))
    layer = MultiHeadAttention(2, 4, name="attention")
    with pytest.raises(ValueError, match=r"'attention': expected 4 inputs .*attention_bias.*got 3"):
        layer([x, x, x], a_bias=True)
    with pytest.raises(ValueError, match="p_bias: expected one of .*got 'absolute'"):
        layer([x, x, x], p_bias="absolute")
    with pytest.raises(ValueError, match="query_head=3 is no multiple of heads=2"):
        MultiHeadAttention(2, 4, query_head=3)
    with pytest.raises(ValueError, match="rope_mode: expected one of .*got 'other'"):
        MultiHeadAttention(2, 4, rope_mode="other")
    with pytest.raises(ValueError, match="normalization: .*got 'sigmoid'"):
        MultiHeadAttention(2, 4, normalization="sigmoid")
