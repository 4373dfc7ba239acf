"""The best path through scored labels, whole batches at once."""

from bert4keras3 import ops


def viterbi(scores, transitions, counted=None, starts=None, ends=None):
    """The sequence of labels with the greatest sum of scores, for each row of a batch.

    Args:
        scores: float `(batch, length, labels)`.
        transitions: `(labels, labels)`, what label j gets after label i at [i, j]; or one
            such matrix a step, `(batch, length, labels, labels)`, that of a step being
            about the counted step before it.
        counted: bool `(batch, length)`; steps that do not count are passed over, wherever
            they are.
        starts: `(labels,)`, added to the first counted step.
        ends: `(labels,)`, added to the last one.

    Returns:
        int32 `(batch, length)`; 0 at steps that do not count. Of equal paths, one whose
        labels have the smaller numbers at the end.

    Source: https://doi.org/10.1109/TIT.1967.1054010
    """
    batch, length, labels = ops.shape(scores)
    if 0 in scores.shape[:2]:
        return ops.zeros((batch, length), dtype="int32")
    if counted is None:
        counted = ops.ones((batch, length), dtype="bool")
    zeros = ops.zeros((labels,), dtype=scores.dtype)
    starts = zeros if starts is None else ops.cast(starts, scores.dtype)
    ends = zeros if ends is None else ops.cast(ends, scores.dtype)

    def forward(best, step):
        score, is_counted, is_first, transition = step
        reached = ops.max(best[:, :, None] + transition, axis=1)
        value = ops.where(is_first, starts, reached) + score
        best = ops.where(is_counted, value, best)
        return best, best

    def backward(label, step):
        before, is_counted, is_first, transition = step
        # Where the best way to this label came from.
        source = ops.argmax(before[:, :, None] + transition, axis=1)
        source = ops.take_along_axis(source, label[:, None], axis=1)[:, 0]
        moves = ops.logical_and(is_counted, ops.logical_not(is_first))[:, 0]
        return ops.where(moves, ops.cast(source, "int32"), label), label

    best, bests = scan_steps(forward, ops.zeros_like(scores[:, 0]), scores, counted, transitions)
    last = ops.cast(ops.argmax(best + ends, axis=-1), "int32")
    before = ops.concatenate([ops.zeros_like(bests[:1]), bests[:-1]])
    before = ops.transpose(before, (1, 0, 2))
    _, path = scan_steps(backward, last, before, counted, transitions, reverse=True)
    return ops.where(counted, ops.transpose(path), 0)


def scan_steps(function, state, values, counted, transitions, reverse=False):
    """Go through the steps of a batch of label scores.

    Args:
        function: `(state, (value, is_counted, is_first, transition)) -> (state, output)`,
            with a step's values `(batch, labels)`, `(batch, 1)` for the two bools, and
            transitions that broadcast to `(batch, labels, labels)`. Its output is of
            the state's dtype.
        state: what it starts with.
        values: `(batch, length, labels)`.
        counted, transitions: see `viterbi`.
        reverse: from the last step to the first.

    Returns:
        The last state, and the outputs `(length, batch, ...)`.
    """
    first = ops.logical_and(counted, ops.cumsum(ops.cast(counted, "int32"), axis=1) == 1)

    def by_step(x):
        return ops.transpose(x, (1, 0, *range(2, len(x.shape))))

    steps = [by_step(values), by_step(counted)[..., None], by_step(first)[..., None]]
    if len(transitions.shape) == 4:
        return ops.recur(function, state, [*steps, by_step(transitions)], reverse=reverse)
    return ops.recur(
        lambda s, step: function(s, (*step, transitions)), state, steps, reverse=reverse
    )
