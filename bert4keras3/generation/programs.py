"""Compiled programs, kept with their model, and what goes in and comes out."""

from functools import partial

import numpy as np

from bert4keras3.generation.loop import advance, start
from bert4keras3.generation.program import program
from bert4keras3.ops import keras
from bert4keras3.sharding import check_laid_out, to_numpy


class GenerationError(ValueError):
    """A model whose numbers are no longer numbers."""


def programs(transformer, plan, prompt_length):
    """The compiled `start` and `advance` of a plan; made once."""
    return cached_programs(
        transformer,
        (plan, prompt_length),
        lambda: (partial(start, transformer, plan, prompt_length), ()),
        lambda: (partial(advance, transformer, plan), (0,)),
    )


def resumable_programs(transformer, plan, prompt_length):
    """As `programs`, with a `start` of (rows, states, counts) that goes on from a memory."""

    def resume(rows, states, counts):
        return start(transformer, plan, prompt_length, rows, (states, counts))

    return cached_programs(
        transformer,
        ("resume", plan, prompt_length),
        lambda: (resume, (1,)),
        lambda: (partial(advance, transformer, plan), (0,)),
    )


def cached_programs(transformer, key, *makers, compiles=True):
    """Programs of (function, donated arguments), kept with the model.

    They are made anew when the model's variables are others than before.
    `compiles` is that of `program`, and belongs into the key where it varies.
    """
    layers = [layer for layer in transformer.layers.values() if isinstance(layer, keras.Layer)]
    if transformer.layer_norm_conds[0] is not None:
        layers.append(transformer.condition_model)
    variables = list({id(v): v for layer in layers for v in layer.variables}.values())
    key = (*key, tuple(map(id, variables)))
    if key not in transformer.programs:
        check_laid_out(variables)
        transformer.programs[key] = [
            program(function, variables, donate, compiles)
            for function, donate in (m() for m in makers)
        ]
    return transformer.programs[key]


def fetch(carry, names=("ids", "lengths", "starts", "finished", "broken", "log_probs")):
    """Entries of a carry as numpy arrays.

    Raises:
        GenerationError: the model gave NaN.
    """
    # Copies: the next step may overwrite the memory.
    arrays = {name: np.array(to_numpy(carry[name])) for name in names if name in carry}
    if arrays.get("broken"):
        raise GenerationError(
            "the model's logits are NaN: are its weights damaged, or too large for its dtype?"
        )
    return arrays


def whole_rows(arrays, seeds, settings):
    """The input of a start: numbers are float32 on every backend."""
    numbers = {name: np.float32(value) for name, value in settings.items()}
    return {**arrays, "seeds": seeds, "settings": numbers}


def new_tokens(ids, log_probs, start, end):
    """A row's new ids as a list, and their log-probabilities, None where not asked for."""
    return ids[start:end].tolist(), None if log_probs is None else log_probs[start:end].tolist()
