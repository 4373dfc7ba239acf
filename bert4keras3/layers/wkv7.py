"""The operator of RWKV-7: a linear recurrence over a matrix a head, which also unlearns.

With S the state of a head, `(value, key)`, and for every token

    S <- S (diag(exp(w)) + a bᵀ) + v kᵀ,    y = S r

there are three forms of it: `wkv7_naive`, token by token, to read and to compare with;
`wkv7_chunked`, in matrix products, for training and prompts; `wkv7_step` for one token.

Source: https://arxiv.org/abs/2503.14456
"""

from bert4keras3 import ops
from bert4keras3.backend.shapes import at_least_float32
from bert4keras3.layers.chunks import (
    CHUNK,
    chunk_size,
    join_blocks,
    split,
    state_of_rows,
    unsplit,
)


def wkv7(r, w, k, v, a, b, state=None):
    """The operator, in the form that suits the length.

    Args:
        r, k, v: receptance, key and value, `(batch, length, heads, size)`.
        w: logarithm of the decay, at most 0, the same shape.
        a, b: what is read of the state, and where it is written back, the same shape; in
            the model the negative of a unit vector, and this vector times rates.
        state: `(batch or 1, heads, size, size)`, value before key; None for zeros.

    Returns:
        y `(batch, length, heads, size)` and the state afterwards `(batch, heads, size,
        size)`, both float32 (float64 for such input).
    """
    inputs = [at_least_float32(x) for x in (r, w, k, v, a, b)]
    operator = wkv7_step if r.shape[1] == 1 else wkv7_chunked
    return operator(*inputs, state_of_rows(state, inputs[0]))


def wkv7_naive(r, w, k, v, a, b, state):
    """The definition, token by token; arguments and returns as `wkv7`."""
    tokens = [ops.swapaxes(x, 0, 1) for x in (r, w, k, v, a, b)]
    state, y = ops.recur(_advance, state, tokens)
    return ops.swapaxes(y, 0, 1), state


def wkv7_step(r, w, k, v, a, b, state):
    """One token: a length of 1; arguments and returns as `wkv7`."""
    state, y = _advance(state, [x[:, 0] for x in (r, w, k, v, a, b)])
    return y[:, None], state


def _advance(state, token):
    """The state after a token, and what it reads there; the token's parts are `(..., size)`."""
    r, w, k, v, a, b = (x[..., None, :] for x in token)
    read = ops.sum(state * a, axis=-1, keepdims=True)
    state = state * ops.exp(w) + read * b + ops.swapaxes(v, -1, -2) * k
    return state, ops.sum(state * r, axis=-1)


def wkv7_chunked(r, w, k, v, a, b, state, chunk=CHUNK):
    """Chunk by chunk in matrix products; arguments and returns as `wkv7`.

    A token gives two queries, a and r, and two keys, b and k; it writes what it reads of the
    state, S a, by b, and v by k. What it reads hangs on what the tokens of the chunk before it
    have read: a triangular system.
    """
    length = ops.shape(r)[1]
    chunk = chunk_size(length, chunk)
    xs = [split(x, chunk) for x in (r, k, v, a, b)] + [split(ops.exp(w), chunk, fill=1)]

    def body(state, xs):
        r, k, v, a, b, decay = xs
        own = ops.sum(r[..., None, :] * ops.stack([b, k], axis=-2), axis=-1)
        weights, queries, keys, decay = join_blocks(
            ops.stack([a, r * decay], axis=-2),
            ops.stack([b, k], axis=-2),
            decay[..., None, :],
            ops.stack([ops.zeros_like(own), own], axis=-2),
        )
        seen = ops.matmul(queries, ops.swapaxes(state, -1, -2))
        known = seen[..., ::2, :] + ops.matmul(weights[..., ::2, 1::2], v)
        read = solve_lower(weights[..., ::2, ::2], known)
        written = ops.reshape(ops.stack([read, v], axis=-2), ops.shape(seen))
        y = seen[..., 1::2, :] + ops.matmul(weights[..., 1::2, :], written)
        return state * decay + ops.matmul(ops.swapaxes(written, -1, -2), keys), y

    state, y = ops.recur(body, state, xs, remat=True)
    return unsplit(y, length), state


def solve_lower(a, c):
    """z = a z + c, with a strictly lower triangular `(..., n, n)`, for z like c `(..., n, m)`.

    n is a power of 2. The inverse of 1 - a is put together of those of its diagonal blocks, by
    twos: in batched products, where a triangular solver goes matrix by matrix. Powers of a
    would be cheaper to sum up, but of keys that repeat they cancel to nothing.
    """
    n = a.shape[-1]
    lead = ops.shape(a)[:-2]
    inverse = ops.ones((*lead, n, 1, 1), dtype=a.dtype)
    size = 1
    while size < n:
        count = n // (2 * size)
        blocks = ops.reshape(a, (*lead, count, 2, size, count, 2, size))[..., 1, :, :, 0, :]
        own = ops.reshape(ops.eye(count, dtype=a.dtype), (count, 1, count, 1))
        below = ops.sum(blocks * own, axis=-2)
        pairs = ops.reshape(inverse, (*lead, count, 2, size, size))
        upper, lower = pairs[..., 0, :, :], pairs[..., 1, :, :]
        across = ops.matmul(ops.matmul(lower, below), upper)
        top = ops.concatenate([upper, ops.zeros_like(upper)], axis=-1)
        inverse = ops.concatenate([top, ops.concatenate([across, lower], axis=-1)], axis=-2)
        size *= 2
    return ops.matmul(inverse[..., 0, :, :], c)
