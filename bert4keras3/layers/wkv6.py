"""The operator of RWKV-6: a linear recurrence over a matrix a head.

With S the state of a head, `(key, value)`, and for every token

    y = r · (S + (u * k) vᵀ),    S <- diag(exp(-exp(w))) S + k vᵀ

there are three forms of it: `wkv6_naive`, token by token, to read and to compare with;
`wkv6_chunked`, in matrix products, for training and prompts; `wkv6_step` for one token.

Source: https://arxiv.org/abs/2404.05892
"""

import math
import os

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
from bert4keras3.ops import keras

# exp(-60) is nothing beside 1, and exp(exp(w)) beyond it would have NaN for its gradient.
LARGEST_DECAY = math.log(60)


def wkv6(r, k, v, w, u, state=None):
    """The operator, in the form that suits the length.

    Args:
        r, k, v: receptance, key and value, `(batch, length, heads, size)`.
        w: decay before exp(-exp(w)), the same shape; -1e9 for none.
        u: bonus of the token itself, `(heads, size)`.
        state: `(batch or 1, heads, size, size)`, key before value; None for zeros.

    Returns:
        y `(batch, length, heads, size)` and the state afterwards `(batch, heads, size,
        size)`, both float32 (float64 for such input).
    """
    r, k, v, w, u = (at_least_float32(x) for x in (r, k, v, w, u))
    operator = wkv6_step if r.shape[1] == 1 else fused_wkv6() or wkv6_chunked
    return operator(r, k, v, w, u, state_of_rows(state, r))


def wkv6_naive(r, k, v, w, u, state):
    """The definition, token by token; arguments and returns as `wkv6`."""

    def step(state, token):
        r, k, v, decay = token
        outer = k[..., :, None] * v[..., None, :]
        y = ops.sum(r[..., None] * (state + u[..., None] * outer), axis=-2)
        return decay[..., None] * state + outer, y

    tokens = [ops.swapaxes(x, 0, 1) for x in (r, k, v, decay_of(w))]
    state, y = ops.recur(step, state, tokens)
    return ops.swapaxes(y, 0, 1), state


def wkv6_step(r, k, v, w, u, state):
    """One token: a length of 1; arguments and returns as `wkv6`."""
    r, k, v, decay = (x[:, 0, :, :, None] for x in (r, k, v, decay_of(w)))
    value = ops.swapaxes(v, -1, -2)
    own = ops.sum(r * u[..., None] * k, axis=-2)
    y = ops.sum(r * state, axis=-2) + own * v[..., 0]
    return y[:, None], decay * state + k * value


def wkv6_chunked(r, k, v, w, u, state, chunk=CHUNK):
    """Chunk by chunk in matrix products; arguments and returns as `wkv6`."""
    length = ops.shape(r)[1]
    chunk = chunk_size(length, chunk)
    own = ops.sum(r * u * k, axis=-1, keepdims=True)
    xs = [split(x, chunk) for x in (r, k, v, own)] + [split(decay_of(w), chunk, fill=1)]

    def body(state, xs):
        r, k, v, own, decay = xs
        parts = (x[..., None, :] for x in (r, k, decay, own))
        inner, r, k, decay = join_blocks(*parts)
        y = ops.matmul(inner, v) + ops.matmul(r, state)
        return decay[..., 0, :, None] * state + ops.matmul(ops.swapaxes(k, -1, -2), v), y

    state, y = ops.recur(body, state, xs, remat=True)
    return unsplit(y, length), state


def fused_wkv6():
    """A GPU kernel in the place of `wkv6_chunked`, where `OPS_KERNEL=0` asks for it; else None.

    It is that of the package flash-linear-attention, on torch. Its products have the precision
    of the GPU's matrix units.
    """
    if os.environ.get("OPS_KERNEL") != "0" or keras.backend.backend() != "torch":
        return None
    import torch

    try:
        from fla.ops.rwkv6 import chunk_rwkv6
    except ImportError:
        return None

    def operator(r, k, v, w, u, state):
        decay = -ops.exp(ops.minimum(w, LARGEST_DECAY))
        memory = {"initial_state": state, "output_final_state": True}
        return chunk_rwkv6(r, k, v, decay, u, scale=1.0, **memory)

    return operator if torch.cuda.is_available() else None


def decay_of(w):
    """exp(-exp(w))."""
    return ops.exp(-ops.exp(ops.minimum(w, LARGEST_DECAY)))


@keras.saving.register_keras_serializable("bert4keras3")
class RWKVKernelOperator:
    """The operator as the documents have it: heads side by side; as many of them as you like.

    Args:
        head_size: size of a head.
        max_sequence_length: the longest input it takes; None for any.

    Call arguments:
        r, k, v, w: `(batch, length, hidden)`; w before exp(-exp(w)).
        u: `(heads, size)` or `(hidden,)`.
        with_state: also return the state afterwards.
        init_state: the state before, `(n, heads, size, size)` or, for one of all rows,
            `(heads, size, size)`; None for zeros.
        state_map: int `(batch,)`, which of the n states a row begins with; needed where n
            is neither 1 nor the batch.

    Returns:
        y `(batch, length, hidden)` of the inputs' dtype, float32 for float16, and the state
        `(batch, heads, size, size)`, float32, or None.

    Raises:
        ValueError: shapes that do not fit.
    """

    def __init__(self, head_size, max_sequence_length=None):
        self.head_size = head_size
        self.max_sequence_length = max_sequence_length

    def get_config(self):
        return {"head_size": self.head_size, "max_sequence_length": self.max_sequence_length}

    @classmethod
    def from_config(cls, config):
        """The operator of a configuration."""
        return cls(**config)

    def __call__(self, r, k, v, w, u, with_state=False, init_state=None, state_map=None):
        r, k, v, w, u = (ops.convert_to_tensor(x) for x in (r, k, v, w, u))
        self._check(r, k, v, w)
        batch, length = ops.shape(r)[:2]
        heads, size = r.shape[-1] // self.head_size, self.head_size
        state = self._select(init_state, state_map, batch)
        parts = (ops.reshape(x, (batch, length, heads, size)) for x in (r, k, v, w))
        y, state = wkv6(*parts, ops.reshape(u, (heads, size)), state)
        y = ops.reshape(y, (batch, length, heads * size))
        if keras.backend.standardize_dtype(r.dtype) != "float16":
            y = ops.cast(y, r.dtype)
        return y, state if with_state else None

    def _check(self, r, *others):
        if len(r.shape) != 3 or r.shape[-1] % self.head_size:
            raise ValueError(
                f"r: expected (batch, length, hidden) with a multiple of head_size="
                f"{self.head_size}, got {tuple(r.shape)}"
            )
        for name, x in zip("kvw", others, strict=True):
            if tuple(x.shape) != tuple(r.shape):
                raise ValueError(f"{name}: expected the shape {tuple(r.shape)} of r, got {x.shape}")
        most, length = self.max_sequence_length, r.shape[1]
        if most is not None and length is not None and length > most:
            raise ValueError(f"expected at most max_sequence_length={most} tokens, got {length}")

    def _select(self, states, state_map, batch):
        if states is None:
            return None
        states = ops.convert_to_tensor(states)
        if len(states.shape) == 3:
            states = states[None]
        if state_map is not None:
            return ops.take(states, ops.convert_to_tensor(state_map, dtype="int32"), axis=0)
        count = states.shape[0]
        if None not in (count, batch) and isinstance(batch, int) and count not in (1, batch):
            raise ValueError(
                f"init_state: {count} states for {batch} rows need a state_map, which says which "
                "row begins with which"
            )
        return states
