"""Which labels may follow each other, and the best path that keeps to it, in numpy."""

import numpy as np


def label_penalties(labels, starts=None, ends=None, allowed=None, forbidden=-np.inf):
    """What rules about labels add to their scores.

    Args:
        labels: number of labels.
        starts: the labels a sequence may start with; None for all.
        ends: the labels it may end with; None for all.
        allowed: bool `(labels, labels)`, whether label j may follow label i at [i, j];
            None for all.
        forbidden: what a forbidden label gets.

    Returns:
        Arrays `(labels,)`, `(labels,)` and `(labels, labels)`: 0, or `forbidden`.

    Raises:
        ValueError: a label out of range, or a matrix of another shape.
    """

    def of_labels(name, chosen):
        if chosen is None:
            return np.zeros(labels)
        chosen = np.asarray(list(chosen), dtype=int)
        if chosen.size == 0 or chosen.min() < 0 or chosen.max() >= labels:
            raise ValueError(
                f"{name}: expected labels from 0 to {labels - 1}, got {chosen.tolist()}"
            )
        penalty = np.full(labels, forbidden)
        penalty[chosen] = 0
        return penalty

    transition = np.zeros((labels, labels))
    if allowed is not None:
        allowed = np.asarray(allowed, dtype=bool)
        if allowed.shape != transition.shape:
            raise ValueError(f"allowed: expected the shape {transition.shape}, got {allowed.shape}")
        transition[~allowed] = forbidden
    return of_labels("starts", starts), of_labels("ends", ends), transition


def tag_rules(names):
    """The rules of a tagging scheme, read off the names of its labels.

    Args:
        names: the labels in order, such as `["O", "B-PER", "I-PER"]` (BIO),
            `["O", "B-PER", "M-PER", "E-PER", "S-PER"]` (BMES, or BIOES with `I`), or
            `["B", "M", "E", "S"]`, as words are cut.

    Returns:
        A dict of `starts`, `ends` and `allowed`, as `ViterbiDecoder` and
        `ConditionalRandomField` take them.

    Raises:
        ValueError: a name that is neither `O` nor begins with B, I, M, E or S.
    """
    tags = [tuple(name.partition("-")[::2]) for name in names]
    for name, (place, _) in zip(names, tags, strict=True):
        if place not in ("O", "B", "I", "M", "E", "S"):
            raise ValueError(f"label {name!r}: expected 'O', or B, I, M, E or S and a type after -")
    # Where spans have an end of their own, one that has begun must get there.
    must_end = any(place == "E" for place, _ in tags)

    def follows(before, after):
        opened = before is not None and before[0] in ("B", "I", "M")
        continues = after is not None and after[0] in ("I", "M", "E")
        if continues:
            return opened and before[1] == after[1]
        return not (opened and must_end)

    return {
        "starts": [i for i, tag in enumerate(tags) if follows(None, tag)],
        "ends": [i for i, tag in enumerate(tags) if follows(tag, None)],
        "allowed": [[follows(before, after) for after in tags] for before in tags],
    }


class ViterbiDecoder:
    """The best sequence of labels, given scores and transitions.

    Args:
        trans: `(labels, labels)`, what label j gets after label i at [i, j]; an array,
            tensor or variable, such as `ConditionalRandomField.trans`. The attribute
            may be set anew.
        starts: the labels a sequence may start with; None for all.
        ends: the labels it may end with; None for all.
        allowed: bool `(labels, labels)`, which label may follow which; see `tag_rules`.

    Whole batches on the device: `ConditionalRandomField`'s `decode`.
    """

    def __init__(self, trans, starts=None, ends=None, allowed=None):
        self.trans = trans
        self.num_labels = len(self.trans)
        self.rules = label_penalties(self.num_labels, starts, ends, allowed)
        self.non_starts, self.non_ends = (np.flatnonzero(p).tolist() for p in self.rules[:2])

    @property
    def trans(self):
        return self._trans

    @trans.setter
    def trans(self, value):
        value = _array(value)
        if value.ndim != 2 or value.shape[0] != value.shape[1]:
            raise ValueError(f"ViterbiDecoder: trans: expected a square matrix, got {value.shape}")
        self._trans = value

    def decode(self, nodes):
        """The best labels of one sequence.

        Args:
            nodes: scores `(length, labels)`; steps that are -inf throughout, as a CRF
                marks padding, are passed over and get label 0.

        Returns:
            int array `(length,)`. Of equal paths, one whose labels have the smaller
            numbers at the end.

        Raises:
            ValueError: scores of another shape, or no path that the rules allow.
        """
        nodes = _array(nodes)
        if nodes.ndim != 2 or nodes.shape[1] != self.num_labels:
            raise ValueError(
                f"ViterbiDecoder: nodes: expected (length, {self.num_labels}), got {nodes.shape}"
            )
        steps = np.flatnonzero((nodes > -np.inf).any(axis=1) | np.isnan(nodes).any(axis=1))
        path = np.zeros(len(nodes), dtype=int)
        if steps.size:
            path[steps] = self._best(nodes[steps])
        return path

    def _best(self, nodes):
        start, end, transition = self.rules
        transition = self.trans + transition
        best, sources = nodes[0] + start, []
        for node in nodes[1:]:
            reached = best[:, None] + transition
            sources.append(reached.argmax(axis=0))
            best = reached.max(axis=0) + node
        best = best + end
        if best.max() == -np.inf:
            raise ValueError(
                f"ViterbiDecoder: no path of {len(nodes)} labels is allowed by starts, ends, "
                "allowed and the scores"
            )
        labels = [best.argmax()]
        for source in reversed(sources):
            labels.append(source[labels[-1]])
        return labels[::-1]


def _array(x):
    """A float64 array of an array, variable or tensor of any backend."""
    x = getattr(x, "value", x)
    x = x.detach().cpu() if hasattr(x, "detach") else x
    return np.asarray(x).astype("float64")
