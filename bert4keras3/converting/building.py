"""The model between two files, in the dtype that is stored."""

from bert4keras3.models import build_transformer_model
from bert4keras3.models.registry import find_family, implied_arguments
from bert4keras3.weights import CheckpointError

FLOATS = ("float32", "bfloat16", "float16", "float64")


def choose_dtype(source):
    """The dtype that holds all numbers of a file.

    Args:
        source: the open file.

    Returns:
        The dtype's name, and the sorted names of those in the file. float64 becomes
        float32, as everywhere in Keras.

    Raises:
        CheckpointError: the numbers mean nothing without the scales they were divided by.
    """
    names = {source.dtype(name).name for name in source}
    scaled = sorted(name for name in names if name.startswith("float8"))
    if scaled:
        raise CheckpointError(f"expected weights of {FLOATS}, found {scaled}", source.path)
    floats = sorted(names.intersection(FLOATS))
    return floats[0] if len(floats) == 1 and floats != ["float64"] else "float32", floats


def build(origin, dtype, progress):
    """The transformer of an `Origin`, with weights of a dtype.

    It has `constructed`, the arguments of its constructor.
    """
    arguments = {**origin.arguments, **implied_arguments(origin.model)}
    if "keras_weights_path" not in arguments:
        arguments["checkpoint_path"] = origin.source
    cls = _observed(find_family(origin.model), progress)
    with progress.stage("reading"):
        return build_transformer_model(
            model=cls, return_keras_model=False, dtype=dtype, **arguments
        )


def _observed(cls, progress):
    """The family, that keeps its arguments and tells of each tensor it reads or writes."""

    class Observed(cls):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.constructed = arguments

        def load_variable(self, checkpoint, name):
            progress.step(len(self.model.weights))
            return super().load_variable(checkpoint, name)

        def create_variable(self, name, value, dtype=None):
            progress.step(len(self.model.weights))
            return super().create_variable(name, value, dtype)

    Observed.__name__ = Observed.__qualname__ = cls.__name__
    return Observed
