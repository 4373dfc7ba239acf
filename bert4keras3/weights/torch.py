"""PyTorch files (`pytorch_model.bin`, `.pt`, `.pth`), read and written by PyTorch itself.

They are pickles, in a zip archive with the bytes of the tensors. Only what PyTorch loads
with `weights_only=True` is read: no file can run code.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from bert4keras3.weights.atomic import atomic_path
from bert4keras3.weights.errors import CheckpointError
from bert4keras3.weights.sources import Entry, Source, empty_array

# What training programs wrap a state dict in.
WRAPPERS = ("state_dict", "model")
ZIP_MAGIC = b"PK\x03\x04"


class TorchFile(Source):
    """The tensors of one PyTorch file; needs PyTorch.

    A zip archive, which PyTorch has written since 1.6, is mapped into memory and its
    tensors are copied out one at a time; an older file is read whole.

    Args:
        path: the file, which holds a dict of tensors, perhaps under 'state_dict' or
            'model'. Values other than tensors are left out.

    Raises:
        OSError: the file cannot be opened.
        CheckpointError: PyTorch is not installed, the file is damaged, or reading it
            would run code that it brings along.
    """

    def __init__(self, path):
        super().__init__(Path(path))
        self._tensors = {}
        self._file = open(path, "rb")
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._tensors = _find_tensors(self.path, _load(self.path, self._file))
        except BaseException:
            self.close()
            raise
        for name, tensor in self._tensors.items():
            dtype = _numpy_dtype(tensor.dtype)
            self._entries[name] = Entry(dtype, tuple(tensor.shape))

    def _read(self, name, entry):
        import torch

        dtype, tensor = self.dtype(name), self._tensors.get(name)
        if tensor is None:
            raise CheckpointError("the file is closed", self.path, name)
        self._check_file(name, tensor)
        array = empty_array(entry.shape, dtype)
        if dtype.isbuiltin != 1:
            # numpy itself has no bfloat16 and float8; their bits are the same.
            bits = {1: "uint8", 2: "int16"}[dtype.itemsize]
            torch.from_numpy(array.view(bits)).copy_(tensor.view(getattr(torch, bits)))
        else:
            torch.from_numpy(array).copy_(tensor)
        return array

    def _check_file(self, name, tensor):
        # Reading a map beyond the end of a truncated file would end the process.
        size = os.fstat(self._file.fileno()).st_size
        if size < self._size:
            message = f"expected {self._size} bytes, but the file has only {size} now"
            raise CheckpointError(message, self.path, name)
        needed = tensor.numel() * tensor.element_size()
        if needed > self._size:
            message = f"expected a tensor within {self._size} bytes, found {needed} declared"
            raise CheckpointError(message, self.path, name)

    def close(self):
        self._tensors = {}
        self._file.close()


def write_torch_file(path, tensors):
    """Write a dict of tensors as `torch.save` does, whole or not at all; needs PyTorch.

    Args:
        path: the file.
        tensors: `{name: array}`.

    Raises:
        CheckpointError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        message = "writing it needs PyTorch: install torch, or save a .weights.h5 file"
        raise CheckpointError(message, path) from error
    # Reading files imports no Keras.
    from bert4keras3.ops import as_torch

    with atomic_path(path) as temporary:
        torch.save({name: as_torch(array) for name, array in tensors.items()}, temporary)


def _load(path, file):
    try:
        import torch
    except ImportError as error:
        message = "reading it needs PyTorch: install torch, or convert the file to safetensors"
        raise CheckpointError(message, path) from error
    import pickle

    mappable = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    try:
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mappable)
    except pickle.UnpicklingError as error:
        message = f"refused: expected a dict of tensors only, or the file is damaged: {error}"
        raise CheckpointError(message, path) from error
    except Exception as error:  # PyTorch raises nearly any kind for a damaged file
        message = f"PyTorch cannot load it: {type(error).__name__}: {error}"
        raise CheckpointError(message, path) from error


def _find_tensors(path, loaded):
    import torch

    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    pairs = loaded.items() if isinstance(loaded, Mapping) else ()
    tensors = {name: _plain(value) for name, value in pairs if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"expected a dict of tensors, found {type(loaded).__name__}", path)
    for name, tensor in tensors.items():
        if not isinstance(name, str) or tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError("expected a name and a dense tensor", path, name)
    return tensors


def _plain(tensor):
    return tensor.detach().resolve_conj().resolve_neg()


def _numpy_dtype(dtype):
    """The numpy dtype of the same name, or a str for those that numpy lacks."""
    name = str(dtype).removeprefix("torch.")
    if name == "bfloat16" or name.startswith("float8_") and hasattr(ml_dtypes, name):
        return np.dtype(getattr(ml_dtypes, name))
    try:
        return np.dtype(name)
    except TypeError:
        return name
