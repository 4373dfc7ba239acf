"""A text that grows turn by turn, and the model's memory of it."""

import json
from functools import partial

import google_crc32c
import numpy as np

from bert4keras3 import ops
from bert4keras3.generation.generate import chunks
from bert4keras3.generation.options import Options
from bert4keras3.generation.programs import resumable_programs, whole_rows
from bert4keras3.generation.prompts import bucket, check_generates, pack, read_prompts, room
from bert4keras3.generation.random import row_seeds
from bert4keras3.ops import keras, seam
from bert4keras3.weights import CheckpointError
from bert4keras3.weights.safetensors import SafetensorsFile, write_safetensors

FORMAT = "bert4keras3 conversation"


class Conversation:
    """A text that grows turn by turn, of which the model computes only what is new.

        conversation = Conversation(transformer)
        conversation.generate(prompt)
        conversation.generate(conversation.ids + more)

    A prompt is the whole text so far. What it has in common, from the beginning on,
    with the text before is in the model's memory and not computed again.

    Args:
        transformer: a causal model.

    Attributes:
        ids: the text so far: the last prompt and what was generated after it.
        prefilled: tokens of the last prompt that were computed.

    Raises:
        ValueError: the model cannot generate, is not causal or seq2seq, or has a mask of its
            own or conditional layer norms.
    """

    def __init__(self, transformer):
        check_generates(transformer)
        if transformer.attention_kind != "causal" or transformer.has_own_mask:
            raise ValueError(
                f"{type(transformer).__name__}: a conversation needs a causal model, whose earlier "
                "tokens do not see later ones"
            )
        if transformer.condition_inputs:
            raise ValueError(
                f"{type(transformer).__name__}: a conversation has no condition for layer norms"
            )
        if transformer.source_inputs:
            raise ValueError(
                f"{type(transformer).__name__}: a conversation needs a model that goes on with a "
                "text, this one makes another text from it"
            )
        self.transformer = transformer
        self.reset()

    def reset(self):
        """Forget the text."""
        self.ids, self.prefilled = [], 0
        self._forget()

    def _forget(self):
        self._states, self._slots, self._cached = None, 0, 0

    def generate(self, prompt, max_new_tokens=None, **options):
        """Continue the text.

        Args:
            prompt: its ids, from the beginning.
            max_new_tokens: tokens to add at most, 128 by default.
            **options: as `Options`.

        Returns:
            The new ids, their end token included.

        Raises:
            as `Transformer.generate`.
        """
        return list(self.stream(prompt, max_new_tokens, **options))

    def stream(self, prompt, max_new_tokens=None, **options):
        """As `generate`, but an iterator of ids; leaving it early keeps what was computed."""
        options = Options(**options)
        rows, single = read_prompts(self.transformer, prompt)
        if not single:
            raise ValueError(f"prompt: expected a list of ids, got {len(rows)} lists")
        count = room(self.transformer, rows, max_new_tokens)
        return self._stream(rows[0], count, options)

    def _stream(self, prompt, count, options):
        known = min(self._common(prompt), len(prompt) - 1)
        if known < self._cached and not self.transformer.rewinds:
            self._forget()
            known = 0
        length = bucket(len(prompt) - known)
        arrays, _ = pack(self.transformer, [prompt], None, count, least=self._slots)
        plan, settings = options.make_plan(self.transformer)
        begin, go_on = resumable_programs(self.transformer, plan, length)
        rows = whole_rows(arrays, row_seeds(options.make_seed(), [0]), settings)
        states = self._grown(arrays["ids"].shape[1])
        self._forget()  # what goes into the program cannot be used again
        self.ids, self.prefilled = list(prompt), len(prompt) - known
        first = begin(rows, states, np.array([known], "int32"))
        for carry, found in chunks(first, go_on, rows):
            self.ids += [token for _, token in found]
            # The newest token has been chosen, but not been read yet.
            self._states, self._slots = carry["states"], arrays["ids"].shape[1]
            self._cached = len(self.ids) - 1
            yield from (token for _, token in found)

    def _common(self, prompt):
        """How many first ids of a prompt are in the memory."""
        kept = self.ids[: self._cached]
        pairs = zip(kept, prompt, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(kept), len(prompt)))

    def _grown(self, slots):
        """The memory, with room for so many tokens."""
        if self._states is None:
            return self.transformer.initial_states(1, slots)
        if slots == self._slots:
            return self._states
        return self.transformer.grow_states(self._states, slots)

    # ------------------------------------------------------------------- files

    def save(self, path):
        """Write text and memory to a `.safetensors` file, whole or not at all.

        Args:
            path: the file.
        """
        paths = keras.tree.flatten_with_path(self._states or {})
        tensors = [_entry("/".join(map(str, keys)), tensor) for keys, tensor in paths]
        metadata = {
            "format": FORMAT,
            "ids": json.dumps([int(i) for i in self.ids]),
            "cached": str(self._cached),
            "slots": str(self._slots),
            "model": self._fingerprint(),
        }
        write_safetensors(path, tensors, metadata)

    @classmethod
    def load(cls, transformer, path):
        """Read a conversation that `save` wrote.

        Args:
            transformer: the model it was had with.
            path: the file.

        Returns:
            The `Conversation`.

        Raises:
            OSError: the file cannot be opened.
            CheckpointError: it is damaged, or is of another model.
        """
        conversation = cls(transformer)
        with SafetensorsFile(path) as file:
            metadata = file.metadata
            if metadata.get("format") != FORMAT:
                raise CheckpointError("expected a file of Conversation.save", path)
            if metadata.get("model") != conversation._fingerprint():
                raise CheckpointError("the conversation was had with another model", path)
            conversation.ids = json.loads(metadata["ids"])
            cached, slots = int(metadata["cached"]), int(metadata["slots"])
            if cached:
                empty = transformer.initial_states(1, slots)
                conversation._states = keras.tree.map_structure_up_to(
                    empty, partial(_read, file), _names(empty), empty
                )
                conversation._cached, conversation._slots = cached, slots
        return conversation

    def _fingerprint(self):
        """A number that differs where a model's sizes or weights do."""
        value = 0
        for variable in self.transformer.model.weights:
            name = f"{seam.variable_path(variable)}{tuple(variable.shape)}"
            value = google_crc32c.extend(value, name.encode())
            flat = ops.reshape(ops.convert_to_tensor(variable), (-1,))[:64]
            sample = np.asarray(ops.convert_to_numpy(ops.cast(flat, "float32")), "<f4")
            value = google_crc32c.extend(value, sample.tobytes())
        return str(value)


def _entry(name, tensor):
    array = np.ascontiguousarray(ops.convert_to_numpy(tensor))
    return name, array.shape, array.dtype, lambda: array


def _names(states):
    """The states with the name of every tensor in its place."""
    paths = keras.tree.flatten_with_path(states)
    names = ["/".join(map(str, keys)) for keys, _ in paths]
    return keras.tree.pack_sequence_as(states, names)


def _read(file, name, like):
    array = file[name]
    if array.shape != tuple(like.shape):
        raise CheckpointError(f"expected {tuple(like.shape)}, found {array.shape}", file.path, name)
    return ops.convert_to_tensor(array, dtype=like.dtype)
