"""TensorFlow checkpoints, read without TensorFlow.

A checkpoint with prefix `x` is an index `x.index` and data files
`x.data-00000-of-00001`, ... The data files hold the bytes of the tensors, little-endian,
one after the other. The index is a LevelDB table (google/leveldb, doc/table_format.md),
a sorted list of (key, value) pairs of bytes:

    block ...          entries, then a trailer: compression byte, checksum
    footer             48 bytes: handles of the metaindex and index blocks, magic number

A handle is an (offset, size) pair of varints. The index block maps the last key of each
data block to its handle. A block is a list of entries and, for binary search, which
reading everything does not need, the offsets of some of them and their number. An entry is
three varints (bytes shared with the key before, further bytes of the key, bytes of the
value), the further bytes of the key and the value.

The value under the empty key, the first, is a `BundleHeaderProto`, the others are
`BundleEntryProto`s under the names of the tensors: see
tensorflow/core/protobuf/tensor_bundle.proto. A partitioned variable has an entry that
lists its slices; the entries of these have keys made as in
tensorflow/core/util/saved_tensor_slice_util.cc. Checksums are CRC-32C, "masked" by a
rotation and a sum.
"""

import math
import re
from pathlib import Path

import google_crc32c
import ml_dtypes
import numpy as np

from bert4keras3.weights.errors import CheckpointError
from bert4keras3.weights.sources import Entry, Source, TensorFile, empty_array

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER_SIZE = 48
TRAILER_SIZE = 5
# Far above any real checkpoint; they bound what a crafted index can make us hold.
MAX_INDEX_SIZE = 1 << 28
MAX_KEY_SIZE = 1 << 12
# The numbers of tensorflow/core/framework/types.proto.
DTYPES = {
    1: np.dtype("float32"),
    2: np.dtype("float64"),
    3: np.dtype("int32"),
    4: np.dtype("uint8"),
    5: np.dtype("int16"),
    6: np.dtype("int8"),
    7: np.dtype("object"),
    8: np.dtype("complex64"),
    9: np.dtype("int64"),
    10: np.dtype("bool"),
    14: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype("uint16"),
    18: np.dtype("complex128"),
    19: np.dtype("float16"),
    22: np.dtype("uint32"),
    23: np.dtype("uint64"),
    24: np.dtype(ml_dtypes.float8_e5m2),
    25: np.dtype(ml_dtypes.float8_e4m3fn),
}
NUMBERS = {dtype: number for number, dtype in DTYPES.items() if not dtype.hasobject}


class TensorFlowCheckpoint(Source):
    """The variables of a TensorFlow checkpoint (format V2), by name.

    Partitioned variables come out whole. Strings (the object graph of TF 2) are listed,
    with dtype object, but cannot be read. Every checksum is verified.

    Args:
        path: the prefix ('x/bert_model.ckpt'), its `.index` file, or a folder with a
            `checkpoint` state file or a single `.index`.

    Raises:
        FileNotFoundError: there is no checkpoint; the message says what was looked for.
        CheckpointError: it is damaged, incomplete, or of a kind that is not supported
            (format V1, big-endian, compressed).
    """

    def __init__(self, path):
        prefix = find_prefix(Path(path))
        super().__init__(prefix)
        self._index_path = index_path(prefix)
        self._files = {}
        try:
            self._open()
        except CheckpointError:
            self.close()
            raise
        except ValueError as error:
            self.close()
            raise CheckpointError(f"damaged index: {error}", self._index_path) from error

    def _open(self):
        pairs = read_table(_read_index(self._index_path))
        key, value = next(pairs, (None, b""))
        if key != b"":
            raise ValueError("expected a header under the empty key, found none")
        shard_count = _parse_header(value)
        parts = {}
        for key, value in pairs:
            entry = _parse_entry(value)
            if key[0] == 0:
                # Slices sort before the variables that they are part of.
                parts[key] = self._locate(repr(key), entry, shard_count)
            elif entry.slices:
                self._entries[key.decode()] = self._join(key, entry, parts)
            else:
                self._entries[key.decode()] = self._locate(key.decode(), entry, shard_count)
        # The index is sorted by name; the data may be in another order.
        place = {name: (e.shard, e.offset) for name, e in self._entries.items()}
        self._entries = {name: self._entries[name] for name in sorted(place, key=place.get)}

    def _locate(self, name, entry, shard_count):
        """Set `entry.file`, the data file, and check that the tensor lies in it."""
        if entry.shard >= shard_count:
            message = f"expected a shard number below {shard_count}, found {entry.shard}"
            raise CheckpointError(message, self._index_path, name)
        entry.file = file = self._data_file(entry.shard, shard_count)
        if entry.offset + entry.size > file.size:
            message = f"expected {entry.size} bytes at {entry.offset}, the file has {file.size}"
            raise CheckpointError(message, file.path, name)
        if entry.size_error():
            raise CheckpointError(entry.size_error(), self._index_path, name)
        return entry

    def _join(self, key, entry, parts):
        """Set `entry.parts`, (region, entry) pairs, and check that they tile the variable."""
        name = key.decode()
        entry.parts = []
        for extents in entry.slices:
            region = _region(extents, entry.shape)
            shape = tuple(r.stop - r.start for r in region)
            part = parts.get(slice_key(key, extents))
            if part is None or (part.dtype, part.shape) != (entry.dtype, shape):
                found = "none" if part is None else f"{part.dtype} {part.shape}"
                message = f"expected a slice {entry.dtype} {shape} at {extents}, found {found}"
                raise CheckpointError(message, self._index_path, name)
            entry.parts.append((region, part))
        if not _tiles([region for region, _ in entry.parts], entry.shape):
            message = f"its {len(entry.parts)} slices do not tile shape {entry.shape}"
            raise CheckpointError(message, self._index_path, name)
        entry.shard, entry.offset = entry.parts[0][1].shard, entry.parts[0][1].offset
        return entry

    def _data_file(self, shard, shard_count):
        if shard not in self._files:
            path = data_path(self.path, shard, shard_count)
            try:
                self._files[shard] = TensorFile(path)
            except OSError as error:
                raise CheckpointError(f"cannot open the data file: {error}", path) from error
        return self._files[shard]

    def _read(self, name, entry):
        if self.dtype(name).hasobject:
            raise CheckpointError("expected numbers, found strings", self._index_path, name)
        if not entry.slices:
            return self._read_part(name, entry)
        whole = empty_array(entry.shape, entry.dtype)
        for region, part in entry.parts:
            whole[region] = self._read_part(name, part)
        return whole

    def _read_part(self, name, entry):
        array, checksum = entry.file.read_array(name, entry, google_crc32c.extend)
        if mask(checksum) != entry.checksum:
            message = f"expected checksum {entry.checksum:#x}, found {mask(checksum):#x}"
            raise CheckpointError(message, entry.file.path, name)
        return array

    def close(self):
        for file in self._files.values():
            file.close()


def find_prefix(path):
    """The prefix of the checkpoint at a prefix, one of its files, or a folder.

    Raises:
        FileNotFoundError, CheckpointError: as for `TensorFlowCheckpoint`.
    """
    if path.is_dir():
        return _find_in_folder(path)
    prefix = Path(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", str(path)))
    if index_path(prefix).is_file():
        return prefix
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: looked for it and {index_path(prefix)}")
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - len(MAGIC)))
        is_table = file.read() == MAGIC
    found = "the one-file format V1 of old TensorFlow" if is_table else "an unknown format"
    raise CheckpointError(f"expected a checkpoint with {index_path(prefix)}, found {found}", path)


def _find_in_folder(folder):
    state = folder / "checkpoint"
    text = state.read_bytes() if state.is_file() else b""
    match = re.search(rb'^\s*model_checkpoint_path:\s*"((?:[^"\\]|\\.)+)"', text, re.MULTILINE)
    named = folder / _unescape(match[1]).decode(errors="replace") if match else Path()
    if named.name:
        # The folder may have been moved since an absolute path was written.
        for prefix in (named, folder / named.name):
            if index_path(prefix).is_file() or prefix.is_file():
                return find_prefix(prefix)
    indexes = sorted(folder.glob("*.index"))
    if len(indexes) == 1:
        return find_prefix(indexes[0])
    raise FileNotFoundError(
        f"no TensorFlow checkpoint in {folder}: looked for a file 'checkpoint' that names one, "
        f"and for a single *.index, found {len(indexes)}"
    )


def _unescape(text):
    def replace(match):
        code = match[1]
        return bytes([int(code, 8) & 255]) if code.isdigit() else code

    return re.sub(rb"\\([0-7]{1,3}|.)", replace, text)


def index_path(prefix):
    """The index file of a checkpoint."""
    return prefix.with_name(prefix.name + ".index")


def data_path(prefix, shard, shard_count):
    """A data file of a checkpoint."""
    return prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{shard_count:05}")


def _read_index(path):
    size = path.stat().st_size
    if not FOOTER_SIZE <= size <= MAX_INDEX_SIZE:
        raise ValueError(f"expected {FOOTER_SIZE} to {MAX_INDEX_SIZE} bytes, found {size}")
    return path.read_bytes()


def read_table(data):
    """Yield the (key, value) pairs of a LevelDB table, whose keys ascend.

    Raises:
        ValueError: the table is damaged or compressed.
    """
    body, footer = data[:-FOOTER_SIZE], data[-FOOTER_SIZE:]
    if footer[-len(MAGIC) :] != MAGIC:
        raise ValueError("expected the magic number of a LevelDB table at the end, found none")
    position = _read_handle(footer, 0)[-1]  # past the metaindex
    offset, size, _ = _read_handle(footer, position)
    last, end = None, 0
    for _, handle in _read_block(body, offset, size):
        offset, size, _ = _read_handle(handle, 0)
        if offset < end:
            raise ValueError(f"expected a block after {end}, found it at {offset}")
        end = offset + size
        for key, value in _read_block(body, offset, size):
            if last is not None and key <= last:
                raise ValueError(f"expected ascending keys, found {key!r} after {last!r}")
            last = key
            yield key, value


def _read_block(data, offset, size):
    end = offset + size
    if size < 4 or end + TRAILER_SIZE > len(data):
        raise ValueError(f"a block of {size} bytes at {offset} does not fit into the file")
    found = mask(google_crc32c.value(data[offset : end + 1]))
    expected = int.from_bytes(data[end + 1 : end + TRAILER_SIZE], "little")
    if found != expected:
        raise ValueError(f"expected block checksum {expected:#x} at {offset}, found {found:#x}")
    if data[end] != 0:
        raise ValueError(f"expected plain blocks, found compression {data[end]} (1 is snappy)")
    restarts = int.from_bytes(data[end - 4 : end], "little")
    entries = data[offset : max(offset, end - 4 - 4 * restarts)]
    position, key = 0, b""
    while position < len(entries):
        shared, position = read_varint(entries, position)
        unshared, position = read_varint(entries, position)
        length, position = read_varint(entries, position)
        middle, stop = position + unshared, position + unshared + length
        if shared > len(key) or shared + unshared > MAX_KEY_SIZE or stop > len(entries):
            raise ValueError(f"an entry at {offset + position} has impossible lengths")
        key = key[:shared] + entries[position:middle]
        yield key, entries[middle:stop]
        position = stop


def _read_handle(data, position):
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return offset, size, position


def read_varint(data, position):
    """A number stored seven bits a byte, the lowest first, and the position after it."""
    number = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            raise ValueError("a number runs off the end")
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80 and number < 1 << 64:
            return number, position
    raise ValueError("a number has more than 64 bits")


def parse_message(data):
    """The fields of a protocol buffer message: a dict from numbers to lists of values."""
    if not isinstance(data, bytes):
        raise ValueError("expected a message, found a number")
    fields, position = {}, 0
    while position < len(data):
        tag, position = read_varint(data, position)
        if tag & 7 == 0:
            value, position = read_varint(data, position)
        else:
            size = {1: 8, 5: 4}.get(tag & 7)
            if tag & 7 == 2:
                size, position = read_varint(data, position)
            if size is None or position + size > len(data):
                raise ValueError(f"a field of wire type {tag & 7} runs off the end")
            value, position = data[position : position + size], position + size
            if tag & 7 != 2:
                value = int.from_bytes(value, "little")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(fields, key, default=0):
    value = fields.get(key, [default])[-1]
    if isinstance(value, bytes):
        raise ValueError("expected a number, found a message")
    # Negative numbers are stored as if they were unsigned, of 64 bits.
    return value - (1 << 64) if value >> 63 else value


def _parse_header(data):
    fields = parse_message(data)
    if _number(fields, 2) != 0:
        raise ValueError("expected little-endian data, found big-endian")
    return _number(fields, 1)


def _parse_entry(data):
    fields = parse_message(data)
    dtype = _number(fields, 1)
    shapes = [parse_message(shape) for shape in fields.get(2, [])]
    slices = [parse_message(one) for one in fields.get(7, [])]
    entry = Entry(
        DTYPES.get(dtype, f"number {dtype} of TensorFlow"),
        tuple(_number(parse_message(dim), 1) for shape in shapes for dim in shape.get(2, [])),
        offset=_number(fields, 4),
        size=_number(fields, 5),
        shard=_number(fields, 3),
        checksum=_number(fields, 6),
        slices=[[_parse_extent(extent) for extent in one.get(1, [])] for one in slices],
    )
    if min(entry.offset, entry.size, entry.shard, *entry.shape) < 0:
        raise ValueError(f"expected sizes and places from 0 up, found {vars(entry)}")
    return entry


def _parse_extent(data):
    fields = parse_message(data)
    return _number(fields, 1), _number(fields, 2, default=-1)


def slice_key(name, extents):
    """The key of the slice of a variable: codes that sort as what they encode does.

    Args:
        name: the name of the variable, as bytes.
        extents: a (start, length) pair for each dimension; length -1 is all of it.
    """
    rank = bytes([1, len(extents)]) if extents else b"\0"
    escaped = re.sub(rb"[\0\xff]", lambda m: m[0] + (b"\xff" if m[0] == b"\0" else b"\0"), name)
    numbers = b"".join(_ordered_code(n) for extent in extents for n in extent)
    return b"\0" + escaped + b"\0\1" + rank + numbers


def _ordered_code(number):
    # n bytes hold 7n - 1 bits and the sign; n high bits, inverted by the sign, tell n.
    count = (~number if number < 0 else number).bit_length() // 7 + 1
    header = ((1 << count) - 1) << 7 * count
    return ((number % (1 << 8 * count)) ^ header).to_bytes(count, "big")


def _region(extents, shape):
    region = tuple(
        slice(0, n) if length < 0 else slice(start, start + length)
        for (start, length), n in zip(extents, shape, strict=False)
    )
    fits = all(0 <= r.start <= r.stop <= n for r, n in zip(region, shape, strict=False))
    if len(extents) != len(shape) or not fits:
        raise ValueError(f"expected a slice of shape {shape}, found (start, length) {extents}")
    return region


def _tiles(regions, shape):
    """Whether the regions cover every element of the shape exactly once."""
    bounds = np.array([[(r.start, r.stop) for r in region] for region in regions], np.int64)
    starts, stops = np.moveaxis(bounds.reshape(len(regions), len(shape), 2), -1, 0)
    for start, stop in zip(starts, stops, strict=True):
        if ((starts < stop) & (stops > start)).all(axis=1).sum() > 1:
            return False
    volumes = (math.prod(r.stop - r.start for r in region) for region in regions)
    return sum(volumes) == math.prod(shape)


def mask(checksum):
    """A CRC-32C as the files store it: rotated and added to, lest data hold their own."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
