"""The decoding loop: two pure functions on a carry, for every family and every use.

`start` fills the caches from the prompts and chooses the first new token,
`advance` runs single-token steps until all rows are done or so many steps are
made. A whole generation is one `advance`, a stream is many.

The carry is a dictionary:
    ids: int32 (batch, slots), prompts and new tokens, from the left.
    extras: further `step_inputs` of the model, each (batch, slots), known in advance.
    starts, lengths, limits: int32 (batch,), tokens of the prompt, tokens so far,
        tokens at most.
    finished: bool (batch,), rows that met an end.
    broken: bool (), a row had NaN among its logits.
    seeds: int32 (batch,).
    settings: numbers of samplers and processors.
    log_probs: float32 (batch, slots), where asked for.
    states: what the layers remember.
"""

from dataclasses import dataclass

from bert4keras3 import ops
from bert4keras3.generation.random import uniform
from bert4keras3.generation.sampling import Greedy
from bert4keras3.models.decoding import map_rows
from bert4keras3.ops import keras
from bert4keras3.sharding import spread


@dataclass(frozen=True)
class Plan:
    """What a compiled generation depends on, beside shapes.

    Args:
        sampler: chooses tokens, called with (logits, uniform numbers, settings).
        processors: what happens to logits before, called with (logits, carry).
        end_tokens: a row is finished after one of them,
        stop_sequences: or after one of these sequences of new tokens.
        fills: finished rows go on repeating their last token while others run.
        samples: rows for each prompt.
        log_probs: keep the log-probability of each new token under the model.
    """

    sampler: object = Greedy()
    processors: tuple = ()
    end_tokens: tuple = ()
    stop_sequences: tuple = ()
    fills: bool = False
    samples: int = 1
    log_probs: bool = False


def start(transformer, plan, prompt_length, rows, known=None):
    """Fill the caches and choose the first new tokens.

    Args:
        transformer: the model.
        plan: a `Plan`.
        prompt_length: at least as long as the longest prompt.
        rows: `{"ids", "extras", "lengths", "limits", "settings"}`, a row a prompt,
            and `"seeds"`, a row a sample; "ids" is `(batch, slots)`. Of a seq2seq model
            also `"source"`, see `Transformer.initial_states`. Perhaps `"states"`, what
            the layers remember before the prompts, and `"conditions"`, arrays for the
            model's `condition_inputs`.
        known: `(states, counts)`, caches and how many first tokens of each row they
            hold, int `(batch,)`; prompt_length then counts from there. None for none.

    Returns:
        The carry.
    """
    logits, states = prefill(transformer, prompt_length, rows, known)
    shared = {name: rows[name] for name in ("ids", "extras", "lengths", "limits")}
    shared, logits, states = repeat_rows(shared, logits, states, plan.samples)
    carry = {
        **shared,
        "starts": shared["lengths"],
        "finished": ops.zeros_like(shared["lengths"], dtype="bool"),
        "broken": ops.zeros((), dtype="bool"),
        "seeds": rows["seeds"],
        "settings": rows["settings"],
        "states": states,
    }
    if plan.log_probs:
        carry["log_probs"] = ops.zeros_like(shared["ids"], dtype="float32")
    return choose(transformer, plan, carry, logits)


def prefill(transformer, prompt_length, rows, known=None):
    """Run the prompts: logits of their last tokens `(batch, vocab)` and the states."""
    rows = spread(rows)
    ids, lengths = rows["ids"], rows["lengths"]
    batch, slots = ids.shape
    inputs = model_inputs(transformer, rows)
    positions = ops.broadcast_to(
        ops.arange(prompt_length, dtype="int32")[None], (batch, prompt_length)
    )
    if known is None:
        states = rows.get("states")
        if states is None:
            condition = None
            if "conditions" in rows:
                condition = transformer.condition_model(rows["conditions"])
            states = transformer.initial_states(batch, slots, inputs, rows.get("source"), condition)
        prompts = [x[:, :prompt_length] for x in inputs]
    else:
        states, counts = known
        # What is padding may lie beyond the end: the last slot is not the prompt's.
        positions = ops.minimum(positions + counts[:, None], slots - 1)
        prompts = [ops.take_along_axis(x, positions, axis=1) for x in inputs]
    outputs, states = transformer.step(prompts, positions, lengths, states, slots, last=True)
    return outputs[:, 0], spread(states)


def advance(transformer, plan, carry, steps):
    """Run up to `steps` single-token steps, fewer if all rows are done."""

    def goes_on(step, carry):
        running = ops.any(is_active(carry))
        return ops.logical_and(
            step < steps, ops.logical_and(running, ops.logical_not(carry["broken"]))
        )

    def body(step, carry):
        logits, states = step_rows(transformer, carry)
        return step + 1, choose(transformer, plan, {**carry, "states": states}, logits)

    steps = ops.cast(steps, "int32")
    return ops.while_loop(goes_on, body, (ops.zeros_like(steps), carry))[1]


def step_rows(transformer, carry):
    """Run each row's last token: logits `(batch, vocab)` and the states."""
    slots = carry["ids"].shape[1]
    last = carry["lengths"][:, None] - 1
    inputs = [ops.take_along_axis(x, last, axis=1) for x in model_inputs(transformer, carry)]
    lengths = carry["lengths"]
    if "finished" in carry:
        # The last token of a row that is done is run again and again: it must add nothing.
        lengths = ops.where(is_active(carry), lengths, lengths - 1)
    outputs, states = transformer.step(inputs, last, lengths, carry["states"], slots, last=True)
    return outputs[:, 0], states


def choose(transformer, plan, carry, logits):
    """Append a token to every active row."""
    scores = logits = transformer.to_logits(ops.cast(logits, "float32"))
    active = is_active(carry)
    broken = ops.any(ops.logical_and(active, ops.any(ops.isnan(logits), axis=-1)))
    for process in plan.processors:
        scores = process(scores, carry)
    draws = uniform(carry["seeds"], carry["lengths"]) if plan.sampler.draws else None
    tokens = plan.sampler(scores, draws, carry["settings"])
    last = ops.maximum(carry["lengths"] - 1, 0)[:, None]
    if plan.fills:
        repeated = ops.take_along_axis(carry["ids"], last, axis=1)[:, 0]
        tokens = ops.where(carry["finished"], repeated, tokens)
    writes = carry["lengths"] < carry["limits"] if plan.fills else active
    carry = {**carry, "broken": ops.logical_or(carry["broken"], broken)}
    if plan.log_probs:
        chosen = ops.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
        value = chosen - ops.logsumexp(logits, axis=-1)
        carry["log_probs"] = put(carry["log_probs"], value, carry["lengths"], writes)
    carry["ids"] = put(carry["ids"], tokens, carry["lengths"], writes)
    carry["lengths"] = carry["lengths"] + ops.cast(writes, "int32")
    ended = ops.logical_and(active, ended_rows(plan, carry, tokens))
    carry["finished"] = ops.logical_or(carry["finished"], ended)
    return carry


def is_active(carry):
    """bool `(batch,)`: rows that are to get another token."""
    room = carry["lengths"] < carry["limits"]
    return ops.logical_and(room, ops.logical_not(carry["finished"]))


def ended_rows(plan, carry, tokens):
    """bool `(batch,)`: rows whose newest token is, or completes, an end."""
    ended = ops.zeros_like(tokens, dtype="bool")
    for token in plan.end_tokens:
        ended = ops.logical_or(ended, tokens == token)
    for sequence in plan.stop_sequences:
        length = len(sequence)
        places = carry["lengths"][:, None] - length + ops.arange(length, dtype="int32")[None]
        tail = ops.take_along_axis(carry["ids"], ops.maximum(places, 0), axis=1)
        same = ops.all(tail == ops.array(sequence, dtype="int32")[None], axis=1)
        new = carry["lengths"] - carry["starts"] >= length
        ended = ops.logical_or(ended, ops.logical_and(same, new))
    return ended


def model_inputs(transformer, rows):
    """The inputs that grow with the texts, in the model's order."""
    names = [tensor.name for tensor in transformer.step_inputs[1:]]
    return [rows["ids"], *(rows["extras"][name] for name in names)]


def repeat_rows(rows, logits, states, times):
    """Repeat every row, each prompt's next to each other."""
    if times == 1:
        return rows, logits, states

    def repeat(x):
        return ops.repeat(x, times, axis=0)

    rows, logits = keras.tree.map_structure(repeat, (rows, logits))
    return rows, logits, map_rows(repeat, states)


def put(buffer, values, places, writes):
    """Write a value a row at its place, where `writes`."""
    places = ops.minimum(places, buffer.shape[1] - 1)[:, None]
    old = ops.take_along_axis(buffer, places, axis=1)[:, 0]
    return ops.write_rows(buffer, ops.where(writes, values, old)[:, None], places)
