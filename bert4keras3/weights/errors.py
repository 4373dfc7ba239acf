"""The errors raised when a file of tensors cannot be read as asked."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or tensors that cannot be written, as asked.

    Args:
        message: what was expected and what was found.
        path: the file it happened in, if there is one.
        tensor: the name of the tensor, if it is about one.

    Attributes:
        detail: the message alone; `str(error)` puts path and tensor before it.
        path, tensor: as given.
    """

    def __init__(self, message, path=None, tensor=None):
        self.detail = message
        self.path = path
        self.tensor = tensor
        if tensor is not None:
            message = f"tensor {tensor!r}: {message}"
        if path is not None:
            message = f"{path}: {message}"
        self.message = message
        super().__init__(message)

    def __str__(self):
        return self.message


class MissingTensorError(CheckpointError, KeyError):
    """A tensor asked for by a name that the checkpoint does not hold.

    It is a KeyError too, so that `name in source` and `source.get(name)` behave
    as they do for any mapping.
    """
