"""Decoding on the host: beam search and sampling around a `predict` the user writes."""

import functools
import operator

import numpy as np

from bert4keras3.ops import keras

# JAX compiles a program for each shape, of megabytes each; this many are kept.
PROGRAMS_KEPT = 64


class AutoRegressiveDecoder:
    """Base class of decoders; a subclass defines `predict`, the scores of the next token.

        class Title(AutoRegressiveDecoder):
            @AutoRegressiveDecoder.wraps(default_rtype="probas")
            def predict(self, inputs, output_ids, states):
                token_ids, segment_ids = inputs
                token_ids = np.concatenate([token_ids, output_ids], 1)
                segment_ids = np.concatenate([segment_ids, np.ones_like(output_ids)], 1)
                return self.last_token(model).predict([token_ids, segment_ids])

        title = Title(start_id=None, end_id=tokenizer._token_end_id, maxlen=32)
        output_ids = title.beam_search([token_ids, segment_ids], topk=3)

    Args:
        start_id: the token every output begins with; None for none.
        end_id: the token that ends an output.
        maxlen: the number of tokens that are generated at most.
        minlen: outputs shorter than this, start token included, do not end.

    Source: https://kexue.fm/archives/6933
    """

    def __init__(self, start_id, end_id, maxlen, minlen=1):
        self.start_id = start_id
        self.end_id = end_id
        self.maxlen = maxlen
        self.minlen = minlen
        self.models = {}
        first = [] if start_id is None else [start_id]
        self.first_output_ids = np.array([first], dtype="int64")

    @staticmethod
    def wraps(default_rtype="probas", use_states=False):
        """Decorator of `predict(self, inputs, output_ids, states)`.

        It adds the arguments `temperature=1` and `rtype=default_rtype`, and makes
        the result `(scores, states)`: probabilities for the rtype `'probas'`,
        their logarithms for `'logits'`.

        Args:
            default_rtype: what the method returns, `'probas'` or `'logits'`.
            use_states: the method returns `(scores, states)`; otherwise the states are None.

        Raises:
            ValueError: an unknown default_rtype; later, a temperature not above 0,
                or probabilities that are negative or 0 throughout.
        """
        if default_rtype not in ("probas", "logits"):
            raise ValueError(f"default_rtype: expected 'probas' or 'logits', got {default_rtype!r}")

        def decorate(predict):
            @functools.wraps(predict)
            def scored(self, inputs, output_ids, states, temperature=1, rtype=default_rtype):
                if not temperature > 0:
                    raise ValueError(f"temperature: expected a number above 0, got {temperature}")
                result = predict(self, inputs, output_ids, states)
                scores, states = result if use_states else (result, None)
                to_probas = _softmax if default_rtype == "logits" else _sharpen
                probas = to_probas(_numpy(scores), temperature)
                return (probas if rtype == "probas" else np.log(probas + 1e-12)), states

            return scored

        return decorate

    def predict(self, inputs, output_ids, states, temperature=1, rtype="probas"):
        """The scores of the next token and new states; for a subclass, which uses `wraps`.

        Args:
            inputs: the inputs of the search, each `(batch, ...)`.
            output_ids: int `(batch, length)`, the tokens generated so far.
            states: what the call before returned.
            temperature, rtype: handled by `wraps`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define predict")

    def last_token(self, model):
        """The Keras model with its outputs `(batch, length, ...)` cut to the last position.

        Each model is wrapped once, and its `predict` shows no progress bar. Inputs
        are computed at their exact length, as padding changes what some models say:
        PyTorch and TensorFlow take any length, JAX compiles at each new one. It
        keeps 64 programs at most, so that memory does not grow without end.
        """
        if model not in self.models:
            self.models[model] = LastToken(model)
        return self.models[model]

    def beam_search(self, inputs, topk, states=None, temperature=1, min_ends=1):
        """The likeliest output, as far as `topk` candidates at a time can tell.

        It ends when the best candidate does; others that end before are dropped.

        Args:
            inputs: a list of sequences, without a batch axis.
            topk: number of candidates; 1 is greedy search.
            states: given to the first `predict`: any nesting of arrays. Arrays with
                one row a candidate follow the candidates; all else is passed on as it is.
            temperature: divides the logits.
            min_ends: number of end tokens at which an output ends.

        Returns:
            int array `(length,)`, with the start token and the end token.

        Raises:
            ValueError: topk below 1; scores of a wrong shape or with NaN.
        """
        _check_count("topk", topk)
        inputs = [keras.ops.convert_to_numpy(x)[None] for x in inputs]
        output_ids, totals = self.first_output_ids, np.zeros(1)
        for _ in range(self.maxlen):
            logits, states = self._scores(inputs, output_ids, states, temperature, "logits")
            candidates = totals[:, None] + logits
            best = _largest(candidates.ravel(), topk)
            rows, tokens = np.divmod(best, candidates.shape[1])
            output_ids = np.column_stack([output_ids[rows], tokens])
            ended = self._ended(output_ids, min_ends)
            if ended[0]:
                break
            topk -= ended.sum()
            output_ids, totals = output_ids[~ended], candidates.ravel()[best[~ended]]
            inputs, states = _select((inputs, states), rows[~ended], len(logits))
        return output_ids[0]

    def random_sample(
        self, inputs, n, topk=None, topp=None, states=None, temperature=1, min_ends=1
    ):
        """Outputs drawn at random, by `np.random` (so `np.random.seed` repeats them).

        Args:
            inputs: a list of sequences, without a batch axis.
            n: number of outputs.
            topk: draw from the topk likeliest tokens; None for all.
            topp: draw from the fewest likeliest tokens that have this probability
                together, within the topk; None for all.
            states, temperature, min_ends: as for `beam_search`.

        Returns:
            A list of n int arrays `(length,)`, in the order in which they ended.

        Raises:
            ValueError: n or topk below 1, topp outside (0, 1]; scores as above.
        """
        _check_count("n", n)
        if topk is not None:
            _check_count("topk", topk)
        if topp is not None and not 0 < topp <= 1:
            raise ValueError(f"topp: expected a number above 0 and up to 1, got {topp}")
        inputs = [keras.ops.convert_to_numpy(x)[None] for x in inputs]
        output_ids, outputs, rows = self.first_output_ids, [], np.zeros(n, dtype="int64")
        for _ in range(self.maxlen):
            probas, states = self._scores(inputs, output_ids, states, temperature, "probas")
            output_ids = np.column_stack([output_ids[rows], _draw(probas[rows], topk, topp)])
            ended = self._ended(output_ids, min_ends)
            outputs.extend(output_ids[ended])
            output_ids = output_ids[~ended]
            if not len(output_ids):
                break
            inputs, states = _select((inputs, states), rows[~ended], len(probas))
            rows = np.arange(len(output_ids))
        return outputs + list(output_ids)

    def _scores(self, inputs, output_ids, states, temperature, rtype):
        """What `predict` returns, checked."""
        scores, states = self.predict(inputs, output_ids, states, temperature, rtype)
        scores, batch = _numpy(scores), len(output_ids)
        if scores.ndim != 2 or len(scores) != batch or not scores.size:
            raise ValueError(
                f"{type(self).__name__}.predict: expected the scores of the last position, "
                f"of shape ({batch}, vocabulary), got shape {scores.shape}"
            )
        if np.isnan(scores).any():
            raise ValueError(f"{type(self).__name__}.predict: expected numbers, got NaN")
        return scores, states

    def _ended(self, output_ids, min_ends):
        """Which outputs are complete: bool `(batch,)`."""
        if output_ids.shape[1] < self.minlen:
            return np.zeros(len(output_ids), dtype=bool)
        is_end = output_ids == self.end_id
        return is_end[:, -1] & (is_end.sum(axis=1) >= min_ends)


class LastToken(keras.Model):
    """A model's outputs at the last position."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.shapes = set()
        if keras.backend.backend() == "tensorflow":
            # A graph takes any length; XLA, the default on a GPU, compiles at each.
            self.jit_compile = False

    def call(self, inputs):
        return keras.tree.map_structure(lambda output: output[:, -1], self.model(inputs))

    def predict(self, x, batch_size=None, verbose=0, steps=None, callbacks=None):
        rows = len(keras.tree.flatten(x)[0])
        if verbose or steps or callbacks or rows > (batch_size or 32):
            return super().predict(x, batch_size, verbose, steps, callbacks)
        return self.predict_on_batch(x)

    def predict_on_batch(self, x):
        shapes = tuple(array.shape for array in keras.tree.flatten(x))
        if keras.backend.backend() == "jax" and shapes not in self.shapes:
            if len(self.shapes) == PROGRAMS_KEPT:
                self.make_predict_function(force=True)
                self.shapes.clear()
            self.shapes.add(shapes)
        return super().predict_on_batch(x)


def _numpy(x):
    """Float64, in which the scores of a long output add up exactly enough."""
    return np.asarray(keras.ops.convert_to_numpy(x), dtype="float64")


def _softmax(logits, temperature):
    logits = logits / temperature
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _sharpen(probas, temperature):
    """p ** (1 / temperature), normalised; at temperature 1 as they are."""
    if (probas < 0).any() or not probas.any(axis=-1).all():
        raise ValueError(
            "predict: default_rtype='probas' expects rows of probabilities, got "
            f"{probas.min():.4g} to {probas.max():.4g} (logits need default_rtype='logits')"
        )
    if temperature == 1:
        return probas
    # Relative to the largest, so that a low temperature leaves it.
    powers = (probas / probas.max(axis=-1, keepdims=True)) ** (1 / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def _largest(scores, k):
    """Indices of the k largest of `scores` (all where they are fewer), in descending order."""
    k = min(k, len(scores))
    indices = np.argpartition(-scores, k - 1)[:k]
    return indices[np.argsort(-scores[indices])]


def _draw(probas, topk, topp):
    """One token a row of `probas`, from the likeliest by topk and then topp."""
    order = np.argsort(-probas, axis=1)[:, :topk]
    ranked = np.take_along_axis(probas, order, axis=1)
    ranked /= ranked.sum(axis=1, keepdims=True)
    if topp is not None:
        # A token stays if those before it fall short of topp.
        ranked[:, 1:][ranked.cumsum(axis=1)[:, :-1] >= topp] = 0
    cumulated = ranked.cumsum(axis=1)
    threshold = np.random.random((len(ranked), 1)) * cumulated[:, -1:]
    ranks = (cumulated <= threshold).sum(axis=1, keepdims=True)
    return np.take_along_axis(order, ranks, axis=1)[:, 0]


def _select(structure, rows, batch):
    """Rows of every array in a nesting that has `batch` of them; the rest stays as it is."""

    def select(x):
        shape = getattr(x, "shape", ())
        if not len(shape) or shape[0] != batch:
            return x
        return x[rows] if isinstance(x, np.ndarray) else keras.ops.take(x, rows, axis=0)

    return keras.tree.map_structure(select, structure)


def _check_count(name, value):
    if operator.index(value) < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value}")
