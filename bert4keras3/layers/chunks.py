"""What the chunked forms of RWKV's operators share: tokens are joined in matrix products."""

from bert4keras3 import ops

CHUNK = 32  # tokens of a chunk; a power of two


def join_blocks(queries, keys, decay, own):
    """What the tokens of a chunk take from each other.

    Blocks of one token are joined by twos: what lies between an earlier and a later token
    is a product of decays, never a quotient, so that no decay is too strong.

    Args:
        queries, keys: `(..., tokens, rows, size)`, so many of each token.
        decay: of each token, from 0 to 1, `(..., tokens, 1, size)`.
        own: weights of a token's queries and its own keys, `(..., tokens, rows, rows)`.

    Returns:
        the weights `(..., tokens * rows, tokens * rows)`, those of earlier keys and of own
        ones, 0 for later ones; the queries times the decays before their token, and the keys
        times those after it, `(..., tokens * rows, size)`; the decays of all tokens `(..., 1,
        size)`.
    """
    lead, blocks, weights = ops.shape(queries)[:-3], queries.shape[-3], own
    while blocks > 1:
        blocks //= 2
        (q0, q1), (k0, k1), (d0, d1), (w0, w1) = (
            _halves(x, lead, blocks) for x in (queries, keys, decay, weights)
        )
        if q0.shape[-2] == 1:
            across = ops.sum(q1 * k0, axis=-1, keepdims=True)
        else:
            across = ops.matmul(q1, ops.swapaxes(k0, -1, -2))
        upper = ops.concatenate([w0, ops.zeros_like(across)], axis=-1)
        weights = ops.concatenate([upper, ops.concatenate([across, w1], axis=-1)], axis=-2)
        queries = ops.concatenate([q0, q1 * d0], axis=-2)
        keys = ops.concatenate([k0 * d1, k1], axis=-2)
        decay = d0 * d1
    return tuple(ops.squeeze(x, axis=-3) for x in (weights, queries, keys, decay))


def _halves(x, lead, blocks):
    """Every second block, and those between them."""
    x = ops.reshape(x, (*lead, blocks, 2, *x.shape[-2:]))
    return x[..., 0, :, :], x[..., 1, :, :]


def chunk_size(length, chunk=CHUNK):
    """A chunk, or less where a text of this length (None or a tensor: any) is shorter."""
    return min(chunk, 1 << max(length - 1, 0).bit_length()) if isinstance(length, int) else chunk


def split(x, chunk, fill=0):
    """`(batch, length, heads, size)` -> `(chunks, batch, heads, chunk, size)`, filled up."""
    batch, length = ops.shape(x)[:2]
    chunks = (length + chunk - 1) // chunk
    if not isinstance(length, int) or length % chunk:
        rest = ops.full((batch, chunk - 1, *x.shape[2:]), fill, dtype=x.dtype)
        x = ops.concatenate([x, rest], axis=1)[:, : chunks * chunk]
    x = ops.reshape(x, (batch, chunks, chunk, *x.shape[2:]))
    return ops.transpose(x, (1, 0, 3, 2, 4))


def unsplit(x, length):
    """The inverse of `split`."""
    chunks, batch = ops.shape(x)[:2]
    heads, chunk, size = x.shape[2:]
    x = ops.transpose(x, (1, 0, 3, 2, 4))
    return ops.reshape(x, (batch, chunks * chunk, heads, size))[:, :length]


def state_of_rows(state, x):
    """A state for each row and head of x `(batch, length, heads, size)`: one for all; or zeros.

    Args:
        state: `(batch or 1, heads, size, size)`; None for zeros.
    """
    shape = (ops.shape(x)[0], *x.shape[2:], x.shape[-1])
    state = ops.zeros(shape, x.dtype) if state is None else ops.cast(state, x.dtype)
    return ops.broadcast_to(state, shape)
