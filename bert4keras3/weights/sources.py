"""Tensors by name, one at a time, wherever they are stored."""

import math
import os
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from bert4keras3.weights.errors import CheckpointError, MissingTensorError

# Small enough to stay in the processor's cache between reading and checksumming.
CHUNK = 1 << 20
ALIGNMENT = 64


class Source(Mapping):
    """A read-only mapping from names to tensors that lie in a file.

    Opening reads the headers only; `source[name]` reads one tensor and returns a
    fresh, writable, C-contiguous numpy array that belongs to the caller. Names come
    in file order. Use it as a context manager, or call `close()`.

    Subclasses put `name -> Entry` into `self._entries`, in file order, and define
    `_read(name, entry)`.

    Args:
        path: what was opened, for messages.
    """

    def __init__(self, path):
        self.path = path
        self._entries = {}

    def __len__(self):
        return len(self._entries)

    def __iter__(self):
        return iter(self._entries)

    def __contains__(self, name):
        return name in self._entries

    def __getitem__(self, name):
        return self._read(name, self._entry(name))

    def view(self, name):
        """Like `source[name]`, but read-only and perhaps a part of the file that is mapped.

        It saves a copy where the values are transposed or selected at once.
        """
        return self[name]

    # Comparing two mappings would read every tensor of both.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self):
        return f"<{type(self).__name__} {self.path}: {len(self)} tensors>"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Close the files; no tensor can be read afterwards."""

    def shape(self, name):
        """The shape of a tensor, as a tuple of int.

        Raises:
            MissingTensorError: there is no tensor of this name.
        """
        return self._entry(name).shape

    def dtype(self, name):
        """The numpy dtype of a tensor; bfloat16 and float8 are those of `ml_dtypes`.

        Raises:
            MissingTensorError: there is no tensor of this name.
            CheckpointError: numpy has no such dtype.
        """
        dtype = self._entry(name).dtype
        if isinstance(dtype, str):
            raise CheckpointError(f"dtype {dtype} is not supported", self.path, name)
        return dtype

    def _entry(self, name):
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise MissingTensorError(
                f"not among the {len(self)} tensors of this checkpoint", self.path, name
            ) from None

    def _read(self, name, entry):
        raise NotImplementedError


class Entry:
    """Where a tensor lies and what it is.

    Args:
        dtype: a numpy dtype, or a str that names one which numpy lacks.
        shape: a tuple of int.
        offset: the first byte in the file.
        size: the number of bytes.
        **more: whatever else the format knows of the tensor.
    """

    def __init__(self, dtype, shape, offset=0, size=0, **more):
        self.dtype = dtype
        self.shape = shape
        self.offset = offset
        self.size = size
        self.__dict__.update(more)

    def size_error(self):
        """What is wrong with `size` for this dtype and shape; None where it fits."""
        if isinstance(self.dtype, str) or self.dtype.hasobject:
            return None
        expected = math.prod(self.shape) * self.dtype.itemsize
        if self.size == expected:
            return None
        return (
            f"{self.dtype} of shape {self.shape} has {expected} bytes, "
            f"but the header declares {self.size}"
        )


class DictSource(Source):
    """A plain dict of arrays as a source; reading copies.

    Args:
        arrays: a mapping from names to arrays.
        path: what to call it in messages.
    """

    def __init__(self, arrays, path="<dict>"):
        super().__init__(path)
        self._arrays = dict(arrays)
        for name, array in self._arrays.items():
            # Only what lacks a dtype (a list) is converted now, to learn it.
            if not hasattr(array, "__array__") or not isinstance(array.dtype, np.dtype):
                self._arrays[name] = array = np.asarray(array)
            self._entries[name] = Entry(array.dtype, tuple(array.shape))

    def _read(self, name, entry):
        return owned_array(self._arrays[name])


class TensorFile:
    """A file from which many threads may read arrays at any offset.

    Reads copy the bytes. Views are of a memory map, which ends the process with a bus
    error when someone truncates the file meanwhile: they are not to be kept.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._file = open(path, "rb", buffering=0)
        self._lock = threading.Lock()
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset, size):
        """The bytes of a range. Raises CheckpointError as `read_into` does."""
        buffer = np.empty(size, np.uint8)
        self.read_into(buffer, offset)
        return buffer.tobytes()

    def read_array(self, name, entry, extend_checksum=None):
        """Read a tensor into a fresh array.

        Args:
            name: its name, for messages.
            entry: its `Entry`.
            extend_checksum: a function (checksum, bytes) -> checksum, run over the
                bytes as they come in.

        Returns:
            The array, or (array, checksum) if `extend_checksum` is given.

        Raises:
            CheckpointError: the file is shorter than it was, or cannot be read.
        """
        try:
            array = empty_array(entry.shape, entry.dtype)
            raw = array.reshape(-1).view(np.uint8)
            checksum = self.read_into(raw, entry.offset, extend_checksum)
        except CheckpointError as error:
            raise CheckpointError(error.detail, error.path, name) from error
        except (ValueError, OverflowError) as error:
            # numpy bounds the rank and the product of the dimensions.
            message = f"numpy cannot hold shape {entry.shape}: {error}"
            raise CheckpointError(message, self.path, name) from error
        if entry.dtype == np.bool_ and raw.size and raw.max() > 1:
            message = f"expected booleans of 0 and 1, found a byte {raw.max()}"
            raise CheckpointError(message, self.path, name)
        return array if extend_checksum is None else (array, checksum)

    def view_array(self, name, entry):
        """A read-only view of a tensor in the mapped file.

        Raises:
            CheckpointError: the file is shorter than it was.
        """
        if entry.offset + entry.size > os.fstat(self._file.fileno()).st_size:
            raise CheckpointError(
                f"expected {entry.size} bytes, but the file ends before", self.path, name
            )
        raw = self._map[entry.offset : entry.offset + entry.size]
        return raw.view(entry.dtype).reshape(entry.shape)

    @cached_property
    def _map(self):
        return np.memmap(self._file, np.uint8, "r")

    def read_into(self, buffer, offset, extend_checksum=None):
        """Fill a uint8 array from the file; returns the checksum of its bytes."""
        step = len(buffer) if extend_checksum is None else CHUNK
        checksum = 0
        for start in range(0, len(buffer), max(step, 1)):
            chunk = buffer[start : start + step]
            self._fill(chunk, offset + start)
            if extend_checksum is not None:
                checksum = extend_checksum(checksum, chunk)
        return checksum

    def _fill(self, buffer, offset):
        view, done = memoryview(buffer), 0
        try:
            while done < len(view):
                count = self._read_at(view[done:], offset + done)
                if not count:
                    break
                done += count
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot be read: {error}", self.path) from error
        if done < len(view):
            message = f"expected {len(buffer)} bytes at {offset}, but the file ends before"
            raise CheckpointError(message, self.path)

    def _read_at(self, view, offset):
        """Read some bytes at an offset; how many."""
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [view], offset)
        with self._lock:  # systems without it have one place in a file for all
            self._file.seek(offset)
            return self._file.readinto(view)

    def close(self):
        self.__dict__.pop("_map", None)
        self._file.close()


def empty_array(shape, dtype, zeros=False):
    """An uninitialized C-contiguous array whose data are aligned to 64 bytes.

    The alignment lets a backend adopt the memory without another copy. With `zeros`
    it reads as zeros; large ones take no memory until they are written to.
    """
    dtype = np.dtype(dtype)
    make = np.zeros if zeros else np.empty
    if dtype.hasobject:
        return make(shape, dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = make(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def owned_array(array):
    """An aligned copy of an array."""
    copy = empty_array(array.shape, array.dtype)
    copy[...] = array
    return copy
