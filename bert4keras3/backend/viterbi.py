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
    if counted is None:
        counted = ops.ones((batch, length), dtype="bool")
    zeros = ops.zeros((labels,), dtype=scores.dtype)
    starts = zeros if starts is None else ops.cast(starts, scores.dtype)
    ends = zeros if ends is None else ops.cast(ends, scores.dtype)
    own = ops.broadcast_to(ops.arange(labels, dtype="int32"), (batch, labels))

    def forward(best, step):
        score, is_counted, is_first, transition = step
        reached = best[:, :, None] + transition
        source = ops.cast(ops.argmax(reached, axis=1), "int32")
        value = ops.where(is_first, starts, ops.max(reached, axis=1)) + score
        moves = ops.logical_and(is_counted, ops.logical_not(is_first))
        return ops.where(is_counted, value, best), ops.where(moves, source, own)

    def backward(label, source):
        before = ops.take_along_axis(source, label[:, None], axis=1)[:, 0]
        return before, label

    best, sources = scan_steps(forward, ops.zeros_like(scores[:, 0]), scores, counted, transitions)
    last = ops.cast(ops.argmax(best + ends, axis=-1), "int32")
    _, path = ops.scan(backward, last, sources, reverse=True)
    return ops.where(counted, ops.transpose(path), 0)


def scan_steps(function, state, scores, counted, transitions):
    """Go through the steps of a batch of label scores.

    Args:
        function: `(state, (score, is_counted, is_first, transition)) -> (state, output)`,
            with a step's scores `(batch, labels)`, `(batch, 1)` for the two bools, and
            transitions that broadcast to `(batch, labels, labels)`.
        state: what it starts with.
        scores, counted, transitions: see `viterbi`.

    Returns:
        The last state, and the outputs `(length, batch, ...)`.
    """
    first = ops.logical_and(counted, ops.cumsum(ops.cast(counted, "int32"), axis=1) == 1)

    def by_step(x):
        return ops.transpose(x, (1, 0, *range(2, len(x.shape))))

    steps = [by_step(scores), by_step(counted)[..., None], by_step(first)[..., None]]
    if len(transitions.shape) == 4:
        return ops.scan(function, state, (*steps, by_step(transitions)))
    return ops.scan(lambda s, step: function(s, (*step, transitions)), state, tuple(steps))
