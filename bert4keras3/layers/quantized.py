"""Kernels of 8 or 4 bits in the place of float ones, for inference."""

import contextlib
import types

import numpy as np
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope

from bert4keras3 import low_bits, ops
from bert4keras3.ops import keras, seam

CANNOT_TELL = "a configuration cannot tell: use save_weights or save_quantized"


class QuantizedKernel(keras.layers.Layer):
    """The whole numbers and scales that take a kernel's place, see `bert4keras3.low_bits`.

    Args:
        owner: the `Quantizable` layer.
        bits: 8 or 4.
        group_size: entries that share a scale, along what is summed; None for all.

    Attributes:
        values, scale: the numbers, int8 or uint8, and float32. File format: the names.
        kernel_shape: the shape of the float kernel.
    """

    def __init__(self, owner, bits, group_size=None):
        super().__init__(name="quantized", dtype="float32", trainable=False)
        kernel = owner.kernel_variable
        self.bits, self.group_size, self.kernel_shape = bits, group_size, tuple(kernel.shape)
        outputs, self.inputs = owner.by_outputs(np.broadcast_to(0, owner.matrix_shape)).shape
        values, scale = low_bits.shapes(outputs, self.inputs, bits, group_size)
        with contextlib.ExitStack() as stack:
            for part in kernel.path.split("/")[:-1]:
                stack.enter_context(keras.name_scope(part))
            options = {"trainable": False, "autocast": False, "initializer": "zeros"}
            dtype = low_bits.DTYPES[bits]
            self.values = self.add_weight(values, name="values", dtype=dtype, **options)
            self.scale = self.add_weight(scale, name="scale", dtype="float32", **options)
        self.built = True

    def encode(self, matrix):
        """Take the values of a float numpy matrix `(outputs, inputs)`."""
        values, scale = low_bits.encode(matrix, self.bits, self.group_size)
        ops.fill(self.values, values)
        ops.fill(self.scale, scale)

    def _tensors(self):
        return ops.convert_to_tensor(self.values), ops.convert_to_tensor(self.scale)

    def product(self, x):
        """`(batch, ..., inputs)` times the kernel: `(batch, ..., outputs)`."""
        return low_bits.product(x, *self._tensors())

    def rows(self, ids, dtype):
        """Rows of a table: ids `(batch, ...)` -> `(batch, ..., inputs)`."""
        values, scale = (ops.take(x, ids, axis=0) for x in self._tensors())
        return low_bits.floats(values, scale, self.inputs, dtype)

    def matrix(self):
        """What the numbers stand for, float32 numpy `(outputs, inputs)`."""
        return ops.convert_to_numpy(low_bits.floats(*self._tensors(), self.inputs))


class Quantizable:
    """Mixin before `Adaptable`: the kernel may become one of few bits.

    A low-rank branch goes on beside it in float; nothing can be folded into it.
    """

    _replacement = None

    @property
    def quantized(self):
        """The `QuantizedKernel`; None for a float kernel. File format: the name."""
        return None if self._replacement is None else self._replacement.kernel

    def quantize_kernel(self, bits, group_size=None, fill=True):
        """Put a `QuantizedKernel` in the kernel's place.

        Args:
            bits: 8 or 4.
            group_size: entries that share a scale; None for all that are summed.
            fill: take the kernel's values; else a file will.

        Raises:
            ValueError: as `check_quantizable`; or weights that are no numbers.
        """
        self.check_quantizable()
        kernel = self.kernel_variable
        made = QuantizedKernel(self, bits, group_size)
        if fill:
            try:
                made.encode(self.by_outputs(self.matrix_value()))
            except ValueError as error:
                raise ValueError(f"{kernel.path}: {error}") from None
        self._untrack_variable(kernel)
        setattr(self, self.kernel_attribute, None)
        kernel._value = None  # its memory, whoever still lists the variable
        # Within an object of its own, which Keras does not look into.
        self._replacement = types.SimpleNamespace(kernel=made)
        self._tracker.unlock()
        self._tracker.add_to_store("layers", made)
        self._tracker.lock()

    kernel_attribute = "_kernel"

    def check_quantizable(self):
        """Refuse where the kernel cannot be replaced, or not now.

        Raises:
            ValueError: the layer is quantised already, by Keras too, or has adapters.
        """
        if self.quantized is not None or self.quantization_mode or self.lora_enabled:
            what = "adapted by Keras' own enable_lora" if self.lora_enabled else "quantised already"
            raise ValueError(f"layer {self.name!r} is {what}: quantise the float model")
        if self.adapter_names:
            raise ValueError(
                f"layer {self.name!r} has the adapters {self.adapter_names}: remove_lora(model) "
                "first, and adapt the quantised model"
            )

    @property
    def kernel_variable(self):
        """The kernel; its whole numbers, where it is quantised."""
        return super().kernel_variable if self.quantized is None else self.quantized.values

    @property
    def kernel_shape(self):
        """The shape of the float kernel."""
        return super().kernel_shape if self.quantized is None else self.quantized.kernel_shape

    def by_outputs(self, matrix):
        """The kernel's matrix with one row an output."""
        return matrix.T

    def multiply(self, x, training=None):
        """The product with the quantised kernel, of the form of the layer's outputs."""
        if training:
            self._check_something_is_trained()
        return self.split_columns(self.quantized.product(self.join_rows(x)))

    def _check_something_is_trained(self):
        entry = self._get_call_context().entry_layer
        # JAX' trainer calls the layers of a model, not the model.
        model = getattr(getattr(entry, "origin", None), "model", entry)
        if model is None or model.trainable_variables:
            return
        scope = get_stateless_scope() if in_stateless_scope() else None
        own = {id(variable) for variable in model.variables}
        if scope is None or own.issuperset(scope.state_mapping):  # else a part of a larger model
            raise ValueError(
                f"model {model.name!r} is quantised (layer {self.name!r} has "
                f"{self.quantized.bits} bits) and has nothing to train: enable_lora(model) puts "
                "trained matrices beside, or train the float model"
            )

    def set_matrix(self, matrix):
        if self.quantized is not None:
            raise ValueError(
                f"layer {self.name!r} is quantised to {self.quantized.bits} bits: nothing can be "
                "folded into its kernel"
            )
        super().set_matrix(matrix)

    def matrix_value(self):
        if self.quantized is None:
            return super().matrix_value()
        return self.by_outputs(self.quantized.matrix())

    # ------------------------------------------------------------------ files

    def save_own_variables(self, store):
        if self.quantized is None:
            super().save_own_variables(store)
            return
        for number, variable in enumerate(seam.own_variables(self)):
            store[str(number)] = variable

    def load_own_variables(self, store):
        if self.quantized is None:
            super().load_own_variables(store)
            return
        own = seam.own_variables(self)
        if len(store.keys()) != len(own):
            raise ValueError(
                f"layer {self.name!r} is quantised: expected {len(own)} weights beside the "
                f"kernel, found {len(store.keys())}"
            )
        for number, variable in enumerate(own):
            variable.assign(store[str(number)])

    def get_config(self):
        check_unquantized(self, CANNOT_TELL)
        return super().get_config()


def quantized_parts(layer):
    """The `Quantizable` layers that are quantised, in a layer or a model."""
    return [x for x in layer._flatten_layers() if getattr(x, "quantized", None) is not None]


def check_unquantized(layer, what):
    """Raise where a part of a layer is quantised.

    Args:
        layer: the layer.
        what: the end of a sentence that says what is not to be had.
    """
    for part in quantized_parts(layer):
        raise ValueError(
            f"layer {layer.name!r}: {part.quantized.values.path.rpartition('/')[0]} has "
            f"{part.quantized.bits} bits, which {what}"
        )


def float_order(layer):
    """A layer's weights in the order of the float layer, the whole numbers for the kernels."""
    if not quantized_parts(layer):
        return layer.weights
    quantized, own = getattr(layer, "quantized", None), seam.own_variables(layer)
    found = {id(v): v for v in ([] if quantized is None else [quantized.values]) + own}
    for part in layer._layers:
        if not isinstance(part, QuantizedKernel):
            for variable in float_order(part):
                found.setdefault(id(variable), variable)
    return list(found.values())
