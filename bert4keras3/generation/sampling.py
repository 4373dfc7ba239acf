"""Samplers: from the logits of a step to its tokens.

Nothing here sorts the vocabulary: that costs more than a step of a model.
"""

from dataclasses import dataclass

from bert4keras3 import ops


@dataclass(frozen=True)
class Greedy:
    """The most probable token; of equals the first."""

    draws = False

    def __call__(self, logits, uniform, settings):
        return ops.cast(ops.argmax(logits, axis=-1), "int32")

    def settings(self):
        """Numbers that a compiled program takes as inputs: none."""
        return {}

    def shape(self):
        """What a compiled program depends on."""
        return self


@dataclass(frozen=True)
class Sampler:
    """Draws a token from the softmax of the logits, some of them left out.

    Args:
        temperature: logits are divided by it first.
        top_k: only the k most probable tokens are left.
        top_p: of what is left, the most probable tokens that make up the mass p,
            the one that reaches it included.
        min_p: only tokens at least min_p times as probable as the best.
        classic: as the old library's 'topp': p is a mass of all tokens, not of the
            top k, and a token at exactly p is followed by one more.

    Raises:
        ValueError: a number out of its range.

    Source: https://arxiv.org/abs/1904.09751 (top p), https://arxiv.org/abs/2407.01082 (min p)
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    classic: bool = False

    draws = True

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {self.temperature!r}")
        if self.top_k is not None and not (_is_whole(self.top_k) and self.top_k > 0):
            raise ValueError(f"top_k: expected a whole number above 0, got {self.top_k!r}")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name}: expected a number in (0, 1], got {value!r}")

    def settings(self):
        """Numbers that a compiled program takes as inputs."""
        numbers = {"temperature": self.temperature, "top_p": self.top_p, "min_p": self.min_p}
        return {name: float(value) for name, value in numbers.items() if value is not None}

    def shape(self):
        """What a compiled program depends on: which numbers there are, not their values."""
        given = {name: 1.0 for name in ("top_p", "min_p") if getattr(self, name) is not None}
        return Sampler(top_k=self.top_k, classic=self.classic, **given)

    def __call__(self, logits, uniform, settings):
        """Tokens int32 `(batch,)` of float32 logits `(batch, vocab)`.

        Args:
            logits: float32 `(batch, vocab)`.
            uniform: float32 `(batch,)` in [0, 1).
            settings: `{name: number}`, as from `settings()`.
        """
        logits = logits / settings["temperature"]
        if self.top_k is None:
            probabilities = self._filter(ops.softmax(logits, axis=-1), settings)
            return pick(probabilities, uniform)
        best, tokens = ops.top_k(logits, min(self.top_k, logits.shape[-1]))
        total = ops.logsumexp(logits if self.classic else best, axis=-1, keepdims=True)
        probabilities = self._filter(ops.exp(best - total), settings, is_sorted=True)
        place = pick(probabilities, uniform)
        return ops.cast(ops.take_along_axis(tokens, place[:, None], axis=1)[:, 0], "int32")

    def _filter(self, probabilities, settings, is_sorted=False):
        best = ops.max(probabilities, axis=-1, keepdims=True)
        kept = probabilities
        if self.top_p is not None:
            before = _mass_before if is_sorted else _mass_before_by_bisection
            mass = before(probabilities, settings["top_p"])
            inside = mass <= settings["top_p"] if self.classic else mass < settings["top_p"]
            kept = ops.where(inside, kept, 0.0)
        if self.min_p is not None:
            kept = ops.where(probabilities >= settings["min_p"] * best, kept, 0.0)
        return kept


def pick(weights, uniform):
    """Draw an index in proportion to weights.

    Args:
        weights: float32 `(batch, n)`, not negative, in any sum.
        uniform: float32 `(batch,)` in [0, 1).

    Returns:
        int32 `(batch,)`, never an index of weight 0.
    """
    sums = ops.cumsum(weights, axis=-1)
    reached = sums > (uniform * sums[:, -1])[:, None]
    # Rounding may lift a sum where nothing was added: such a place has weight 0.
    reached = ops.logical_and(reached, weights > 0)
    first = ops.argmax(ops.cast(reached, "int32"), axis=-1)
    found = ops.any(reached, axis=-1)
    return ops.cast(ops.where(found, first, ops.argmax(weights, axis=-1)), "int32")


def _mass_before(probabilities, p):
    """The mass of what comes before each entry of a sorted row."""
    return ops.cumsum(probabilities, axis=-1) - probabilities


def _mass_before_by_bisection(probabilities, p):
    """The mass of more probable entries, exact where it lies around p.

    Bisects for the threshold whose upper side holds the mass p. Entries that the
    last interval cannot tell apart come in the order of their indices.
    """
    low = ops.zeros_like(probabilities[:, :1])
    high = ops.max(probabilities, axis=-1, keepdims=True)

    def above(threshold):
        upper = ops.where(probabilities > threshold, probabilities, 0.0)
        return ops.sum(upper, axis=-1, keepdims=True)

    for _ in range(26):
        middle = (low + high) / 2
        heavy = above(middle) > p
        low, high = ops.where(heavy, middle, low), ops.where(heavy, high, middle)
    between = ops.logical_and(probabilities > low, probabilities <= high)
    shares = ops.where(between, probabilities, 0.0)
    mass = above(high) + ops.cumsum(shares, axis=-1) - shares
    mass = ops.where(between, mass, 2.0)  # below the threshold: beyond any p
    return ops.where(probabilities > high, 0.0, mass)


def _is_whole(number):
    return not isinstance(number, bool) and int(number) == number
