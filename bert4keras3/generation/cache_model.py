"""The documented generation model: padded prompts in, the same arrays completed out."""

import random
from functools import partial
from itertools import islice

import numpy as np

from bert4keras3 import ops
from bert4keras3.generation.conditions import fits
from bert4keras3.generation.loop import Plan, advance, start
from bert4keras3.generation.options import check_above_zero, token_ids, whole
from bert4keras3.generation.processors import Forbid, RepetitionPenalty
from bert4keras3.generation.programs import GenerationError, cached_programs
from bert4keras3.generation.prompts import bucket, check_generates
from bert4keras3.generation.random import row_seeds
from bert4keras3.generation.sampling import Greedy, Sampler
from bert4keras3.generation.sources import takes_contexts
from bert4keras3.generation.states import join, shapes, stack, unstack
from bert4keras3.ops import keras

SEARCH_MODES = ("greedy", "topk", "topp")


class CacheModel(keras.Model):
    """A Keras model that completes the token arrays it is given.

    Made by `Transformer.build_cache_model`; shares the transformer's weights.

    Inputs: those of the transformer, int32 `(batch, length)` of the fixed lengths;
    the tokens padded at either side, the others given for the whole length. Of a
    seq2seq model first what the encoder reads, or for a decoder alone what the
    encoder gives, float `(batch, m, hidden)`, where vectors of zeros are padding.
    After them what the condition of the layer norms comes from, where there is one.

    Outputs: int32 `(batch, length)`: prompt, new tokens, padding.

    With input_state (of a recurrent model) two further inputs are the memory before the
    prompt, 'Stack-Statess' and 'Stack-Last-X', zeros for none; with output_state the outputs
    are a list: the ids, and these two as they are before the last id.

    Attributes:
        inputs: the symbolic inputs.
    """

    def __init__(
        self,
        transformer,
        input_lengths,
        plan,
        settings,
        index_bias,
        seed,
        input_state=False,
        output_state=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.backbone = transformer.model
        self.transformer = transformer
        self.length = input_lengths[-1]
        self.plan = plan
        self.search_settings = settings
        self.sources = len(transformer.source_inputs)  # how many of the inputs
        self.index_bias = index_bias
        if self.sources and transformer.decoder_start_id == self._pad:
            self.index_bias = max(index_bias, 1)  # a start token is none of padding
        self.input_state, self.output_state = input_state, output_state
        fed = _fed_inputs(transformer)
        self.input_names = [tensor.name for tensor in fed]
        self.inputs = [
            keras.Input(
                (length, *tensor.shape[2:]),
                dtype=tensor.dtype if len(tensor.shape) > 2 else "int32",
                name=tensor.name if length is None else f"{tensor.name}-cache-{length}",
            )
            for tensor, length in zip(fed, input_lengths, strict=True)
        ]
        self.inputs += [
            keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name)
            for tensor in transformer.condition_inputs
        ]
        if input_state:
            self.inputs += [
                keras.Input(shape, dtype="float32", name=name)
                for name, shape in shapes(transformer).items()
            ]
        self._random = random if seed is None else random.Random(seed)
        self.compiles = True
        self.built = True  # Keras would run the whole generation once to build it

    def compile(self, *args, jit_compile="auto", **kwargs):
        """As in Keras; `jit_compile=False` leaves XLA off on TensorFlow."""
        self.compiles = jit_compile is not False
        super().compile(*args, jit_compile=jit_compile, **kwargs)

    # ------------------------------------------------------------------- runs

    def call(self, inputs, training=None, tranning=None):
        """Complete the inputs; `training` is accepted in both spellings and ignored."""
        inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if not _is_concrete(inputs[-1]):
            rows = inputs[-1].shape[0]
            if rows is None:
                raise ValueError("within a traced function, the number of rows must be known")
            completed = self._complete(self.length, *inputs, self._seeds(rows))
            return completed if self.output_state else completed[0]
        arrays = self._check([ops.convert_to_numpy(x) for x in inputs])
        outputs = [ops.convert_to_tensor(x) for x in self._run(arrays)]
        return outputs if self.output_state else outputs[0]

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Complete arrays of any number of rows.

        Args:
            x: an array `(rows, length)`, a list of them as the inputs are, or an
                iterable of such batches (a dataset, a generator).
            batch_size: rows at a time, 32 by default.
            verbose: 0 for no progress bar; 'auto' shows one for several batches.
            steps: of an iterable, how many batches.
            callbacks: accepted and not called.

        Returns:
            int32 `(rows, length)`; with output_state a list of that and the memory.

        Raises:
            ValueError: arrays of other shapes than the inputs', an empty prompt, or
                ids out of range.
            GenerationError: the model gave NaN.
        """
        arrays = self._arrays(x)
        if arrays is None:
            batches = (batch[0] if isinstance(batch, tuple) else batch for batch in x)
            return join([self.predict_on_batch(b) for b in islice(batches, steps)])
        arrays = self._check(arrays)
        size = whole("batch_size", 32 if batch_size is None else batch_size, 1)
        starts = range(0, len(arrays[0]), size)
        shows = verbose not in (0, "0") and (len(starts) > 1 or verbose != "auto")
        bar = keras.utils.Progbar(len(starts), verbose=1) if shows else None
        results = []
        for begin in starts:
            found = self._run([a[begin : begin + size] for a in arrays])
            results.append(found if self.output_state else found[0])
            if bar:
                bar.add(1)
        return join(results)

    def predict_on_batch(self, x):
        """`predict` of one batch."""
        return self.predict(x, batch_size=1 << 30, verbose=0)

    def _run(self, arrays):
        """One batch, with a prefill as long as its longest prompt (in buckets): a list."""
        arrays = self._with_bucketed_sources(arrays)
        tokens = arrays[self.sources]
        known = inside(tokens, self._pad, self.index_bias)
        longest = int((known.shape[1] - known[:, ::-1].argmax(1) - known.argmax(1)).max())
        prompt_length = min(bucket(longest), self.length)
        key = ("cache_model", self.plan, prompt_length, self.length, self.index_bias, self.compiles)
        (run,) = cached_programs(
            self.transformer,
            key,
            lambda: (partial(self._complete, prompt_length), ()),
            compiles=self.compiles,
        )
        completed = run(*arrays, self._seeds(len(tokens)))
        completed = [np.array(ops.convert_to_numpy(x)) for x in completed]
        if (completed[0] < 0).any():
            raise GenerationError("the model's logits are NaN: are its weights damaged?")
        return completed

    def _complete(self, prompt_length, *inputs_and_seeds):
        """The pure function: inputs and seeds in, completed ids (and the memory) out.

        For NaN the ids are -1 throughout.
        """
        *inputs, seeds = inputs_and_seeds
        count = len(self.input_names)
        sources, inputs, others = (
            inputs[: self.sources],
            inputs[self.sources : count],
            inputs[count:],
        )
        inputs, lengths = aligned(inputs, self._pad, self.index_bias)
        names = self.input_names[self.sources + 1 :]
        rows = {
            "ids": inputs[0],
            "extras": dict(zip(names, inputs[1:], strict=True)),
            "lengths": lengths,
            "limits": ops.full_like(lengths, self.length),
            "seeds": seeds,
            "settings": {k: ops.cast(v, "float32") for k, v in self.search_settings.items()},
        }
        if sources:
            rows["source"] = self._source(sources)
        if self.transformer.condition_inputs:
            rows["conditions"] = list(others)
        elif others:
            rows["states"] = unstack(self.transformer, *others)
        carry = start(self.transformer, self.plan, prompt_length, rows)
        carry = advance(self.transformer, self.plan, carry, self.length)
        ids = ops.where(carry["broken"], -1, carry["ids"])
        return [ids, *stack(self.transformer, carry["states"])] if self.output_state else [ids]

    def _source(self, arrays):
        """The sources as `Transformer.initial_states` takes them."""
        names = [tensor.name for tensor in self.transformer.source_inputs]
        if takes_contexts(self.transformer):
            return {names[0]: arrays[0]}
        arrays, lengths = aligned(arrays, self._pad)
        return {**dict(zip(names, arrays, strict=True)), "lengths": lengths}

    def _with_bucketed_sources(self, arrays):
        """The arrays, sources of any length padded to one that programs are compiled for."""
        padded = []
        for place, (array, tensor) in enumerate(zip(arrays, self.inputs, strict=True)):
            if place < self.sources and tensor.shape[1] is None:
                more = bucket(array.shape[1]) - array.shape[1]
                value = self._pad if place == 0 and array.ndim == 2 else 0
                widths = ((0, 0), (0, more), *[(0, 0)] * (array.ndim - 2))
                array = np.pad(array, widths, constant_values=value)
            padded.append(array)
        return padded

    # ------------------------------------------------------------------ checks

    @property
    def _pad(self):
        return self.transformer.pad_token_id or 0

    def _seeds(self, rows):
        return row_seeds(self._random.getrandbits(32), range(rows))

    def _arrays(self, x):
        """The inputs as numpy arrays; None for an iterable of batches."""
        if isinstance(x, dict):
            conditions = [tensor.name for tensor in self.transformer.condition_inputs]
            memory = shapes(self.transformer) if self.input_state else ()
            x = [x[name] for name in (*self.input_names, *conditions, *memory)]
        several = isinstance(x, (list, tuple))
        if several and len(x) and np.ndim(x[0]) == 1 and len(self.inputs) == 1:
            x = [np.array(x)]  # a list of rows
        elif not several:
            x = [x]
        if not all(isinstance(part, (list, np.ndarray)) or ops.is_tensor(part) for part in x):
            return None
        return [np.asarray(ops.convert_to_numpy(part)) for part in x]

    def _check(self, arrays):
        if len(arrays) != len(self.inputs):
            names = [tensor.name for tensor in self.inputs]
            raise ValueError(f"expected {len(names)} arrays for {names}, got {len(arrays)}")
        rows = len(arrays[-1])
        for array, tensor in zip(arrays, self.inputs, strict=True):
            expected = (rows, *tensor.shape[1:])
            if not fits(array.shape, expected):
                raise ValueError(
                    f"input {tensor.name!r}: expected the shape {expected}, got {array.shape}"
                )
        self._check_tokens(arrays[self.sources], self.index_bias, "prompt")
        if self.sources and takes_contexts(self.transformer):
            empty = np.flatnonzero(~arrays[0].any((1, 2)))
            if len(empty):
                raise ValueError(f"row {empty[0]}: the context is empty, all its vectors are zeros")
        elif self.sources:
            self._check_tokens(arrays[0], 0, "source")
        dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in self.inputs]
        return [x.astype(dtype) for x, dtype in zip(arrays, dtypes, strict=True)]

    def _check_tokens(self, tokens, bias, name):
        size = self.transformer.vocab_size
        wrong = np.argwhere((tokens < 0) | (tokens >= size) | (tokens != tokens.astype("int64")))
        if len(wrong):
            row, place = wrong[0]
            raise ValueError(
                f"row {row}, position {place}: expected an id from 0 to {size - 1}, "
                f"got {tokens[row, place]}"
            )
        empty = np.flatnonzero(~inside(tokens, self._pad, bias).any(1))
        if len(empty):
            raise ValueError(
                f"row {empty[0]}: the {name} is empty, all {tokens.shape[1]} ids are padding"
            )

    def compute_output_spec(self, inputs, training=None, tranning=None):
        tokens = inputs[self.sources] if isinstance(inputs, (list, tuple)) else inputs
        ids = keras.KerasTensor(tuple(tokens.shape), dtype="int32")
        if not self.output_state:
            return ids
        memory = shapes(self.transformer).values()
        return [ids, *(keras.KerasTensor((tokens.shape[0], *s), dtype="float32") for s in memory)]

    def get_config(self):
        raise ValueError(
            "a cache model has no configuration: save the transformer's weights instead"
        )


def build_cache_model(
    transformer,
    input_lengths,
    end_token,
    search_mode="greedy",
    k=1,
    progress_print=False,
    index_bias=0,
    initial=True,
    seed=None,
    input_state=False,
    output_state=False,
):
    """See `Transformer.build_cache_model`, and that of `RecurrentModel`."""
    check_generates(transformer)
    lengths = _lengths(transformer, input_lengths)
    sampler = _sampler(search_mode, k, transformer)
    plan = Plan(
        sampler=sampler.shape() if isinstance(sampler, Sampler) else sampler,
        processors=tuple(_processors(transformer, lengths[-1], progress_print)),
        end_tokens=token_ids("end_token", end_token, transformer.vocab_size),
        fills=True,
    )
    settings = {"penalty": float(transformer.penalty), **sampler.settings()}
    whole("index_bias", index_bias, 0)
    memory = {"input_state": input_state, "output_state": output_state}
    return CacheModel(transformer, lengths, plan, settings, index_bias, seed, **memory)


def _fed_inputs(transformer):
    """The inputs that have an entry for each token: of the sources, and of the texts."""
    return [*transformer.source_inputs, *transformer.step_inputs]


def _lengths(transformer, input_lengths):
    names = [tensor.name for tensor in _fed_inputs(transformer)]
    lengths, sources = list(input_lengths), len(transformer.source_inputs)
    if len(lengths) != len(names):
        raise ValueError(f"input_lengths: expected one for each of {names}, got {lengths}")
    for length in (n for n in lengths[:sources] if n is not None):
        whole("input_lengths", length, 1)  # the sources may have any length
    for length in lengths[sources:]:
        whole("input_lengths", length, 2)
    for part in (slice(0, sources), slice(sources, None)):
        if len(set(lengths[part])) > 1:
            raise ValueError(f"input_lengths: {names[part]} have one length, got {lengths[part]}")
    limit = transformer.position_limit
    if limit is not None and lengths[-1] > limit:
        raise ValueError(f"input_lengths: the model's max_position is {limit}, got {lengths[-1]}")
    return lengths


def inside(tokens, pad, bias=0):
    """Where the tokens `(batch, n)` are none of padding, or among the `bias` first ones."""
    return (tokens != pad) | (np.arange(tokens.shape[1]) < bias)


def aligned(inputs, pad, bias=0):
    """Token ids and what goes with them, each `(batch, n)`, with all padding at the right.

    Position then equals slot. Also returns the lengths `(batch,)`.
    """
    inputs = [ops.cast(x, "int32") for x in inputs]
    size = inputs[0].shape[1]
    places = ops.arange(size, dtype="int32")[None]
    known = ops.logical_or(ops.not_equal(inputs[0], pad), places < bias)
    marks = ops.cast(known, "int32")
    first = ops.cast(ops.argmax(marks, axis=1), "int32")
    last = size - 1 - ops.cast(ops.argmax(ops.flip(marks, axis=1), axis=1), "int32")
    order = (places + first[:, None]) % size
    return [ops.take_along_axis(x, order, axis=1) for x in inputs], last - first + 1


def _sampler(search_mode, k, transformer):
    temperature = transformer.temperature
    check_above_zero("temperature", temperature)
    if search_mode not in SEARCH_MODES:
        raise ValueError(f"search_mode: expected one of {SEARCH_MODES}, got {search_mode!r}")
    if search_mode == "greedy":
        return Greedy()
    if search_mode == "topk":
        return Sampler(temperature=temperature, top_k=_top_k(k, transformer), classic=True)
    if isinstance(k, (list, tuple)):
        if len(k) != 2:
            raise ValueError(f"k: expected p or [p, k] for 'topp', got {k!r}")
        p, k = k
        k = _top_k(k, transformer)
        return Sampler(temperature=temperature, top_p=p, top_k=k, classic=True)
    return Sampler(temperature=temperature, top_p=k, classic=True)


def _top_k(k, transformer):
    return min(whole("k", k, 1), transformer.vocab_size)


def _processors(transformer, length, progress_print):
    if progress_print and keras.backend.backend() == "torch":
        yield Progress()
    if transformer.penalty != 1:
        check_above_zero("penalty", transformer.penalty)
        window, counts = transformer.penalty_window, transformer.max_penalty_range
        if window is not None and length % whole("penalty_window", window, 1):
            raise ValueError(
                f"penalty_window={window} does not divide the length {length} of the tokens"
            )
        if counts is not None and (len(counts) != 2 or not counts[0] < counts[1]):
            raise ValueError(f"max_penalty_range: expected [a, b] with a < b, got {counts!r}")
        yield RepetitionPenalty(window, None if counts is None else tuple(counts))
    if transformer.mask_output is not None and len(transformer.mask_output):
        yield Forbid(token_ids("mask_output", transformer.mask_output, transformer.vocab_size))


class Progress:
    """Prints how far the rows are, at every step; for a loop that runs in Python."""

    def __call__(self, logits, carry):
        print(f"position {int(ops.max(carry['lengths']))} of {carry['ids'].shape[1]}")  # noqa: T201
        return logits


def _is_concrete(tensor):
    """Whether a tensor has values now, in no trace of a compiler."""
    backend = keras.backend.backend()
    if isinstance(tensor, keras.KerasTensor):
        return False
    if backend == "jax":
        import jax

        return not isinstance(tensor, jax.core.Tracer)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.executing_eagerly() or isinstance(tensor, np.ndarray)
    return True
