"""TensorFlow checkpoints, written without TensorFlow; the format is told in `tensorflow.py`."""

from pathlib import Path

import google_crc32c
import numpy as np

from bert4keras3.weights.atomic import atomic_group
from bert4keras3.weights.errors import CheckpointError
from bert4keras3.weights.tensorflow import (
    FOOTER_SIZE,
    MAGIC,
    MAX_KEY_SIZE,
    NUMBERS,
    data_path,
    index_path,
    mask,
)


def write_tensorflow_checkpoint(prefix, tensors):
    """Write a TensorFlow checkpoint, one tensor in memory at a time.

    It makes `prefix.data-00000-of-00001`, `prefix.index` and, beside them, the
    `checkpoint` file that names the newest checkpoint of the folder. They are put in
    place at the end, all of them.

    Args:
        prefix: the path without the suffixes, e.g. 'x/bert_model.ckpt'.
        tensors: an iterable of (name, array) pairs, consumed one at a time.

    Returns:
        The prefix as a `pathlib.Path`.

    Raises:
        CheckpointError: a name comes twice or is not possible, or a dtype is unknown to
            TensorFlow. Nothing is left behind.
    """
    prefix = Path(prefix)
    with atomic_group() as group:
        data = group.add(data_path(prefix, 0, 1))
        index = group.add(index_path(prefix), is_index=True)
        state = group.add(prefix.with_name("checkpoint"))
        # Header: one shard; little-endian is the default; version, of producer 1.
        entries = {b"": b"\x08\x01\x1a\x02\x08\x01"}
        with open(data, "wb") as file:
            for name, array in tensors:
                key = _check_name(prefix, name, entries)
                entries[key] = _append(prefix, name, np.asarray(array, order="C"), file)
        index.write_bytes(build_table(sorted(entries.items())))
        state.write_bytes(_state_text(prefix.name))
    return prefix


def _check_name(prefix, name, entries):
    try:
        key = name.encode()
    except (AttributeError, UnicodeEncodeError):
        key = b""
    if not 0 < len(key) <= MAX_KEY_SIZE or key[0] == 0:
        message = f"expected a name of 1 to {MAX_KEY_SIZE} bytes of UTF-8, not starting with NUL"
        raise CheckpointError(message, prefix, name)
    if key in entries:
        raise CheckpointError("expected each name once, found it twice", prefix, name)
    return key


def _append(prefix, name, array, file):
    """Append an array to the data file; returns its serialized BundleEntryProto."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype not in NUMBERS:
        raise CheckpointError(f"TensorFlow has no dtype {array.dtype}", prefix, name)
    raw = array.reshape(-1).view(np.uint8)
    offset = file.tell()
    file.write(raw)
    dims = b"".join(_bytes_field(2, b"\x08" + varint(n)) for n in array.shape)
    checksum = mask(google_crc32c.value(raw)).to_bytes(4, "little")
    return b"".join(
        [
            b"\x08" + varint(NUMBERS[array.dtype]),
            _bytes_field(2, dims),
            b"\x20" + varint(offset),
            b"\x28" + varint(len(raw)),
            b"\x35" + checksum,
        ]
    )


def build_table(pairs):
    """A LevelDB table of (key, value) pairs, sorted by key: one block, without prefixes."""
    table = bytearray()

    def add_block(pairs):
        offset, block = len(table), bytearray()
        for key, value in pairs:
            block += b"\0" + varint(len(key)) + varint(len(value)) + key + value
        # One restart point, at 0, although 16 entries apart is usual: readers only
        # search from the nearest one. Then the number of them and the compression, none.
        block += bytes(4) + b"\1\0\0\0" + b"\0"
        table.extend(block + mask(google_crc32c.value(bytes(block))).to_bytes(4, "little"))
        return varint(offset) + varint(len(block) - 1)

    data = add_block(pairs)
    metaindex = add_block([])
    index = add_block([(pairs[-1][0], data)])
    return bytes(table) + (metaindex + index).ljust(FOOTER_SIZE - len(MAGIC), b"\0") + MAGIC


def _bytes_field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(number):
    """A number from 0 up as protocol buffers and LevelDB store it."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(data) + bytes([number])


def _state_text(name):
    quoted = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in name.encode()
    )
    return (f'model_checkpoint_path: "{quoted}"\nall_model_checkpoint_paths: "{quoted}"\n').encode()
