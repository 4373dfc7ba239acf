"""Where a model is perturbed: the table of an embedding layer, or the output of any layer."""

from bert4keras3 import ops
from bert4keras3.layers import Add
from bert4keras3.ops import keras, seam


def find_place(model, layer, at):
    """The place that the arguments of a training method name.

    Args:
        model: a functional Keras model.
        layer: the layer, or its name.
        at: `'table'` or `'output'`.

    Raises:
        TypeError: the model is not functional.
        ValueError: no such layer or place.
        NotImplementedError: under TF_KERAS=1.
    """
    seam.only_keras3("perturbing a model (adversarial training, integrated gradients)")
    if not hasattr(model, "_run_through_graph"):
        raise TypeError(
            f"expected a functional Keras model, keras.Model(inputs, outputs), got {model!r}"
        )
    name = layer if isinstance(layer, str) else layer.name
    found = {each.name: each for each in model.layers}.get(name)
    if found is None:
        known = [each.name for each in model.layers if "Embedding" in each.name]
        raise ValueError(f"layer: the model has no {name!r}; embeddings it has: {known}")
    places = {"table": Table, "output": Output}
    if at not in places:
        raise ValueError(f"at: expected one of {sorted(places)}, got {at!r}")
    return places[at](model, found)


class Place:
    """Something of a model that can be moved: by perturbations, a list of float tensors.

    Attributes:
        is_half: the model computes in float16.
    """

    def __init__(self, model, layer):
        self.network = model
        self.is_half = layer.compute_dtype == "float16"

    def zeros(self, inputs):
        """Perturbations that change nothing; `inputs` is a flat list of the model's."""
        return [ops.zeros_like(x) for x in self.values(inputs)]

    def normalize(self, perturbations):
        """The same directions, at length 1; zeros where there is no direction."""
        # Overflown gradients of float16 have none.
        finite = [ops.where(ops.isfinite(x), x, ops.zeros_like(x)) for x in perturbations]
        squares = sum(self.sums(ops.square(x)) for x in finite)
        known = squares > 0
        scale = ops.where(known, ops.rsqrt(ops.where(known, squares, 1)), 0)
        return [x * scale for x in finite]


class Table(Place):
    """The vectors of an embedding layer: one perturbation for the whole batch.

    Wherever else the table is used, as by tied output layers, it is perturbed too.
    """

    def __init__(self, model, layer):
        super().__init__(model, layer)
        tables = [v for v in layer.variables if v.name == "embeddings"]
        if not tables:
            raise ValueError(
                f"layer {layer.name!r} is a {type(layer).__name__} without a table of embeddings: "
                "use at='output'"
            )
        self.table = tables[0]

    def values(self, inputs):
        return [ops.convert_to_tensor(self.table.value)]

    def sums(self, x):
        return ops.sum(x)

    def bind(self, inputs, perturbations):
        """The network's inputs, and the variables that have other values in it."""
        return inputs, [(self.table, self.values(inputs)[0] + perturbations[0])]


class Output(Place):
    """The output of a layer: each row of the batch has its own perturbation.

    The network is the model once more, on the same layers, with a further input for each
    call of the layer: what is added to the result.
    """

    def __init__(self, model, layer):
        super().__init__(model, layer)
        inputs = [
            keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in model.inputs
        ]
        added, outputs = [], []

        def call(operation, *args, **kwargs):
            result = operation(*args, **kwargs)
            backwards = kwargs.get("mode") == "dense" or kwargs.get("reverse")
            if operation is not layer or backwards:
                return result
            if not isinstance(result, keras.KerasTensor):
                raise ValueError(f"layer {layer.name!r}: at='output' needs a single output")
            outputs.append(result)
            added.append(keras.Input(batch_shape=result.shape, dtype=layer.variable_dtype))
            return Add(mask_from=0, dtype=layer.dtype_policy)([result, added[-1]])

        final = model._run_through_graph(inputs, call_fn=call)
        self.network = keras.Model([*inputs, *added], final)
        self.probe = keras.Model(inputs, outputs)
        self.dtype = layer.variable_dtype

    def values(self, inputs):
        """What the layer returns, at each of its calls."""
        return [ops.cast(x, self.dtype) for x in keras.tree.flatten(self.probe(inputs))]

    def sums(self, x):
        return ops.sum(x, axis=tuple(range(1, len(x.shape))), keepdims=True)

    def bind(self, inputs, perturbations):
        """The network's inputs, and the variables that have other values in it."""
        return [*inputs, *perturbations], []
