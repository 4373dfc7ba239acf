"""What a generation is asked for, checked once for all ways to ask."""

import numbers
import random
from dataclasses import dataclass

from bert4keras3 import ops
from bert4keras3.generation.loop import Plan
from bert4keras3.generation.processors import (
    Forbid,
    MinNewTokens,
    NoRepeatNgram,
    RepetitionPenalty,
    UserProcessor,
)
from bert4keras3.generation.sampling import Greedy, Sampler

NAMES = ("greedy", "random", "topk", "topp")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How tokens are chosen and when a text ends.

    Args:
        sampler: 'greedy', 'random', 'topk', 'topp', a `Sampler`, or a function
            `(logits, uniform) -> ids`, of float32 `(batch, vocab)` and numbers in
            [0, 1) `(batch,)`. By default random where one of the next four is
            given, else greedy.
        temperature: logits are divided by it; 0 is greedy.
        top_k, top_p, min_p: see `Sampler`.
        repetition_penalty: makes the tokens of prompt and text less likely; 1 for none.
        no_repeat_ngram: so many tokens in a row never come twice; 0 for none.
        min_new_tokens: no end before that.
        end_token: id, or list of ids, that ends a text; the model's by default.
        stop_sequences: lists of ids; a text ends after one of them.
        forbidden_tokens: ids that never come.
        processors: functions `(logits, ids, positions) -> logits`; ids is
            `(batch, slots)`, positions `(batch,)` the place of the token to come.
            They are compiled: use `bert4keras3.ops`. Pass the same function
            again, not another one like it: each is a program of its own.
        seed: a whole number that makes random draws reproducible; by default
            drawn from Python's `random`, which `keras.utils.set_random_seed` seeds.

    Raises:
        ValueError: a value out of its range.
    """

    sampler: object = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    min_new_tokens: int = 0
    end_token: object = None
    stop_sequences: tuple = ()
    forbidden_tokens: tuple = ()
    processors: tuple = ()
    seed: int | None = None

    def make_sampler(self):
        """The sampler asked for."""
        names = ("temperature", "top_k", "top_p", "min_p")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        sampler = self.sampler
        if sampler is None:
            sampler = "random" if given else "greedy"
        if isinstance(sampler, str):
            return self._named(sampler, given)
        if given:
            raise ValueError(f"sampler: with {sampler!r}, {sorted(given)} cannot be given too")
        if isinstance(sampler, (Greedy, Sampler)):
            return sampler
        if not callable(sampler):
            raise ValueError(
                f"sampler: expected a Sampler, a function or one of {NAMES}, got {sampler!r}"
            )
        return UserSampler(sampler)

    @staticmethod
    def _named(name, given):
        if name not in NAMES:
            raise ValueError(f"sampler: expected one of {NAMES}, got {name!r}")
        needed = {"topk": "top_k", "topp": "top_p"}.get(name)
        if needed and needed not in given:
            raise ValueError(f"sampler={name!r} needs {needed}")
        if name == "greedy" or given.get("temperature") == 0:
            return Greedy()
        return Sampler(**given)

    def make_seed(self):
        """The seed asked for, or a fresh one."""
        if self.seed is None:
            return random.getrandbits(32)
        if not isinstance(self.seed, numbers.Integral) or self.seed < 0:
            raise ValueError(f"seed: expected a whole number from 0 on, got {self.seed!r}")
        return int(self.seed)

    def make_plan(self, transformer, **others):
        """The plan of the compiled loop, and the numbers it takes as inputs."""
        sampler = self.make_sampler()
        ends = self.end_tokens(transformer)
        vocab = transformer.vocab_size
        processors, settings = [], dict(sampler.settings())
        if self.repetition_penalty != 1:
            check_above_zero("repetition_penalty", self.repetition_penalty)
            processors.append(RepetitionPenalty())
            settings["penalty"] = float(self.repetition_penalty)
        if self.no_repeat_ngram:
            processors.append(NoRepeatNgram(whole("no_repeat_ngram", self.no_repeat_ngram, 1)))
        if self.min_new_tokens and ends:
            processors.append(MinNewTokens(ends))
            settings["min_new_tokens"] = whole("min_new_tokens", self.min_new_tokens, 0)
        if len(self.forbidden_tokens):
            processors.append(Forbid(token_ids("forbidden_tokens", self.forbidden_tokens, vocab)))
        stops = tuple(token_ids("stop_sequences", s, vocab) for s in self.stop_sequences)
        if not all(stops):
            raise ValueError("stop_sequences: one of them is empty")
        plan = Plan(
            sampler=sampler.shape(),
            processors=(*processors, *map(UserProcessor, self.processors)),
            end_tokens=ends,
            stop_sequences=stops,
            **others,
        )
        return plan, settings

    def end_tokens(self, transformer):
        """The ids that end a text."""
        ends, size = self.end_token, transformer.vocab_size
        if ends is None:
            # A configuration may name a token that a cut vocabulary no longer has.
            own = transformer.end_token_id
            own = [own] if isinstance(own, numbers.Integral) else own or []
            ends = [token for token in own if token < size]
        return token_ids("end_token", ends, size)


@dataclass(frozen=True)
class UserSampler:
    """A function of the user in a sampler's place."""

    function: object

    draws = True

    def __call__(self, logits, uniform, settings):
        return ops.cast(self.function(logits, uniform), "int32")

    def settings(self):
        """It has no numbers of its own."""
        return {}

    def shape(self):
        """A program for each function."""
        return self


def token_ids(name, ids, vocab_size):
    """Some ids as a tuple; -1 (no token, as some scripts write) is left out."""
    ids = [ids] if isinstance(ids, numbers.Integral) else list(ids)
    for i in ids:
        if not isinstance(i, numbers.Integral) or not -1 <= i < vocab_size:
            raise ValueError(f"{name}: expected ids from 0 to {vocab_size - 1}, got {i!r}")
    return tuple(int(i) for i in ids if i != -1)


def whole(name, number, least):
    """A whole number of at least `least`."""
    if isinstance(number, bool) or not isinstance(number, numbers.Integral) or number < least:
        raise ValueError(f"{name}: expected a whole number from {least} on, got {number!r}")
    return int(number)


def check_above_zero(name, number):
    """Raise for numbers that are not above 0."""
    if not number > 0:
        raise ValueError(f"{name}: expected a number above 0, got {number!r}")
