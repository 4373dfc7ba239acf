"""Sentence embeddings: texts in, one vector each, from a Hugging Face folder.

embedder = SentenceEmbedder("path/of/the/folder")
embeddings = embedder.encode(["How do I boil an egg?", "Cooking eggs"])
indices, scores = similar(embeddings[0], embeddings)
"""

import json
import operator
import sys
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bert4keras3 import ops
from bert4keras3.layers import FirstToken, Layer
from bert4keras3.models import build_transformer_model
from bert4keras3.models.config import read_config
from bert4keras3.ops import keras
from bert4keras3.tokenizers import load_tokenizer

POOLINGS = ("mean", "cls")
OLDER_NAMES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
# The modules of a sentence-transformers folder that this file computes.
MODULES = ("Transformer", "Pooling", "Normalize")

LONG_RUN = 20  # batches from which on a progress bar is shown
TOKENIZED_AT_ONCE = 4096


class SentenceEmbedder:
    """One vector for each text: tokenizer, encoder, pooling and norm in one call.

    A folder in the form of sentence-transformers says in `1_Pooling/config.json`
    and `sentence_bert_config.json` how it was trained; these are the defaults.

    Args:
        folder: a Hugging Face folder: config.json, weights and a tokenizer.
        pooling: `'mean'` of all tokens that are not padding, or `'cls'`, the first
            token's vector; None for what the folder says, else the mean.
        normalize: scale every vector to length 1.
        maxlen: tokens of a text that count, special ones included; None for what
            the folder says, else as many as the model has positions.

    Attributes:
        folder, pooling, normalize, maxlen: as given or found; maxlen is None for
            a model of any length.
        hidden_size: size of the vectors.
        tokenizer: reads the texts.
        model: Keras model `[tokens, segments]`, int32 `(batch, length)`, ->
            `(batch, hidden)`.

    Raises:
        FileNotFoundError: the folder, or a file that it must have, is not there.
        ValueError: an unknown pooling, a maxlen beyond the model's positions, or
            files that are damaged or describe what is not supported.
    """

    def __init__(self, folder, pooling=None, normalize=True, maxlen=None):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no model folder at {self.folder}")
        self.pooling = _folder_pooling(self.folder) if pooling is None else pooling
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {POOLINGS}, got {pooling!r}")
        self.normalize = normalize
        settings = _optional_config(self.folder / "sentence_bert_config.json")
        self._lowercase = bool(settings.get("do_lower_case"))
        self.tokenizer = load_tokenizer(self.folder)
        transformer = build_transformer_model(self.folder, return_keras_model=False)
        self.maxlen = _fit_maxlen(maxlen, settings.get("max_seq_length"), transformer)
        self.hidden_size = transformer.hidden_size
        self._vocab_size = transformer.vocab_size
        self._pad_token_id = transformer.pad_token_id
        self.model = _with_pooling(transformer, self.pooling, normalize)

    def encode(self, texts, batch_size=32, show_progress=None):
        """Embed texts.

        They are sorted by length and batched, so their order costs nothing.

        Args:
            texts: a list (or any iterable) of str.
            batch_size: texts that the model sees at once.
            show_progress: a progress bar on stderr; None for one where the run is
                long and stderr is a terminal.

        Returns:
            float32 array `(len(texts), hidden)`, in the order of the texts.

        Raises:
            TypeError: one of them is no str, or texts is a single one.
            ValueError: a batch_size below 1, or a token id that the model does not
                know: tokenizer and model do not belong together.
        """
        if operator.index(batch_size) < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        rows = self._tokenize(_checked(texts))
        embeddings = np.empty((len(rows), self.hidden_size), "float32")
        batches = self._batches([row.shape[1] for row in rows], batch_size)
        if show_progress is None:
            show_progress = len(batches) >= LONG_RUN and sys.stderr.isatty()
        with tqdm(total=len(rows), unit="text", disable=not show_progress, leave=False) as bar:
            for members, width in batches:
                batch = self._padded([rows[i] for i in members], width, batch_size)
                embeddings[members] = self.model.predict_on_batch(batch)[: len(members)]
                bar.update(len(members))
        return embeddings

    def encode_stream(self, texts, batch_size=32, at_once=1024):
        """Embed texts that need not fit into memory, such as the lines of an open file.

        Args:
            texts: an iterable of str.
            batch_size: texts that the model sees at once.
            at_once: texts that are sorted by length and batched together.

        Returns:
            An iterator of float32 vectors `(hidden,)`, in the order of the texts.

        Raises:
            as `encode`, when it comes to it.
        """
        if isinstance(texts, (str, bytes)):
            _checked(texts)
        texts = iter(texts)
        blocks = iter(lambda: list(islice(texts, at_once)), [])
        return chain.from_iterable(self.encode(block, batch_size, False) for block in blocks)

    def _tokenize(self, texts):
        """An int32 array `(2, length)` for each text: its token and segment ids."""
        if self._lowercase:
            texts = [text.lower() for text in texts]
        rows = []
        for start in range(0, len(texts), TOKENIZED_AT_ONCE):
            some = texts[start : start + TOKENIZED_AT_ONCE]
            encoded = self.tokenizer.encode_batch(some, maxlen=self.maxlen)
            new = [np.array(ids_and_segments, "int32") for ids_and_segments in encoded]
            self._check_ids(new, start)
            rows += new
        return rows

    def _check_ids(self, rows, start):
        # Here, because compiled models cannot raise: they would read some other row.
        ids = np.concatenate([row[0] for row in rows])
        wrong = ids[(ids < 0) | (ids >= self._vocab_size)]
        if wrong.size:
            index = next(i for i, row in enumerate(rows) if wrong[0] in row[0])
            raise ValueError(
                f"texts[{start + index}] holds the token id {wrong[0]}, but the model has a "
                f"vocabulary of {self._vocab_size}: the tokenizer and the model in "
                f"{self.folder} do not belong together"
            )

    def _batches(self, lengths, batch_size):
        """List of (indices of the texts, width of the batch), the longest texts first."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        groups = [order]
        if self._pad_token_id is None:
            # Padding would count as text, so only texts of one length go together.
            groups = [list(group) for _, group in groupby(order, key=lengths.__getitem__)]
        return [
            (group[i : i + batch_size], self._width(lengths[group[i]]))
            for group in groups
            for i in range(0, len(group), batch_size)
        ]

    def _width(self, length):
        """The length that a batch whose longest text has `length` tokens is padded to."""
        if self._pad_token_id is None or not _compiles():
            return max(length, 1)
        return _bucket(length, self.maxlen)

    def _padded(self, rows, width, batch_size):
        """The model's inputs for some rows, filled up with padding."""
        height = len(rows) if not _compiles() else _height(len(rows), batch_size)
        tokens = np.full((height, width), self._pad_token_id or 0, "int32")
        segments = np.zeros_like(tokens)
        for i, row in enumerate(rows):
            tokens[i, : row.shape[1]], segments[i, : row.shape[1]] = row
        return [tokens, segments][: len(self.model.inputs)]


def similar(query_embedding, embeddings, top=None):
    """Rank embeddings by their cosine with a query.

    Args:
        query_embedding: `(hidden,)`, or several as `(queries, hidden)`.
        embeddings: `(n, hidden)`.
        top: how many to return; None for all.

    Returns:
        (indices, scores), the nearest first, each `(top,)` or `(queries, top)`;
        equal scores are in the order of the embeddings.

    Raises:
        ValueError: shapes that do not match, or a top below 1.
    """
    query, known = (np.asarray(x, "float32") for x in (query_embedding, embeddings))
    if known.ndim != 2 or query.ndim not in (1, 2) or query.shape[-1] != known.shape[1]:
        raise ValueError(
            "expected a query (hidden,) or (queries, hidden) and embeddings (n, hidden), "
            f"got {query.shape} and {known.shape}"
        )
    if top is not None and operator.index(top) < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    # Rounding may lead a little beyond 1.
    scores = np.clip(_unit(query) @ _unit(known).T, -1, 1)
    indices = np.argsort(-scores, axis=-1, kind="stable")[..., :top]
    return indices, np.take_along_axis(scores, indices, axis=-1)


# ---------------------------------------------------------------------- model


class MeanPooling(Layer):
    """The mean over the unmasked positions: `(batch, length, hidden)` -> `(batch, hidden)`.

    A row without any unmasked position becomes zeros.
    """

    def call(self, inputs, mask=None):
        if mask is None:
            return ops.mean(inputs, axis=1)
        keep = ops.cast(mask, inputs.dtype)[:, :, None]
        return ops.sum(inputs * keep, axis=1) / ops.maximum(ops.sum(keep, axis=1), 1)

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])


def _with_pooling(transformer, pooling, normalize):
    """The Keras model from ids to embeddings."""
    output = transformer.output
    if isinstance(output, list) or tuple(output.shape[2:]) != (transformer.hidden_size,):
        raise ValueError(
            f"{type(transformer).__name__}: expected one output (batch, length, hidden) to pool"
        )
    # In float32, whatever the model computes in.
    layer = MeanPooling if pooling == "mean" else FirstToken
    output = layer(dtype="float32", name="Embedding-Pooling")(output)
    if normalize:
        output = keras.layers.UnitNormalization(dtype="float32", name="Embedding-Unit")(output)
    return keras.Model(transformer.input, output)


def _fit_maxlen(asked, trained, transformer):
    """Number of tokens to read: as asked, or as trained, within the model's positions."""
    positions = getattr(transformer, "max_position", None)
    if positions is not None:
        positions -= getattr(transformer, "position_offset", 0)
    if asked is None:
        return min((n for n in (trained, positions) if n is not None), default=None)
    if operator.index(asked) < 1:
        raise ValueError(f"maxlen must be at least 1, got {asked}")
    if positions is not None and asked > positions:
        raise ValueError(f"maxlen={asked}, but the model has {positions} positions")
    return asked


# --------------------------------------------------------------------- folder


def _optional_config(path):
    return read_config(path) if path.is_file() else {}


def _folder_pooling(folder):
    """The pooling that a sentence-transformers folder prescribes, 'mean' for other folders."""
    _check_modules(folder / "modules.json")
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    config = read_config(path)
    # The newer form names the mode, the older one has a switch for each.
    switches = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes = config.get("pooling_mode") or [OLDER_NAMES.get(key, key) for key in switches]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ValueError(
            f"{path}: the pooling {' + '.join(modes) or 'none'} is not supported; "
            f"choose another: pooling={' or '.join(map(repr, POOLINGS))}"
        )
    return modes[0]


def _check_modules(path):
    """Raise where the folder computes more than encoder, pooling and norm."""
    if not path.is_file():
        return
    try:
        types = [module["type"] for module in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: expected a list of modules with a type: {error!r}") from None
    foreign = [name for name in types if name.rpartition(".")[2] not in MODULES]
    if foreign:
        raise ValueError(
            f"{path}: {', '.join(foreign)} is not supported; an explicit `pooling` leaves it out"
        )


# --------------------------------------------------------------------- shapes


def _compiles():
    """Whether every new shape costs a compilation; torch takes any at once."""
    return keras.backend.backend() != "torch"


def _bucket(length, limit):
    """8, 12, 16, 24, 32, 48 …: the first that holds `length`, and never above `limit`."""
    size = 8
    while size < length:
        is_power_of_two = size & (size - 1) == 0
        size = size * 3 // 2 if is_power_of_two else size * 4 // 3
    return size if limit is None else min(size, limit)


def _height(rows, batch_size):
    """1, 4, 16, 64 … and the full batch: the first that holds so many rows."""
    height = 1
    while height < rows:
        height *= 4
    return min(height, batch_size)


# ---------------------------------------------------------------------- texts


def _checked(texts):
    """The texts as a list; TypeError where one is no str."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"texts must be a list of str, found a single {type(texts).__name__}")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] must be a str, found {type(text).__name__}")
    return texts


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
