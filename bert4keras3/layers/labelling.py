"""Label sequences: conditional random fields and maximum entropy Markov models."""

import numpy as np

from bert4keras3 import ops
from bert4keras3.backend.labels import check_labels, masked_mean, previous_steps, spoil
from bert4keras3.backend.shapes import at_least_float32
from bert4keras3.backend.viterbi import scan_steps, viterbi
from bert4keras3.layers.base import Layer, register_layer
from bert4keras3.layers.compiling import for_compile, remember
from bert4keras3.ops import keras
from bert4keras3.snippets.viterbi import label_penalties


class LabelChain(Layer):
    """Base of layers that score sequences of labels; they change no score themselves.

    `call` passes scores on, -inf at masked steps, and drops the mask: the losses, the
    accuracies and `decode` find the steps that count by it. Such steps may lie anywhere;
    those that count are neighbours across them.

    Args:
        lr_multiplier: how much faster the transitions learn than the rest.
        starts, ends, allowed: rules that `decode` keeps to, see `ViterbiDecoder`; the
            losses know none.

    Shapes: `(batch, length, labels)` -> the same, or `(batch, length)` with `decode=True`.

        crf = ConditionalRandomField()
        scores = crf(Dense(labels)(hidden))
        model = keras.Model(inputs, scores)
        model.compile(loss=crf.sparse_loss, metrics=[crf.sparse_accuracy])
        tagger = keras.Model(inputs, crf(scores, decode=True))  # predicts labels
    """

    def __init__(self, lr_multiplier=1, starts=None, ends=None, allowed=None, **kwargs):
        super().__init__(**kwargs)
        if not lr_multiplier > 0:
            raise ValueError(f"layer {self.name!r}: lr_multiplier: {lr_multiplier} is not positive")
        remember(self)
        self.lr_multiplier = lr_multiplier
        # Lists, as a configuration is JSON.
        self.starts = None if starts is None else list(map(int, starts))
        self.ends = None if ends is None else list(map(int, ends))
        self.allowed = None if allowed is None else np.asarray(allowed, dtype=bool).tolist()

    def build(self, input_shape):
        self.labels = input_shape[-1]
        label_penalties(self.labels, self.starts, self.ends, self.allowed)
        self.add_transitions()
        self.built = True

    def add_matrix(self, name, columns):
        """A weight `(labels, columns)` that `lr_multiplier` makes small, and steps large."""
        initializer = keras.initializers.VarianceScaling(
            1 / self.lr_multiplier**2, mode="fan_avg", distribution="uniform"
        )
        return self.add_weight(name=name, shape=(self.labels, columns), initializer=initializer)

    @property
    def trans(self):
        """The transitions `(labels, labels)`: what label j gets after label i at [i, j]."""
        return self.transitions()

    def call(self, inputs, mask=None, decode=False):
        if mask is not None:
            mask = ops.cast(mask, "bool")[..., None]
            inputs = ops.where(mask, inputs, ops.cast(float("-inf"), inputs.dtype))
        return self.decode(inputs) if decode else inputs

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_spec(self, inputs, mask=None, decode=False):
        if decode:
            return keras.KerasTensor(inputs.shape[:2], dtype="int32")
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def decode(self, scores):
        """The best labels, as the loss counts.

        Args:
            scores: `(batch, length, labels)`, what the layer returns.

        Returns:
            int32 `(batch, length)`; 0 at masked steps. Where the rules allow no path, one
            that breaks few of them.
        """
        scores, counted = self._counted(scores)
        forbidden = ops.lowest(scores.dtype)
        rules = label_penalties(self.labels, self.starts, self.ends, self.allowed, forbidden)
        starts, ends, transitions = (ops.convert_to_tensor(r, dtype=scores.dtype) for r in rules)
        return self.best_path(scores, counted, starts, ends, transitions)

    @for_compile
    def sparse_loss(self, y_true, y_pred):
        """The loss, given labels.

        Args:
            y_true: int `(batch, length)` or `(batch, length, 1)`; any numbers at masked
                steps.
            y_pred: `(batch, length, labels)`, what the layer returns.

        Raises:
            ValueError: a label out of range; in a compiled program the loss is NaN.
        """
        scores, counted = self._counted(y_pred)
        targets, fine = self._one_hot(y_true, scores, counted)
        return spoil(self.chain_loss(targets, scores, counted), fine)

    @for_compile
    def dense_loss(self, y_true, y_pred):
        """The loss, given distributions over labels: float `(batch, length, labels)`."""
        scores, counted = self._counted(y_pred)
        return self.chain_loss(self._dense(y_true, scores, counted), scores, counted)

    @for_compile
    def sparse_accuracy(self, y_true, y_pred):
        """The share of steps whose best label is right; `y_true` as for `sparse_loss`."""
        scores, counted = self._counted(y_pred)
        targets, _ = self._one_hot(y_true, scores, counted)
        return self.chain_accuracy(targets, scores, counted)

    @for_compile
    def dense_accuracy(self, y_true, y_pred):
        """The share of steps whose best label is right; `y_true` as for `dense_loss`."""
        scores, counted = self._counted(y_pred)
        return self.chain_accuracy(self._dense(y_true, scores, counted), scores, counted)

    def _counted(self, y_pred):
        """Finite scores `(batch, length, labels)`, and which steps count."""
        scores = ops.convert_to_tensor(y_pred)
        if len(scores.shape) == 2 and self.labels == 1:
            scores = scores[..., None]  # Keras takes a last axis of 1 off before a loss
        if len(scores.shape) != 3 or scores.shape[-1] != self.labels:
            raise ValueError(
                f"layer {self.name!r}: expected scores (batch, length, {self.labels}), "
                f"got {tuple(scores.shape)}"
            )
        scores = at_least_float32(scores)
        # NaN counts, so that it is seen.
        counted = ops.any(scores != float("-inf"), axis=-1)
        scores = ops.maximum(scores, ops.lowest(scores.dtype))
        return ops.where(counted[..., None], scores, ops.zeros_like(scores)), counted

    def _one_hot(self, y_true, scores, counted):
        labels = ops.cast(ops.reshape(y_true, ops.shape(scores)[:2]), "int32")
        fine = check_labels(labels, self.labels, f"layer {self.name!r}", counted)
        labels = ops.where(ops.logical_and(counted, fine), labels, 0)
        targets = ops.one_hot(labels, self.labels, dtype=scores.dtype)
        return targets, ops.all(fine, axis=-1)

    def _dense(self, y_true, scores, counted):
        targets = ops.cast(ops.reshape(y_true, ops.shape(scores)), scores.dtype)
        return ops.where(counted[..., None], targets, ops.zeros_like(targets))


@register_layer
class ConditionalRandomField(LabelChain):
    """A linear-chain conditional random field over the scores of labels.

    Losses are `(batch,)`: the negative log-likelihood of each row's labels, 0 for a row
    that is masked throughout. Accuracies are scalars and leave transitions out.

    Args:
        lr_multiplier, starts, ends, allowed: see `LabelChain`.

    Source: https://repository.upenn.edu/cis_papers/159, https://kexue.fm/archives/7196
    """

    def add_transitions(self):
        self._trans = self.add_matrix("trans", self.labels)

    def transitions(self):
        return ops.convert_to_tensor(self._trans) * self.lr_multiplier

    def chain_loss(self, targets, scores, counted):
        transitions = ops.cast(self.trans, scores.dtype)
        before = previous_steps(counted)
        previous = ops.take_along_axis(targets, ops.maximum(before, 0)[..., None], axis=1)
        joined = ops.logical_and(counted, before >= 0)
        moves = ops.sum(ops.matmul(previous, transitions) * targets, axis=-1)
        target = ops.sum(targets * scores, axis=-1) + ops.where(joined, moves, 0)
        return _log_partition(scores, transitions, counted) - ops.sum(target, axis=-1)

    def chain_accuracy(self, targets, scores, counted):
        right = ops.argmax(targets, axis=-1) == ops.argmax(scores, axis=-1)
        return masked_mean(ops.cast(right, scores.dtype), counted)

    def best_path(self, scores, counted, starts, ends, rules):
        transitions = ops.cast(self.trans, scores.dtype) + rules
        return viterbi(scores, transitions, counted, starts, ends)


def _log_partition(scores, transitions, counted):
    """log of the sum over all paths of exp(score), `(batch,)`; 0 where nothing counts."""

    def forward(state, step):
        score, is_counted, is_first, transition = step
        reached = ops.logsumexp(state[:, :, None] + transition, axis=1)
        value = ops.where(is_first, ops.zeros_like(reached), reached) + score
        state = ops.where(is_counted, value, state)
        return state, state

    if 0 in scores.shape[:2]:
        return ops.zeros(scores.shape[:1], dtype=scores.dtype)
    state, _ = scan_steps(forward, ops.zeros_like(scores[:, 0]), scores, counted, transitions)
    total = ops.logsumexp(state, axis=-1)
    return ops.where(ops.any(counted, axis=-1), total, ops.zeros_like(total))


@register_layer
class MaximumEntropyMarkovModel(LabelChain):
    """A maximum entropy Markov model that reads labels in both directions.

    The probability of a label, given the one before, is softmax((score + transition) / 2);
    loss and accuracy are scalars, the mean over steps and over both directions. On JAX the
    accuracies cannot be metrics of `compile`: Keras shows them no weights there.

    Args:
        lr_multiplier, starts, ends, allowed: see `LabelChain`.
        hidden_dim: the transitions are the product of two matrices of this many columns;
            None for one whole matrix.

    Source: https://kexue.fm/archives/7213
    """

    def __init__(self, lr_multiplier=1, hidden_dim=None, **kwargs):
        super().__init__(lr_multiplier, **kwargs)
        self.hidden_dim = hidden_dim

    def add_transitions(self):
        if self.hidden_dim is None:
            self._trans = self.add_matrix("trans", self.labels)
        else:
            self._l_trans = self.add_matrix("l_trans", self.hidden_dim)
            self._r_trans = self.add_matrix("r_trans", self.hidden_dim)

    def transitions(self):
        if self.hidden_dim is None:
            return ops.convert_to_tensor(self._trans) * self.lr_multiplier
        left, right = map(ops.convert_to_tensor, (self._l_trans, self._r_trans))
        return ops.matmul(left, ops.transpose(right)) * self.lr_multiplier**2

    def chain_loss(self, targets, scores, counted):
        return (
            sum(
                masked_mean(-ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1), counted)
                for logits in self._directions(targets, scores, counted)
            )
            / 2
        )

    def chain_accuracy(self, targets, scores, counted):
        try:
            self.trans  # noqa: B018
        except TypeError as error:
            raise RuntimeError(
                f"layer {self.name!r}: the accuracy needs the transitions, and Keras on JAX keeps "
                "the weights of layers from metrics: leave it out of compile(), and call it on "
                "what the model predicts"
            ) from error

        def accuracy(logits):
            right = ops.argmax(targets, axis=-1) == ops.argmax(logits, axis=-1)
            return masked_mean(ops.cast(right, scores.dtype), counted)

        return sum(map(accuracy, self._directions(targets, scores, counted))) / 2

    def _directions(self, targets, scores, counted):
        """Logits of the labels given the true one before, then given the true one after."""
        transitions = ops.cast(self.trans, scores.dtype)
        for reverse, matrix in ((False, transitions), (True, ops.transpose(transitions))):
            near = previous_steps(counted, reverse)
            known = ops.take_along_axis(targets, ops.maximum(near, 0)[..., None], axis=1)
            history = ops.where((near >= 0)[..., None], ops.matmul(known, matrix), scores)
            yield (scores + history) / 2

    def best_path(self, scores, counted, starts, ends, rules):
        """The path of the least loss: both directions' log-probabilities are sums over pairs."""
        transitions = ops.cast(self.trans, scores.dtype)
        before = previous_steps(counted)
        previous = ops.take_along_axis(scores, ops.maximum(before, 0)[..., None], axis=1)
        forward = ops.log_softmax((scores[:, :, None] + transitions) / 2, axis=3)
        backward = ops.log_softmax((previous[..., None] + transitions) / 2, axis=2)
        outer = ops.log_softmax(scores, axis=-1)
        first = ops.logical_and(counted, before < 0)[..., None]
        last = ops.logical_and(counted, previous_steps(counted, reverse=True) < 0)[..., None]
        ends_here = ops.where(first, outer, 0) + ops.where(last, outer, 0)
        return viterbi(ends_here, forward + backward + rules, counted, starts, ends)
