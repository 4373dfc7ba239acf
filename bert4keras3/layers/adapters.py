"""LoRA and DoRA: trained low-rank branches beside a layer's kernel."""

import contextlib
import math
import re
import weakref

import numpy as np

from bert4keras3 import ops
from bert4keras3.layers.quantized import check_unquantized
from bert4keras3.ops import keras

PREFIX = "lora_"  # of the variables' names


def is_low_rank(variable):
    """Whether a variable belongs to a `LowRank`; freezing and checkpoints leave those out."""
    return variable.name.startswith(PREFIX)


class LowRank(keras.layers.Layer):
    """A branch beside a kernel W: `x W + scale · (x A) B`; the sum W + A B is never made.

    With DoRA the columns of W + scale · A B are brought to trained lengths, which start
    as those of W; the gradient takes the lengths before as constants.

    Args:
        owner: the `Adaptable` layer.
        rank: columns of A and rows of B.
        alpha: the branch is scaled by alpha / rank, rank by default.
        dropout: dropout rate of the branch's inputs; embeddings have none.
        use_rslora: the scale is alpha / sqrt(rank), https://arxiv.org/abs/2312.03732
        use_dora: train the columns' lengths too, https://arxiv.org/abs/2402.09353
        name: the adapter's name, one for all layers of a model.

    Attributes:
        a, b, magnitude: float32 `(in, rank)`, `(rank, out)` and `(out,)` (DoRA, else None).

    Source: https://arxiv.org/abs/2106.09685
    """

    def __init__(
        self,
        owner,
        rank,
        alpha=None,
        dropout=0.0,
        use_rslora=False,
        use_dora=False,
        name="default",
    ):
        super().__init__(name=name, dtype="float32")
        if use_dora:
            check_unquantized(owner, "DoRA cannot adapt, LoRA can")
        self.rank = rank
        self.alpha = rank if alpha is None else alpha
        self.use_rslora = use_rslora
        self.scale = self.alpha / (rank**0.5 if use_rslora else rank)
        self._owner = weakref.ref(owner)
        rows, columns = owner.matrix_shape
        down, up = owner.low_rank_initializers()
        with contextlib.ExitStack() as stack:
            for part in owner.kernel_variable.path.split("/")[:-1]:
                stack.enter_context(keras.name_scope(part))
            self.a = self._add("a", (rows, rank), down)
            self.b = self._add("b", (rank, columns), up)
            self.magnitude = self._add("magnitude", (columns,), "ones") if use_dora else None
            # A value, so that switching adapters changes no program.
            self.gate = self._add("gate", (), "ones", trainable=False)
        if use_dora:
            self.magnitude.assign(_lengths(self.add_to(owner.matrix_value())))
        self.is_active = True
        self.dropout = keras.layers.Dropout(dropout) if dropout and owner.drops_inputs else None
        self.built = True

    def _add(self, name, shape, initializer, **options):
        return self.add_weight(shape, initializer, name=PREFIX + name, autocast=False, **options)

    @property
    def use_dora(self):
        """Whether the columns' lengths are trained."""
        return self.magnitude is not None

    @property
    def dropout_rate(self):
        """The dropout rate of the branch's inputs."""
        return self.dropout.rate if self.dropout else 0.0

    def options(self):
        """The arguments to make another one of."""
        names = ("rank", "alpha", "use_rslora", "use_dora")
        return {**{name: getattr(self, name) for name in names}, "dropout": self.dropout_rate}

    def arrays(self):
        """`{name: array}` of what is trained."""
        found = {"a": self.a, "b": self.b, "magnitude": self.magnitude}
        return {name: weight.numpy() for name, weight in found.items() if weight is not None}

    def switch(self, on, trainable=None):
        """Let the branch take part or not, and train it or not; None leaves that as it is."""
        self.is_active = on
        self.gate.assign(float(on))
        if trainable is not None:
            for variable in (self.a, self.b, self.magnitude):
                if variable is not None:
                    variable.trainable = trainable

    # ------------------------------------------------------------------- call

    def branch(self, inputs, down, up, training=None):
        """The scaled branch.

        Args:
            inputs: what the layer is called on.
            down, up: functions (tensor, matrix) -> tensor, the products with A and with B.
        """
        if self.dropout is not None:
            inputs = self.dropout.call(inputs, training=training)
        inner = down(inputs, self.a)
        return up(inner * ops.cast(self.gate * self.scale, inner.dtype), self.b)

    def branch_back(self, x):
        """The branch of a table that is multiplied by from the other side."""
        b, a = (ops.cast(matrix, x.dtype) for matrix in (self.b, self.a))
        inner = ops.project(x, b, transposed=True) * ops.cast(self.gate * self.scale, x.dtype)
        return ops.project(inner, a, transposed=True)

    def factor(self):
        """What DoRA multiplies the columns by, float32 `(out,)`; None without DoRA."""
        if not self.use_dora:
            return None
        owner = self._owner()
        matrix = owner.matrix(ops.convert_to_tensor(owner.kernel_variable))
        matrix, a, b, magnitude, gate = (
            ops.cast(x, "float32") for x in (matrix, self.a, self.b, self.magnitude, self.gate)
        )
        # |W + s A B|² by column, of products that are no larger than A and B.
        both = ops.matmul(ops.transpose(a), 2 * self.scale * matrix)
        both = both + self.scale**2 * ops.matmul(ops.matmul(ops.transpose(a), a), b)
        squares = ops.sum(ops.square(matrix), axis=0) + ops.sum(both * b, axis=0)
        lengths = ops.stop_gradient(ops.sqrt(ops.maximum(squares, 1e-30)))
        return 1 + gate * (magnitude / lengths - 1)

    # ------------------------------------------------------------------ merge

    def add_to(self, matrix):
        """W + scale · A B of a numpy matrix, float32."""
        return matrix + self.scale * (self.a.numpy() @ self.b.numpy())

    def fold(self, matrix):
        """The matrix that does what W and the branch do, and the lengths that `unfold` needs."""
        matrix = self.add_to(matrix)
        if not self.use_dora:
            return matrix, None
        lengths = _lengths(matrix)
        return matrix * (self.magnitude.numpy() / lengths), lengths

    def unfold(self, matrix, lengths):
        """The W that `fold` was given, to rounding."""
        if self.use_dora:
            matrix = matrix * (lengths / self.magnitude.numpy())
        return matrix - self.scale * (self.a.numpy() @ self.b.numpy())

    # ------------------------------------------------------------------ files

    def save_own_variables(self, store):
        """A, B, whether the kernel beside has them in it, and with DoRA two vectors."""
        store["0"], store["1"], store["2"] = self.a, self.b, self.gate
        if self.use_dora:
            store["3"] = self.magnitude
            store["4"] = _lengths(self.add_to(self._owner().matrix_value()))

    def load_own_variables(self, store):
        """Take what a file has, and out of the kernel what it has in it; or keep everything."""
        if "0" not in store.keys():
            return
        expected = [tuple(x.shape) for x in (self.a, self.b)]
        found = [tuple(store[key].shape) for key in "01"]
        if found != expected or ("3" in store.keys()) != self.use_dora:
            raise ValueError(
                f"layer {self._owner().name!r}, adapter {self.name!r}: expected A and B of "
                f"{expected}{' with DoRA' if self.use_dora else ''}, found {found}"
            )
        self.a.assign(np.asarray(store["0"]))
        self.b.assign(np.asarray(store["1"]))
        if self.use_dora:
            self.magnitude.assign(np.asarray(store["3"]))
        self.switch(bool(np.asarray(store["2"])))
        owner = self._owner()
        if self.is_active and owner.quantized is None:
            lengths = np.asarray(store["4"]) if self.use_dora else None
            owner.set_matrix(self.unfold(owner.matrix_value(), lengths))


def _lengths(matrix):
    return np.sqrt(np.square(matrix).sum(axis=0, dtype="float64")).astype("float32")


class _Attached:
    """The adapters of a layer; an object of its own, which Keras does not look into."""

    def __init__(self):
        self.by_name, self.merged, self.lengths = {}, None, None


class Adaptable:
    """Mixin of layers with a kernel that can have `LowRank` branches beside it.

    A `.weights.h5` file has the active one within the kernel, so that a model without
    adapters reads the same function, and all of them in groups of their own.
    """

    drops_inputs = True
    _attached = None

    @property
    def adapters(self):
        """The branches, in order; none while one is merged. File format: the name."""
        attached = self._attached
        return [] if attached is None or attached.merged else list(attached.by_name.values())

    @property
    def active_adapter(self):
        """The name of the branch that takes part; None for none."""
        return next((adapter.name for adapter in self.adapters if adapter.is_active), None)

    @property
    def merged_adapter(self):
        """The name of the branch that is within the kernel; None for none."""
        return None if self._attached is None else self._attached.merged

    @property
    def adapter_names(self):
        """The names of the branches, merged or not."""
        return [] if self._attached is None else list(self._attached.by_name)

    def adapter(self, name):
        """The branch of a name, merged or not; None for none."""
        return None if self._attached is None else self._attached.by_name.get(name)

    def attach(self, adapter):
        """Put a branch beside the kernel, in the place of one of its name."""
        if self._attached is None:
            self._attached = _Attached()
        self.detach(adapter.name)
        self._attached.by_name[adapter.name] = adapter
        self._track([adapter])

    def detach(self, name):
        """Forget a branch; one that is merged stays in the kernel."""
        adapter = self.adapter(name)
        if adapter is not None:
            self._tracker.untrack(adapter)
            del self._attached.by_name[name]
            if self.merged_adapter == name:
                self._attached.merged = None
                self._track(self.adapters)

    def merge(self):
        """Fold the active branch into the kernel; the layer then has a plain one's weights."""
        if self.active_adapter is not None:
            active = self.adapter(self.active_adapter)
            matrix, self._attached.lengths = active.fold(self.matrix_value())
            self.set_matrix(matrix)
            for adapter in self.adapters:
                self._tracker.untrack(adapter)
            active.switch(False)  # in programs made before
            self._attached.merged = active.name

    def unmerge(self):
        """Take the merged branch out of the kernel again, and let it take part."""
        if self.merged_adapter is not None:
            adapter = self.adapter(self.merged_adapter)
            self.set_matrix(adapter.unfold(self.matrix_value(), self._attached.lengths))
            self._attached.merged = None
            self._track(self.adapters)
            adapter.switch(True)

    def _track(self, adapters):
        self._tracker.unlock()
        for adapter in adapters:
            self._tracker.add_to_store("layers", adapter)
        self._tracker.lock()

    # ------------------------------------------------------------ the kernel

    @property
    def kernel_variable(self):
        """The kernel."""
        return self.kernel

    def matrix(self, kernel, numbers=ops):
        """The kernel `(in, out)`, with `numbers` as operations: `ops` or numpy."""
        return kernel

    @property
    def kernel_shape(self):
        """The kernel's shape."""
        return tuple(self.kernel_variable.shape)

    @property
    def matrix_shape(self):
        """The number of rows and columns of the kernel as a matrix."""
        return self.kernel_shape

    def matrix_value(self):
        """The kernel as a numpy matrix, float32."""
        return self.matrix(np.asarray(self.kernel_variable.numpy(), "float32"), np)

    def set_matrix(self, matrix):
        """Set the kernel from a numpy matrix."""
        self.kernel_variable.assign(matrix)

    def low_rank_initializers(self):
        """Initializers of A and B; their product is 0."""
        # U(-1/√in, 1/√in), as PEFT draws it
        return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"), "zeros"

    # ------------------------------------------------------------------- call

    def adapt(self, outputs, inputs, training=None):
        """The kernel's product with the branches added.

        Args:
            outputs: `(batch, ..., out)`, or with the kernel's own axes at the end.
            inputs: what the layer is called on.
        """
        for adapter in self.adapters:
            outputs = outputs + adapter.branch(inputs, self.down, self.up, training)
            factor = adapter.factor()
            if factor is not None:
                outputs = outputs * ops.cast(self.columns(factor), outputs.dtype)
        return outputs

    def down(self, x, a):
        """The product with A: `(batch, ..., rank)`."""
        return ops.project(self.join_rows(x), ops.cast(a, x.dtype))

    def up(self, x, b):
        """The product with B, of the form of the layer's outputs."""
        return self.split_columns(ops.project(x, ops.cast(b, x.dtype)))

    def join_rows(self, x):
        """Inputs with the axes of the matrix's rows as one."""
        return x

    def split_columns(self, x):
        """Products with the matrix, with the axes of the layer's outputs."""
        return x

    def columns(self, vector):
        """A number a column of the matrix, as it multiplies outputs."""
        return vector

    # ------------------------------------------------------------------ files

    def save_own_variables(self, store):
        values = {}
        super().save_own_variables(values)
        if self.active_adapter is not None:
            matrix, _ = self.adapter(self.active_adapter).fold(self.matrix_value())
            dtype = self.kernel_variable.numpy().dtype
            values["0"] = self.kernel_form(matrix).astype(dtype)
        for key, value in values.items():
            store[key] = value

    def kernel_form(self, matrix):
        """A numpy matrix in the form of the kernel."""
        return matrix


class EinsumForm:
    """Mixin before `Adaptable`: the kernel of an `EinsumDense` as a matrix."""

    def _axes(self):
        """The kernel's axes in the matrix's order, and how many of them are rows."""
        inputs, kernel, outputs = re.split(",|->", self.equation)
        rows = [x for x in inputs if x in kernel and x not in outputs]
        columns = [x for x in outputs if x in kernel]
        ends = inputs.endswith("".join(rows)) and outputs.endswith("".join(columns))
        if not ends or set(columns) & set(inputs):
            raise ValueError(
                f"layer {self.name!r}: the equation {self.equation!r} is no product with a "
                "matrix of the inputs' last axes"
            )
        return [kernel.index(x) for x in (*rows, *columns)], len(rows)

    def _sizes(self):
        """Sizes of the matrix's rows and columns, axis by axis."""
        order, rows = self._axes()
        sizes = [self.kernel_shape[i] for i in order]
        return sizes[:rows], sizes[rows:]

    @property
    def matrix_shape(self):
        return tuple(math.prod(sizes) for sizes in self._sizes())

    def matrix(self, kernel, numbers=ops):
        return numbers.reshape(numbers.transpose(kernel, self._axes()[0]), self.matrix_shape)

    def kernel_form(self, matrix):
        rows, columns = self._sizes()
        return matrix.reshape(*rows, *columns).transpose(np.argsort(self._axes()[0]))

    def set_matrix(self, matrix):
        super().set_matrix(self.kernel_form(matrix))

    def join_rows(self, x):
        rows = len(self._sizes()[0])
        if rows == 1:
            return x
        return ops.reshape(x, (-1, *ops.shape(x)[1:-rows], self.matrix_shape[0]))

    def split_columns(self, x):
        return ops.reshape(x, (-1, *ops.shape(x)[1:-1], *self._sizes()[1]))

    def columns(self, vector):
        return ops.reshape(vector, self._sizes()[1])
