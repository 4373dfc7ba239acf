"""What happens to the logits of a step before a token is chosen.

A processor is called with float32 logits `(batch, vocab)` and the carry of the
loop (see `loop`), and returns logits. Those here are frozen dataclasses: equal
ones share a compiled program. Numbers come from `carry["settings"]`, so that
another number needs no other program.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bert4keras3 import ops

NEVER = -1e30


@dataclass(frozen=True)
class UserProcessor:
    """A plain function `(logits, ids, positions) -> logits` of the user.

    ids is int32 `(batch, slots)`, positions int32 `(batch,)`: the place in ids of
    the token to come.
    """

    function: Callable

    def __call__(self, logits, carry):
        changed = self.function(logits, carry["ids"], carry["lengths"])
        return ops.cast(changed, "float32")


@dataclass(frozen=True)
class RepetitionPenalty:
    """Makes tokens that are there already less likely.

    A positive logit is divided by penalty^n, another one multiplied; n is 1, or
    with a range (a, b) the count of the token: 0 below a, b at most.

    Args:
        window: only tokens of the current and the previous stretch of so many
            positions count; None for all.
        count_range: (a, b) or None.

    Source: https://arxiv.org/abs/1909.05858
    """

    window: int | None = None
    count_range: tuple | None = None

    def __call__(self, logits, carry):
        ids, lengths = carry["ids"], carry["lengths"][:, None]
        places = ops.arange(ids.shape[1], dtype="int32")[None]
        seen = places < lengths
        if self.window is not None:
            start = (lengths // self.window - 1) * self.window
            seen = ops.logical_and(seen, places >= start)
        counts = count_tokens(ids, seen, logits.shape[-1])
        penalty = carry["settings"]["penalty"]
        if self.count_range is None:
            exponent = ops.minimum(counts, 1.0)
        else:
            low, high = self.count_range
            exponent = ops.where(counts < low, 0.0, ops.minimum(counts, float(high)))
        factor = ops.power(penalty, exponent)
        return ops.where(logits > 0, logits / factor, logits * factor)


@dataclass(frozen=True)
class NoRepeatNgram:
    """Forbids the token that would repeat n tokens in a row."""

    n: int

    def __call__(self, logits, carry):
        ids, lengths = carry["ids"], carry["lengths"][:, None]
        starts = ids.shape[1] - self.n + 1
        if starts < 1:
            return logits
        places = ops.arange(starts, dtype="int32")[None]
        same = places + self.n - 1 < lengths
        for offset in range(self.n - 1):
            place = ops.maximum(lengths - self.n + 1 + offset, 0)
            last = ops.take_along_axis(ids, place, axis=1)
            same = ops.logical_and(same, ids[:, offset : offset + starts] == last)
        following = count_tokens(ids[:, self.n - 1 :], same, logits.shape[-1])
        return ops.where(following > 0, NEVER, logits)


@dataclass(frozen=True)
class MinNewTokens:
    """Forbids the end tokens before there are enough new tokens."""

    end_tokens: tuple

    def __call__(self, logits, carry):
        new = ops.cast(carry["lengths"] - carry["starts"], "float32")
        early = new < carry["settings"]["min_new_tokens"]
        ends = _marks(self.end_tokens, logits.shape[-1])
        return ops.where(ops.logical_and(early[:, None], ends), NEVER, logits)


@dataclass(frozen=True)
class Forbid:
    """Forbids some tokens."""

    tokens: tuple

    def __call__(self, logits, carry):
        return ops.where(_marks(self.tokens, logits.shape[-1]), NEVER, logits)


def count_tokens(ids, counted, vocab_size):
    """How often each token occurs: float32 `(batch, vocab)`.

    Args:
        ids: int32 `(batch, n)`.
        counted: bool `(batch, n)`, which of them count.
        vocab_size: number of tokens.
    """
    batch = ids.shape[0]
    rows = ops.arange(batch, dtype="int32")[:, None] * vocab_size
    flat = ops.reshape(ops.cast(counted, "float32"), (-1,))
    places = ops.reshape(rows + ids, (-1,))
    counts = ops.segment_sum(flat, places, num_segments=batch * vocab_size)
    return ops.reshape(counts, (batch, vocab_size))


def _marks(tokens, vocab_size):
    """bool `(1, vocab)`, True at some tokens."""
    numbers = ops.arange(vocab_size, dtype="int32")[None, None]
    return ops.any(numbers == ops.reshape(ops.array(tokens, dtype="int32"), (1, -1, 1)), axis=1)
