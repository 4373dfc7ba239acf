"""Safetensors files, read tensor by tensor and written in shards if wanted.

A file is eight bytes with the length of the header, little-endian, the header, a JSON
object, and the bytes of the tensors, little-endian, without gaps:

    {"__metadata__": {"format": "pt"},
     "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}

The format is defined at huggingface/safetensors, README.md.
"""

import json
import math
import re
from pathlib import Path

import ml_dtypes
import numpy as np

from bert4keras3.weights.atomic import atomic_group
from bert4keras3.weights.errors import CheckpointError
from bert4keras3.weights.sources import Entry, Source, TensorFile

# As in the safetensors library.
MAX_HEADER_SIZE = 100_000_000
DTYPES = {
    "BOOL": np.dtype("bool"),
    "U8": np.dtype("uint8"),
    "I8": np.dtype("int8"),
    "U16": np.dtype("uint16"),
    "I16": np.dtype("int16"),
    "U32": np.dtype("uint32"),
    "I32": np.dtype("int32"),
    "U64": np.dtype("uint64"),
    "I64": np.dtype("int64"),
    "F16": np.dtype("float16"),
    "F32": np.dtype("float32"),
    "F64": np.dtype("float64"),
    "C64": np.dtype("complex64"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class SafetensorsFile(Source):
    """The tensors of one `.safetensors` file.

    Args:
        path: the file.

    Attributes:
        metadata: the `__metadata__` of the header, a dict of str.

    Raises:
        OSError: the file cannot be opened.
        CheckpointError: it is not a safetensors file, or is damaged.
    """

    def __init__(self, path):
        super().__init__(Path(path))
        self._file = TensorFile(path)
        try:
            header, start = _read_header(self._file)
            self.metadata = header.pop("__metadata__", {})
            if not _is_metadata(self.metadata):
                raise ValueError("expected __metadata__ to be an object of strings")
            entries = [(name, _parse_entry(name, fields)) for name, fields in header.items()]
            entries.sort(key=lambda item: (item[1].offset, item[1].offset + item[1].size))
            _check_places(entries, self._file.size - start)
        except CheckpointError:
            self.close()
            raise
        except ValueError as error:
            self.close()
            raise CheckpointError(f"damaged header: {error}", path) from error
        for name, entry in entries:
            entry.offset += start
            self._entries[name] = entry

    def _read(self, name, entry):
        self.dtype(name)  # refuses those that numpy lacks
        return self._file.read_array(name, entry)

    def view(self, name):
        dtype, entry = self.dtype(name), self._entry(name)
        # Booleans are checked while they are copied; an empty file part cannot be mapped.
        if dtype == np.bool_ or not entry.size:
            return self[name]
        return self._file.view_array(name, entry)

    def close(self):
        self._file.close()


def _read_header(file):
    if file.size < 8:
        raise ValueError(f"expected at least 8 bytes, found {file.size}")
    size = int.from_bytes(file.read(0, 8), "little")
    if size > min(MAX_HEADER_SIZE, file.size - 8):
        raise ValueError(f"expected a header within {file.size} bytes, found a length of {size}")
    try:
        header = json.loads(file.read(8, size).decode(), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError(f"expected a JSON object, found {type(header).__name__}")
    return header, 8 + size


def _unique(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name comes twice")
    return result


def _is_metadata(value):
    return isinstance(value, dict) and all(
        isinstance(text, str) for pair in value.items() for text in pair
    )


def _parse_entry(name, fields):
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= set(fields):
        raise ValueError(f"tensor {name!r}: expected dtype, shape and data_offsets")
    dtype, shape, place = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or not _are_sizes(shape):
        raise ValueError(f"tensor {name!r}: dtype {dtype!r} or shape {shape!r} is impossible")
    if not _are_sizes(place) or len(place) != 2 or place[0] > place[1]:
        raise ValueError(f"tensor {name!r}: data_offsets {place!r} are impossible")
    entry = Entry(DTYPES.get(dtype, dtype), tuple(shape), place[0], place[1] - place[0])
    if entry.size_error():
        raise ValueError(f"tensor {name!r}: {entry.size_error()}")
    return entry


def _are_sizes(values):
    # type(), since JSON's true is an int too.
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_places(entries, size):
    end = 0
    for name, entry in entries:
        if entry.offset != end:
            message = f"expected its data at {end}, after those before, found {entry.offset}"
            raise ValueError(f"tensor {name!r}: {message}")
        end += entry.size
    if end != size:
        raise ValueError(f"expected {end} bytes of data, found {size}")


def write_safetensors(path, tensors, metadata=None, max_shard_size=None):
    """Write tensors to a `.safetensors` file, or several, one tensor in memory at a time.

    Files are put in place together at the end; those that an earlier save under the
    same name left behind, in another number of shards, are removed.

    Args:
        path: the file, e.g. 'x/model.safetensors'.
        tensors: a list of (name, shape, dtype, read), where `read()` returns the array.
        metadata: a dict of str for the header; {'format': 'pt'} by default, which
            Hugging Face's loaders ask for.
        max_shard_size: the size, in bytes or as '5GB', above which the tensors are
            spread over 'x/model-00001-of-0000N.safetensors' and
            'x/model.safetensors.index.json' is written, as Hugging Face does.

    Returns:
        The path of the file, or of the index if there are several.

    Raises:
        CheckpointError: a name comes twice, a dtype is not in the format, or `read()`
            returned something else than declared. Nothing is left behind.
    """
    path = Path(path)
    metadata = {"format": "pt"} if metadata is None else metadata
    if not path.name.endswith(".safetensors"):
        raise CheckpointError("expected a name that ends with .safetensors", path)
    if not _is_metadata(metadata):
        raise CheckpointError(f"expected metadata to be a dict of str, found {metadata!r}", path)
    planned = _plan(path, tensors)
    shards = split_shards(planned, parse_size(max_shard_size))
    names = _shard_names(path.name.removesuffix(".safetensors"), len(shards))
    index_path = path.with_name(path.name + ".index.json")
    with atomic_group() as group:
        for name, shard in zip(names, shards, strict=True):
            _write_file(group.add(path.with_name(name)), path, shard, metadata)
        if len(shards) > 1:
            temporary = group.add(index_path, is_index=True)
            temporary.write_text(_index_text(names, shards), encoding="utf-8")
        group.remove_after(_stale_files(path, names))
    return index_path if len(shards) > 1 else path


def _plan(path, tensors):
    """(name, entry, read) of each tensor, checked."""
    planned = {}
    for name, shape, dtype, read in tensors:
        dtype = np.dtype(dtype).newbyteorder("=")
        if not isinstance(name, str) or name == "__metadata__" or name in planned:
            raise CheckpointError("expected unique names of type str", path, name)
        if dtype not in NAMES:
            raise CheckpointError(f"safetensors has no dtype {dtype}", path, name)
        shape = tuple(int(n) for n in shape)
        planned[name] = Entry(dtype, shape, size=math.prod(shape) * dtype.itemsize, read=read)
    return list(planned.items())


def split_shards(tensors, max_size):
    """Split (name, entry) pairs, in their order, into lists of at most `max_size` bytes."""
    shards, used = [[]], 0
    for name, entry in tensors:
        if max_size is not None and shards[-1] and used + entry.size > max_size:
            shards.append([])
            used = 0
        shards[-1].append((name, entry))
        used += entry.size
    return shards


def parse_size(size):
    """A number of bytes from an int or a str such as '5GB' or '500MiB'; None stays None.

    Raises:
        CheckpointError: it is neither, or not above 0.
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B\s*", size, re.IGNORECASE)
        if match:
            base = 1024 if match[3] else 1000
            size = int(float(match[1]) * base ** "_KMGT".index(match[2].upper() or "_"))
    if size is not None and (type(size) is not int or size <= 0):
        raise CheckpointError(f"expected a size such as 5000000 or '5GB', found {size!r}")
    return size


def _shard_names(stem, count):
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def _index_text(names, shards):
    total = sum(entry.size for shard in shards for _, entry in shard)
    pairs = zip(names, shards, strict=True)
    weight_map = {tensor: name for name, shard in pairs for tensor, _ in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _stale_files(path, names):
    stem = re.escape(path.name.removesuffix(".safetensors"))
    pattern = rf"{stem}(-\d{{5}}-of-\d{{5}})?\.safetensors(\.index\.json)?"
    index = {path.name + ".index.json"} if len(names) > 1 else set()
    return [
        old
        for old in path.parent.iterdir()
        if re.fullmatch(pattern, old.name) and old.name not in index.union(names)
    ]


def _write_file(temporary, path, tensors, metadata):
    # Wide dtypes first: every tensor then starts at a multiple of its item size.
    tensors = sorted(tensors, key=lambda item: -item[1].dtype.itemsize)
    header, offset = {"__metadata__": metadata} if metadata else {}, 0
    for name, entry in tensors:
        place = [offset, offset + entry.size]
        dtype = NAMES[entry.dtype]
        header[name] = {"dtype": dtype, "shape": list(entry.shape), "data_offsets": place}
        offset += entry.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entry in tensors:
            array = np.asarray(entry.read(), order="C")
            found = (array.dtype.newbyteorder("="), array.shape)
            if found != (entry.dtype, entry.shape):
                message = f"expected {entry.dtype} {entry.shape}, found {found[0]} {found[1]}"
                raise CheckpointError(message, path, name)
            file.write(array.astype(entry.dtype, copy=False).reshape(-1).view(np.uint8))
