"""Loading and saving a model's weights: TensorFlow, Hugging Face and Keras files."""

import warnings
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from bert4keras3.backend import dtype as dtype_of
from bert4keras3.layers.adapters import is_low_rank
from bert4keras3.layers.quantized import check_unquantized, float_order
from bert4keras3.models.config import write_json
from bert4keras3.models.huggingface import to_huggingface
from bert4keras3.models.quantized import Quantized
from bert4keras3.ops import seam
from bert4keras3.sharding import is_laid_out, to_numpy
from bert4keras3.weights import CheckpointError, open_source
from bert4keras3.weights.atomic import atomic_path
from bert4keras3.weights.deferred import finish
from bert4keras3.weights.load import Item, fill, select_rows
from bert4keras3.weights.sources import Source, owned_array
from bert4keras3.weights.table import Tensor, expand_table, join_axis, part_number, stored_name


class Checkpoints(Quantized):
    """Mixin of `Transformer`: its weights from and to files.

    Attributes:
        tables: `{"tf": table, "hf": table}`, see `weights.table`; `"tf"` has the
            names of TensorFlow checkpoints, `"hf"` those of Hugging Face.
        huggingface_prefix: what names of a model with heads start with; files of
            the bare model leave it out.
        huggingface_ties: `{tensor: the tensor it must equal}`, of output projections
            that are the token table with us.
        huggingface_synonyms: `{tensor: other names}`, tried in this order.
        foreign_tensors: `{part of a tensor's name: advice}`, for files that are of
            something else under the same name.
        load_report: what the last load did.
        saved_dropout_rate: dropout_rate of the configuration that weight files belong to;
            None for the model's own.
    """

    tables = {}
    huggingface_prefix = ""
    huggingface_ties = {}
    huggingface_synonyms = {}
    foreign_tensors = {}
    load_report = None
    saved_dropout_rate = None

    # ---------------------------------------------------------------- tables

    def table(self, form):
        """`{layer: [Tensor, ...]}` of one file form, `'tf'` or `'hf'`.

        Raises:
            CheckpointError: the family has no table for that form.
        """
        if form not in self.tables:
            raise CheckpointError(
                f"{type(self).__name__} has no weight table for {form!r} checkpoints, "
                f"only for {sorted(self.tables)}"
            )
        table = dict(self.tables[form])
        if self.head:
            table = self.heads[self.head].table(form, table)
        return expand_table(table, self.num_hidden_layers, self.attention_head_size)

    def variable_mapping(self):
        """`{layer: [variable name, ...]}` in a checkpoint; may be overridden.

        TensorFlow names where the family has such checkpoints, else Hugging Face's.
        """
        form = next((form for form in ("tf", "hf") if form in self.tables), None)
        if form is None:
            raise CheckpointError(
                f"{type(self).__name__} has no weight tables: it reads and writes .weights.h5 only"
            )
        table = self.table(form)
        return {layer: [tensor.name for tensor in tensors] for layer, tensors in table.items()}

    @cached_property
    def _loaded_layers(self):
        """Names of the layers that checkpoints have weights for."""
        tables = [self.table(form) for form in self.tables]
        return {self.prefixed(name) for table in tables for name, row in table.items() if row}

    @cached_property
    def _known_tensors(self):
        """`{tensor name: Tensor}` of all tables."""
        tables = [self.table(form) for form in self.tables]
        return {t.name: t for table in tables for row in table.values() for t in row}

    def finish_weights(self):
        """Draw the weights that `defers_weights` left unset and no checkpoint has filled."""
        filled = self.load_report.filled if self.load_report else ()
        for name in self._loaded_layers:
            if name in self.layers:
                finish(self.layers[name], filled)

    # --------------------------------------------------------------- loading

    def load_variable(self, checkpoint, name):
        """Read one variable in the form of the layer's weight.

        Args:
            checkpoint: a path, a dict of arrays, or an open `Source`.
            name: the variable's name there.

        Raises:
            CheckpointError: it is not there or cannot be read.
        """
        with _opened(checkpoint) as source:
            tensor = self._known_tensors.get(name) or Tensor(name)
            stored = source.view(self._find(source, name))
            value = tensor.read(stored, self._select_tokens)
            return owned_array(value) if np.may_share_memory(value, stored) else value

    def _may_view(self, variable):
        """Whether a weight is read part by part, of which each device is given its own."""
        return is_laid_out(variable) and type(self).load_variable is Checkpoints.load_variable

    def _view_variable(self, source, name):
        """As `load_variable`, but where it can be a view of the mapped file."""
        tensor = self._known_tensors.get(name) or Tensor(name)
        stored = source.view(self._find(source, name))
        return tensor.read(stored, self._select_tokens, as_view=True)

    def _select_tokens(self, table):
        """`load_embeddings`, unless the table has the model's own rows already."""
        own = len(table) == self.vocab_size != self.full_vocab_size
        return table if own else self.load_embeddings(table)

    def load_embeddings(self, embeddings):
        """Select and compose token rows by `keep_tokens` and `compound_tokens`."""
        return select_rows(embeddings, self.keep_tokens, self.compound_tokens)

    def load_weights_from_checkpoint(self, checkpoint, mapping=None):
        """Fill the model from a checkpoint of any form.

        Args:
            checkpoint: a TensorFlow checkpoint's prefix, a `.safetensors` or
                `.bin` file, a Hugging Face folder, a `.weights.h5` file, or a
                dict of arrays.
            mapping: `{layer: [variable names]}`, `variable_mapping()` by default;
                layers it does not name keep their values, names of layers the
                model does not have are skipped.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is unreadable, or does not fit the model.
        """
        if _is_h5(checkpoint):
            return self.load_weights(checkpoint)
        with _opened(checkpoint) as source:
            self._check_foreign(source)
            own, mapping = mapping is None, self._mapping_for(source, mapping)
            self._check_ties(source)
            for layer in self.model.layers:
                check_unquantized(layer, "only a file of a quantised model fills")
            items = list(self._items(source, mapping, own))
            used = {self._find(source, item.name) for item in items}
            self.load_report = self._fill(items, source, set(source) - used)

    def _mapping_for(self, source, given):
        """The mapping whose names the source has; of a given mapping, the same layers."""
        own = self.variable_mapping() if given is None else given
        rows = self.table("hf").items() if "hf" in self.tables else ()
        theirs = {layer: [tensor.name for tensor in row] for layer, row in rows}

        def hits(mapping):
            names = (name for row in mapping.values() for name in row)
            return sum(self._find(source, name) in source for name in names)

        if hits(theirs) <= hits(own):
            return own
        return theirs if given is None else {k: theirs.get(k, names) for k, names in own.items()}

    def _check_foreign(self, source):
        for part, advice in self.foreign_tensors.items():
            for name in source:
                if part in name:
                    raise CheckpointError(advice, source.path, name)

    def _check_ties(self, source):
        """Refuse files whose output projection differs from the token table it is tied to."""
        if not self.tied_embeddings:
            return
        for name, tied in self.huggingface_ties.items():
            tied = self._find(source, tied)
            if name in source and tied in source:
                if not np.array_equal(source.view(name), source.view(tied)):
                    raise CheckpointError(f"expected a copy of {tied!r}", source.path, name)

    @property
    def tied_embeddings(self):
        """Whether the output projection is the token table."""
        return self.prefixed("MLM-Bias") in self.layers

    def _items(self, source, mapping, own):
        for name, names in mapping.items():
            layer = self.layers.get(self.prefixed(name))
            if layer is None or not names:
                continue
            weights = checkpoint_weights(layer)
            # Weights beyond a given row, or of a condition, are new and keep their values.
            may_be_new = not own or getattr(layer, "conditional", False)
            if len(names) > len(weights) or (len(names) < len(weights) and not may_be_new):
                raise CheckpointError(
                    f"layer {layer.name!r} has {len(weights)} weights, its mapping names "
                    f"{len(names)}: {names}",
                    source.path,
                )
            for variable, tensor in zip(weights, names, strict=False):
                read = self._view_variable if self._may_view(variable) else self.load_variable
                yield Item(layer, variable, tensor, partial(read, source, tensor))

    def _find(self, source, name):
        """The name a source uses for a tensor: Hugging Face files vary a little."""
        name = stored_name(name)
        others = self.huggingface_synonyms.get(name, ())
        for candidate in (*_variants(name, self.huggingface_prefix), *others):
            if candidate in source:
                return candidate
        return name

    def _fill(self, items, source, unused):
        new = self._new_head_layers(items, source)
        items = [item for item in items if item.layer not in new]
        report = fill(
            items,
            source.path,
            self.ignore_invalid_weights,
            self.autoresize_weights,
            unused,
            self.quantizer and self.quantizer.filled,
        )
        if new:
            warnings.warn(
                f"{source.path} has no head for {self.head}: {[x.name for x in new]} keep their "
                "initial values and are to be trained",
                stacklevel=4,
            )
        return report

    def _new_head_layers(self, items, source):
        """The task head's layers that a file has nothing of: it was saved without the head."""
        names = [self.prefixed(name) for name in ("Pooler-Dense", "Classifier")]
        layers = [self.layers[name] for name in names if self.head and name in self.layers]
        known = [item.layer for item in items if self._find(source, item.name) in source]
        return [layer for layer in layers if layer not in known]

    def load_weights(self, path):
        """Fill the model from a Keras `.weights.h5` file.

        A file whose token tables have the model's number of rows loads as it is;
        of a file with the whole vocabulary, rows are selected by `keep_tokens`.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is unreadable, or does not fit the model.
        """
        from bert4keras3.weights.h5 import KerasWeights, load_adapters

        path = _existing(path)
        vocabulary = self._vocabulary_variables()
        with KerasWeights(path) as source:
            groups = source.groups_by_name(self.model) or self.groups_in_files()
            places = self.places_of_bits(source, groups)

            def reader(name, variable):
                def read():
                    value, tensor = source[name], vocabulary.get(id(variable))
                    if tensor is None or value.shape == tuple(variable.shape):
                        return value
                    return tensor.read(tensor.write(value), self.load_embeddings)

                return read

            items = [
                Item(self.model.get_layer(owner), variable, name, reader(name, variable))
                for name, (owner, variable) in places.items()
            ]
            # A file's kernels have its adapters in them, for models that have none.
            unused = {n for n in source if n not in places and not _is_beside(n)}
            self.load_report = self._fill(items, source, unused)
            load_adapters(self.model, source, groups)

    def groups_in_files(self):
        """`{layer: group}` in files that do not name layers, where it is not Keras' own."""

    def _vocabulary_variables(self):
        """`{id: Tensor}` of the variables that have one row a token."""
        found = {}
        for form in self.tables:
            for name, tensors in self.table(form).items():
                layer = self.layers.get(self.prefixed(name))
                if layer is not None:
                    pairs = zip(checkpoint_weights(layer), tensors, strict=False)
                    found |= {id(v): tensor for v, tensor in pairs if tensor.is_vocabulary}
        return found

    # ---------------------------------------------------------------- saving

    def create_variable(self, name, value, dtype=None):
        """The array a checkpoint stores for a weight; the inverse of `load_variable`.

        Args:
            name: the variable's name.
            value: the weight as an array.
            dtype: dtype to store, the weight's own by default.
        """
        tensor = self._known_tensors.get(name) or Tensor(name)
        value = tensor.write(np.asarray(value))
        return np.ascontiguousarray(value if dtype is None else value.astype(dtype))

    def save_weights_as_checkpoint(self, filename, mapping=None, dtype=None):
        """Write a TensorFlow checkpoint, as `tf.train.load_checkpoint` reads it.

        Args:
            filename: the checkpoint's prefix, e.g. `'bert_model.ckpt'`.
            mapping: as in `load_weights_from_checkpoint`; what it does not name is left out.
            dtype: dtype to store, the weights' own by default.

        Raises:
            CheckpointError: the model has weights that have no name there.
        """
        from bert4keras3.weights.tensorflow_writing import write_tensorflow_checkpoint

        if mapping is None:
            mapping = self.variable_mapping()
            self._check_mapped(mapping, "TensorFlow checkpoints")
        tensors = (
            (name, self._joined(parts, dtype)) for name, parts in self._saved(mapping).items()
        )
        write_tensorflow_checkpoint(filename, tensors)

    def _saved(self, mapping):
        """`{stored name: {tensor name: variable}}`; more than one where parts are fused."""
        saved = {}
        for name, names in mapping.items():
            layer = self.layers.get(self.prefixed(name))
            if layer is not None:
                _check_merged(layer)
                check_unquantized(layer, "these files have no form for: save_quantized does")
                for variable, tensor in zip(checkpoint_weights(layer), names, strict=False):
                    parts = saved.setdefault(stored_name(tensor), {})
                    first = parts.setdefault(tensor, variable)
                    if first is not variable and _differ(first, variable):
                        both = " and ".join(map(seam.variable_path, (first, variable)))
                        raise CheckpointError(
                            f"{both} are one tensor in these files, but differ: save a "
                            ".weights.h5 file",
                            tensor=tensor,
                        )
        return saved

    def _joined(self, parts, dtype):
        """The array of a stored tensor."""
        names = sorted(parts, key=part_number)
        arrays = [self.create_variable(name, to_numpy(parts[name]), dtype) for name in names]
        return arrays[0] if len(names) == 1 else np.concatenate(arrays, axis=join_axis(names[0]))

    def save_weights(self, path):
        """Write a Keras `.weights.h5` file, whole or not at all."""
        from bert4keras3.weights.h5 import name_layers

        with atomic_path(path) as temporary:
            self.model.save_weights(str(temporary), overwrite=True)
            if seam.is_tf_keras:
                name_layers(temporary, self.model)

    def save_pretrained(self, folder, dtype=None, max_shard_size="5GB"):
        """Write a Hugging Face folder, `config.json` and safetensors, as transformers loads it.

        Args:
            folder: the folder, made where it does not exist.
            dtype: dtype to store, the weights' own by default.
            max_shard_size: size at which the weights are split, bytes or e.g. '5GB'.

        Raises:
            CheckpointError: the model has something Hugging Face's does not.
        """
        from bert4keras3.weights.safetensors import write_safetensors

        config = to_huggingface(self)
        mapping = {layer: [t.name for t in row] for layer, row in self.table("hf").items()}
        self._check_mapped(mapping, "Hugging Face files")
        known = self._known_tensors

        def entry(name, parts):
            shapes = [
                known[part].write(np.broadcast_to(np.int8(0), variable.shape)).shape
                for part, variable in parts.items()
            ]
            shape, axis = list(shapes[0]), join_axis(next(iter(parts)))
            shape[axis] = sum(part[axis] for part in shapes)
            stored = np.dtype(dtype or dtype_of(next(iter(parts.values()))))
            return name, tuple(shape), stored, lambda: self._joined(parts, dtype)

        tensors = [entry(name, parts) for name, parts in self._saved(mapping).items()]
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.safetensors"
        write_safetensors(path, tensors, {"format": "pt"}, max_shard_size)
        write_json(folder / "config.json", config)

    def _check_mapped(self, mapping, files):
        """Refuse to write files that would not have all that was trained."""
        stored = set()
        for name, names in mapping.items():
            layer = self.layers.get(self.prefixed(name))
            weights = [] if layer is None else checkpoint_weights(layer)
            stored |= {id(weight) for weight in weights[: len(names)]}
        unmapped = sorted(
            layer.name
            for layer in self.model.layers
            if any(
                id(variable) not in stored
                for variable in layer.trainable_variables
                if not is_low_rank(variable)
            )
        )
        if unmapped:
            raise CheckpointError(f"{files} have no place for the layers {unmapped}")


def checkpoint_weights(layer):
    """A layer's weights, in their order, that checkpoints have tensors for."""
    weights = getattr(layer, "checkpoint_weights", None) or float_order(layer)
    return [weight for weight in weights if not is_low_rank(weight)]


def _differ(first, second):
    return (to_numpy(first) != to_numpy(second)).any()


def _check_merged(layer):
    for part in layer._flatten_layers():
        if getattr(part, "active_adapter", None) is not None:
            raise CheckpointError(
                f"layer {layer.name!r} has the adapter {part.active_adapter!r}, which these files "
                "have no place for: merge_lora(model) puts it into the weights, save_lora writes "
                "it by itself"
            )


def _is_beside(name):
    """Whether a tensor of a `.weights.h5` file is none that every model needs."""
    return "seed_generator" in name or "/adapters/" in name


class _opened:
    """Context of a source: opens a path or dict, leaves an open source open."""

    def __init__(self, checkpoint):
        self.given = isinstance(checkpoint, Source)
        self.source = open_source(checkpoint)

    def __enter__(self):
        return self.source

    def __exit__(self, *error):
        if not self.given:
            self.source.close()


def _is_h5(checkpoint):
    return isinstance(checkpoint, (str, Path)) and str(checkpoint).endswith((".h5", ".hdf5"))


def _existing(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    return path


def _variants(name, prefix):
    """A tensor name and the other spellings found in Hugging Face files."""
    names = [name]
    if prefix and name.startswith(prefix):
        names.append(name[len(prefix) :])
    for new, old in (
        (".LayerNorm.weight", ".LayerNorm.gamma"),
        (".LayerNorm.bias", ".LayerNorm.beta"),
    ):
        names += [n.replace(new, old) for n in names if new in n]
    return names
