"""GAU and DeBERTa's attention.  KERAS_BACKEND=jax pytest tests/test_gated_attention.py"""

import numpy as np
import pytest
from tiny import assert_close, draw, numpy, tensor

from bert4keras3.backend import sinusoidal_embeddings
from bert4keras3.layers import DisentangledSelfAttention, GatedAttentionUnit

NORMALIZATIONS = ("softmax", "softmax-fp32", "softmax_plus", "squared_relu")


def made(inputs, arguments=None, **kwargs):
    layer = GatedAttentionUnit(6, 4, **kwargs)
    layer([tensor(x) for x in inputs], **(arguments or {}))
    for i, variable in enumerate(layer.weights):
        variable.assign(draw(*variable.shape, seed=i) * 0.5)
    return layer


def weights_of(scores, visible, normalization):
    """Attention weights `(n, m)`; visible is bool of that shape."""
    count = np.maximum(visible.sum(-1, keepdims=True), 1)
    if normalization == "squared_relu":
        return np.where(visible, np.square(np.maximum(scores, 0)) / count, 0)
    if normalization == "softmax_plus":
        scores = scores * np.log(np.maximum(count, 16)) / np.log(512)
    e = np.where(visible, np.exp(scores - scores.max()), 0)
    return e / np.maximum(e.sum(-1, keepdims=True), 1e-30)


def reference(layer, q, k, v, visible):
    """The unit by its definition, one row; visible `(n, m)`."""

    def dense(x, name, swish=True):
        layer_ = getattr(layer, name)
        x = x @ numpy(layer_.kernel) + (numpy(layer_.bias) if layer_.use_bias else 0)
        return x / (1 + np.exp(-x)) if swish else x

    def affine(x, name):
        layer_ = getattr(layer, name)
        return x * numpy(layer_.gamma) + (numpy(layer_.beta) if layer_.offset else 0)

    if layer.self_attention:
        u, value, shared = np.split(dense(q, "i_dense"), [6, 12], axis=-1)
        query, key = affine(shared, "q_scaleoffset"), affine(shared, "k_scaleoffset")
    else:
        u, query, key = dense(q, "u_dense"), dense(q, "q_dense"), dense(k, "k_dense")
        value = dense(v, "v_dense", swish=not layer.factorization)
    scores = query @ key.T / (2 if layer.attention_scale else 1)
    attended = weights_of(scores, visible, layer.normalization) @ value
    if not layer.self_attention and layer.factorization:
        attended = dense(attended, "vW_dense", swish=False)
    return dense(u * attended, "o_dense", swish=False)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_bias": False, "attention_scale": False},
        {"self_attention": False},
        {"self_attention": False, "factorization": True, "use_bias": False},
    ],
)
def test_against_numpy(options, normalization):
    several = not options.get("self_attention", True)
    q = draw(2, 20, 8)
    k, v = (draw(2, 20, 8, seed=1), draw(2, 20, 7, seed=2)) if several else (q, q)
    inputs = [q, k, v] if several else [q]
    layer = made(inputs, normalization=normalization, **options)
    mask = np.arange(20)[None] < np.array([20, 11])[:, None]
    masks = [None, None, tensor(mask)] if several else [tensor(mask)]
    found = numpy(layer([tensor(x) for x in inputs], mask=masks))
    for row in range(2):
        visible = np.broadcast_to(mask[row], (20, 20))
        assert_close(found[row], reference(layer, q[row], k[row], v[row], visible))


@pytest.mark.parametrize("shape", ["2d", "3d"])
def test_attention_bias(shape):
    x, causal = draw(2, 5, 8), np.tril(np.ones((5, 5), bool))
    bias = causal if shape == "2d" else np.stack([causal, causal.T | causal])
    layer = made([x, bias], {"a_bias": True}, normalization="softmax_plus")
    found = numpy(layer([tensor(x), tensor(bias)], a_bias=True))
    for row in range(2):
        visible = bias if shape == "2d" else bias[row]
        assert_close(found[row], reference(layer, *[x[row]] * 3, visible))


def test_rotary_scores_depend_on_distances():
    """The same tokens further on attend alike."""
    x = np.tile(draw(1, 1, 8), (1, 6, 1)) + draw(1, 6, 8, seed=1)
    tables = [sinusoidal_embeddings(np.arange(6)[None] + start, 4) for start in (0, 9)]
    layer = made([x, numpy(tables[0])], {"p_bias": "rotary"}, normalization="softmax")
    near, far = (numpy(layer([tensor(x), table], p_bias="rotary")) for table in tables)
    assert_close(near, far)
    assert np.abs(near - numpy(layer(tensor(x)))).max() > 1e-3


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_state_with_rows_at_different_positions(normalization):
    x, starts = draw(2, 6, 8), np.array([3, 1])
    causal = np.tril(np.ones((6, 6), bool))
    layer = made([x, causal], {"a_bias": True}, normalization=normalization)
    expected = numpy(layer([tensor(x), tensor(causal)], a_bias=True))
    state = layer.initial_state(2, 8)
    wide = np.pad(causal, ((0, 0), (0, 2)))
    bias = np.broadcast_to(wide[:3], (2, 3, 8))
    positions = np.broadcast_to(np.arange(3), (2, 3))
    _, state = layer(
        [tensor(x[:, :3]), tensor(bias)],
        a_bias=True,
        state=state,
        positions=tensor(positions),
        lengths=tensor(starts),
    )
    for step in range(3):
        at = starts + step
        inputs = [tensor(x[[0, 1], at][:, None]), tensor(wide[at][:, None])]
        found, state = layer(
            inputs,
            a_bias=True,
            state=state,
            positions=tensor(at[:, None]),
            lengths=tensor(at + 1),
        )
        assert_close(numpy(found)[:, 0], expected[[0, 1], at])


def test_errors_name_the_layer_and_what_was_expected():
    x = tensor(draw(1, 3, 8))
    layer = GatedAttentionUnit(6, 4, name="unit")
    with pytest.raises(ValueError, match="'unit': expected 2 inputs .*, got 1"):
        layer([x], a_bias=True)
    with pytest.raises(ValueError, match="'unit': p_bias: expected None or 'rotary'"):
        layer([x, x], p_bias="t5_relative")
    with pytest.raises(ValueError, match="'apart': hidden_dim=8 is no multiple of num_heads=3"):
        DisentangledSelfAttention(3, 8, name="apart")


@pytest.mark.parametrize(
    ("buckets", "limit"), [(256, 512), (8, 512), (6, 40), (32, 100), (256, 40), (5, 8)]
)
def test_buckets_are_those_of_transformers(buckets, limit):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    length = 3 * limit if buckets // 2 < limit else limit
    relative = theirs.build_relative_position(
        torch.zeros(1, length, 8), torch.zeros(1, length, 8), buckets, limit
    )
    expected = np.clip(relative.numpy()[0] + buckets, 0, 2 * buckets - 1)
    layer = DisentangledSelfAttention(1, 8, max_position_embeddings=limit, bucket_size=buckets)
    layer.build([(1, length, 8), (2 * buckets, 8)])
    at = np.arange(length)
    found = numpy(layer._rows(tensor((at[:, None] - at).astype("int32"))))
    np.testing.assert_array_equal(found, expected)
