"""Beam search, wholly on the device: caches follow their beams.

The rules are those of transformers: of each prompt's candidates the best ended ones
among the first `num_beams` are kept with their length-penalised scores, the best
others run on, and a prompt is closed when no running beam can overtake what is kept.
"""

from functools import partial

import numpy as np

from bert4keras3 import ops
from bert4keras3.generation.loop import (
    ended_rows,
    prefill,
    put,
    repeat_rows,
    step_rows,
)
from bert4keras3.generation.programs import cached_programs, fetch, new_tokens, whole_rows
from bert4keras3.models.decoding import map_rows

WORST = -1e9


def beam_search(
    transformer,
    options,
    arrays,
    prompt_length,
    numbers,
    seed,
    samples,
    log_probs,
    *,
    num_beams,
    length_penalty,
    early_stopping,
):
    """For each prompt its `samples` best (ids, log-probabilities).

    Args:
        transformer: the model.
        options: an `Options` without a sampler.
        arrays, prompt_length: from `pack`.
        numbers, seed: not used, a beam search draws nothing.
        samples: how many of the beams are wanted.
        log_probs: return the log-probabilities of the tokens.
        num_beams, length_penalty, early_stopping: see `Transformer.generate`.

    Raises:
        ValueError: an option that goes with sampling only, or more samples than beams.
    """
    sampling = ("sampler", "temperature", "top_k", "top_p", "min_p")
    given = [name for name in sampling if getattr(options, name) is not None]
    if given and options.sampler != "greedy":
        raise ValueError(f"num_beams: a beam search draws nothing, so {given} cannot be given")
    if samples > num_beams:
        raise ValueError(f"num_samples={samples}: a search with {num_beams} beams has no more")
    if early_stopping not in (True, False, "never"):
        raise ValueError(f"early_stopping: expected True, False or 'never', got {early_stopping!r}")
    plan, settings = options.make_plan(transformer, samples=num_beams, log_probs=log_probs)
    settings["length_penalty"] = length_penalty
    key = ("beams", plan, prompt_length, early_stopping)
    (run,) = cached_programs(
        transformer,
        key,
        lambda: (partial(search, transformer, plan, early_stopping, prompt_length), ()),
    )
    seeds = np.zeros(len(arrays["ids"]) * num_beams, "int32")
    names = ("kept", "kept_lengths", "starts", "broken", "kept_log_probs")
    carry = fetch(run(whole_rows(arrays, seeds, settings)), names)
    return [_best(carry, prompt, samples) for prompt in range(len(arrays["ids"]))]


def _best(carry, prompt, samples):
    start = carry["starts"][prompt * carry["kept"].shape[1]]
    kept, found = carry.get("kept_log_probs"), []
    for beam in range(samples):
        end = carry["kept_lengths"][prompt, beam]
        log_probs = None if kept is None else kept[prompt, beam]
        found.append(new_tokens(carry["kept"][prompt, beam], log_probs, start, end))
    return found


def search(transformer, plan, early_stopping, prompt_length, rows):
    """The pure function of a whole search: rows in, the last carry out."""
    beams, batch = plan.samples, rows["ids"].shape[0]
    logits, states = prefill(transformer, prompt_length, rows)
    shared = {name: rows[name] for name in ("ids", "extras", "lengths", "limits")}
    shared, logits, states = repeat_rows(shared, logits, states, beams)
    first = ops.arange(beams, dtype="int32")[None] == 0
    carry = {
        **shared,
        "starts": shared["lengths"],
        "settings": rows["settings"],
        "states": states,
        "broken": ops.zeros((), dtype="bool"),
        # All beams of a prompt start alike: only the first one counts.
        "scores": ops.broadcast_to(ops.where(first, 0.0, WORST), (batch, beams)),
        "open": ops.ones((batch, 1), dtype="bool"),
        "kept": ops.reshape(shared["ids"], (batch, beams, -1)),
        "kept_lengths": ops.reshape(shared["lengths"], (batch, beams)),
        "kept_scores": ops.full((batch, beams), WORST, dtype="float32"),
        "kept_ended": ops.zeros((batch, beams), dtype="bool"),
    }
    if plan.log_probs:
        carry["log_probs"] = ops.zeros_like(shared["ids"], dtype="float32")
        carry["kept_log_probs"] = ops.reshape(carry["log_probs"], (batch, beams, -1))
    choose = partial(_choose, transformer, plan, early_stopping)

    def goes_on(carry):
        room = ops.any(carry["lengths"] < carry["limits"])
        closed = ops.logical_not(ops.any(carry["open"]))
        if early_stopping is True:
            closed = ops.logical_or(closed, ops.all(carry["kept_ended"]))
        stopped = ops.logical_or(closed, carry["broken"])
        return ops.logical_and(room, ops.logical_not(stopped))

    def body(carry):
        logits, states = step_rows(transformer, carry)
        return (choose({**carry, "states": states}, logits),)

    return ops.while_loop(goes_on, body, (choose(carry, logits),))[0]


def _choose(transformer, plan, early_stopping, carry, logits):
    """One step of the search, after the logits `(batch x beams, vocab)`."""
    batch, beams = carry["scores"].shape
    vocab = logits.shape[-1]
    logits = transformer.to_logits(ops.cast(logits, "float32"))
    model = ops.log_softmax(logits, axis=-1)
    scores = model
    for process in plan.processors:
        scores = process(scores, carry)
    total = ops.reshape(scores, (batch, beams, vocab)) + carry["scores"][:, :, None]
    # So many that, whatever ends, enough are left to run on.
    count = min(max(2, 1 + len(plan.end_tokens)) * beams, beams * vocab)
    scores, places = ops.top_k(ops.reshape(total, (batch, beams * vocab)), count)
    places = ops.cast(places, "int32")
    parents = places // vocab + ops.arange(batch, dtype="int32")[:, None] * beams
    tokens = ops.reshape(places % vocab, (-1,))
    flat = ops.reshape(parents, (-1,))

    names = ("lengths", "starts", "limits")
    candidates = {name: ops.take(carry[name], flat, axis=0) for name in names}
    lengths = candidates["lengths"]
    written = ops.ones_like(lengths, dtype="bool")
    candidates["ids"] = put(ops.take(carry["ids"], flat, axis=0), tokens, lengths, written)
    if plan.log_probs:
        chosen = ops.take(ops.reshape(model, (-1,)), flat * vocab + tokens)
        buffer = ops.take(carry["log_probs"], flat, axis=0)
        candidates["log_probs"] = put(buffer, chosen, lengths, written)
    candidates["lengths"] = lengths = lengths + 1
    ended = ended_rows(plan, candidates, tokens)
    ended = ops.reshape(ops.logical_or(ended, lengths >= candidates["limits"]), (batch, count))

    carry = _keep(plan, early_stopping, carry, candidates, scores, ended)
    _, order = ops.top_k(ops.where(ended, scores + WORST, scores), beams)
    chosen = ops.reshape(order + ops.arange(batch, dtype=order.dtype)[:, None] * count, (-1,))
    rows = ops.take(flat, chosen)
    for name in ("ids", "lengths") + ("log_probs",) * plan.log_probs:
        carry[name] = ops.take(candidates[name], chosen, axis=0)
    # A prompt's beams have the same source: those states need not follow.
    fixed = transformer.fixed_states
    moving = {key: state for key, state in carry["states"].items() if key not in fixed}
    moving = map_rows(lambda x: ops.take(x, rows, axis=0), moving)
    carry["states"] = {**carry["states"], **moving}
    carry["scores"] = ops.take_along_axis(ops.where(ended, scores + WORST, scores), order, axis=1)
    carry["open"] = _still_open(early_stopping, carry)
    carry["broken"] = ops.logical_or(carry["broken"], ops.any(ops.isnan(model)))
    return carry


def _keep(plan, early_stopping, carry, candidates, scores, ended):
    """Merge the candidates that ended into what is kept."""
    batch, beams = carry["scores"].shape
    count = scores.shape[1]
    new = ops.cast((candidates["lengths"] - candidates["starts"]), "float32")
    penalty = ops.power(ops.reshape(new, (batch, count)), carry["settings"]["length_penalty"])
    counts = ops.logical_and(ended, ops.arange(count, dtype="int32")[None] < beams)
    counts = ops.logical_and(counts, carry["open"])
    if early_stopping is True:
        full = ops.all(carry["kept_ended"], axis=1, keepdims=True)
        counts = ops.logical_and(counts, ops.logical_not(full))
    scores = ops.where(counts, scores / penalty, scores / penalty + WORST)
    merged = ops.concatenate([carry["kept_scores"], scores], axis=1)
    best, order = ops.top_k(merged, beams)

    def pick(kept, new):
        new = ops.reshape(new, (batch, count, *new.shape[1:]))
        both = ops.concatenate([kept, new], axis=1)
        index = ops.reshape(order, (batch, beams, *[1] * (len(both.shape) - 2)))
        return ops.take_along_axis(both, index, axis=1)

    carry = {
        **carry,
        "kept": pick(carry["kept"], candidates["ids"]),
        "kept_lengths": pick(carry["kept_lengths"], candidates["lengths"]),
        "kept_ended": pick(carry["kept_ended"], ops.reshape(counts, (-1,))),
        "kept_scores": best,
    }
    if plan.log_probs:
        carry["kept_log_probs"] = pick(carry["kept_log_probs"], candidates["log_probs"])
    return carry


def _still_open(early_stopping, carry):
    """bool `(batch, 1)`: prompts whose best running beam may still overtake a kept one."""
    batch, beams = carry["scores"].shape
    lengths = carry["limits"] if early_stopping == "never" else carry["lengths"]
    new = ops.cast(lengths - carry["starts"], "float32")
    if early_stopping == "never":
        # A negative penalty favours short texts: the best one ends here.
        now = ops.cast(carry["lengths"] - carry["starts"], "float32")
        new = ops.where(carry["settings"]["length_penalty"] > 0, new, now)
    penalty = ops.power(new, carry["settings"]["length_penalty"])
    best = carry["scores"][:, :1] / ops.reshape(penalty, (batch, beams))[:, :1]
    worst = ops.min(carry["kept_scores"], axis=1, keepdims=True)
    worst = ops.where(carry["kept_ended"], worst, WORST)
    return ops.logical_and(carry["open"], ops.any(best > worst, axis=1, keepdims=True))
