"""Models whose kernels have 8 or 4 bits, for inference in less memory."""

from dataclasses import dataclass

from bert4keras3.layers.quantized import Quantizable, quantized_parts
from bert4keras3.low_bits import GROUP_SIZES
from bert4keras3.ops import seam
from bert4keras3.training.lora import (
    forget_programs,
    freeze_base,
    keras_model,
    lora_targets,
    select_named,
)
from bert4keras3.weights.deferred import finish

NAMES = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class Quantization:
    """What `quantize` does.

    Args:
        bits: 8 or 4.
        group_size: weights of one output that share a scale; None for the default: all of
            them for 8 bits, 32 for 4.
        skip: layers to leave in float: names, or one regular expression.

    Raises:
        ValueError: an argument out of its range.
        NotImplementedError: under tf.keras.
    """

    bits: int = 8
    group_size: int | None = None
    skip: tuple | str = ()

    def __post_init__(self):
        seam.only_keras3("quantisation")
        if self.bits not in GROUP_SIZES:
            raise ValueError(f"bits: expected one of {sorted(GROUP_SIZES)}, got {self.bits!r}")
        size = GROUP_SIZES[self.bits] if self.group_size is None else self.group_size
        if size is not None and (type(size) is not int or size < 2 or size % 2):
            raise ValueError(f"group_size: expected an even number from 2 on, got {size!r}")
        object.__setattr__(self, "group_size", size)
        skip = self.skip if isinstance(self.skip, str) else tuple(self.skip)
        object.__setattr__(self, "skip", skip)

    @classmethod
    def of(cls, asked):
        """That of an argument: 'int8', 'int4', a dict of arguments, or itself.

        Raises:
            ValueError: it is none of these.
        """
        if isinstance(asked, cls):
            return asked
        if isinstance(asked, dict):
            unknown = sorted(set(asked) - set(cls.__dataclass_fields__))
            if not unknown:
                return cls(**asked)
        elif isinstance(asked, str) and asked in NAMES:
            return cls(NAMES[asked])
        raise ValueError(
            f"quantization: expected one of {sorted(NAMES)} or a dict of "
            f"{sorted(cls.__dataclass_fields__)}, got {asked!r}"
        )


def quantize(model, bits=8, group_size=None, skip=()):
    """Make the kernels and token tables of a model whole numbers of 8 or 4 bits with scales.

    Its projections, output head and embeddings; norms, biases and positions stay. The model is
    for inference then: nothing in it is trained until `enable_lora` puts matrices beside.

    Args:
        model: a Keras model of this library's layers, or a transformer object.
        bits, group_size, skip: as `Quantization`.

    Returns:
        The names of the layers, in their order.

    Raises:
        ValueError: an argument out of its range; a layer that is quantised already, has
            adapters or weights that are no numbers, or a model without anything to quantise.
    """
    quantizer = Quantizer(model, Quantization(bits, group_size, skip))
    names = list(quantizer.left)
    quantizer.finish()
    return names


def quantization_of(model):
    """The `Quantization` a model has, without its `skip`; None for a float model."""
    kinds = {
        (part.quantized.bits, part.quantized.group_size)
        for part in quantized_parts(keras_model(model))
    }
    return Quantization(*kinds.pop()) if kinds else None


class Quantizer:
    """Quantises the layers of a model: at once, or each as soon as a file has filled it.

    Args:
        model: a Keras model or a transformer object.
        asked: the `Quantization`.

    Attributes:
        left: `{name: layer}` of what is still to be done.

    Raises:
        ValueError: as `quantize`.
    """

    def __init__(self, model, asked):
        self.model, self.asked = model, asked
        found = {n: x for n, x in lora_targets(model).items() if isinstance(x, Quantizable)}
        skipped = select_named(found, asked.skip, "skip") if asked.skip else {}
        self.left = {name: layer for name, layer in found.items() if name not in skipped}
        if not self.left:
            raise ValueError(f"there is nothing to quantise among the layers {sorted(found)}")
        for layer in self.left.values():
            layer.check_quantizable()

    def filled(self, layer, variables):
        """Quantise what belongs to a layer.

        Args:
            layer: the layer.
            variables: ids of the variables that a file has filled.
        """
        parts = {id(part) for part in layer._flatten_layers()}
        own = [name for name, part in self.left.items() if id(part) in parts]
        if own:
            finish(layer, variables)
        for name in own:
            self._quantize(name)

    def make_room(self):
        """Put kernels of few bits everywhere, for a file that has their values."""
        for name in list(self.left):
            self._quantize(name, fill=False)

    def finish(self):
        """Quantise what is left. The model then has nothing that is trained."""
        for name in list(self.left):
            self._quantize(name)
        settle(self.model)

    def _quantize(self, name, fill=True):
        self.left.pop(name).quantize_kernel(self.asked.bits, self.asked.group_size, fill)


def settle(model):
    """Freeze a model that has been quantised, and forget what was compiled for it."""
    freeze_base(model)
    forget_programs(model)
    for origin in {getattr(layer, "origin", None) for layer in keras_model(model).layers} - {None}:
        origin.programs.clear()
