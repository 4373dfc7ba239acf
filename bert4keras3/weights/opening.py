"""Opening checkpoints of any kind, by what is there."""

import json
from collections.abc import Mapping
from pathlib import Path

from bert4keras3.weights.errors import CheckpointError
from bert4keras3.weights.safetensors import SafetensorsFile
from bert4keras3.weights.sources import DictSource, Source
from bert4keras3.weights.tensorflow import TensorFlowCheckpoint
from bert4keras3.weights.torch import TorchFile

# What a folder in Hugging Face form may hold, the preferred first.
_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SHARD_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def open_source(path):
    """Open a checkpoint of any known kind, by what is there.

    Args:
        path: a dict of arrays or an open `Source`; a `.safetensors`, `.bin`, `.pt` or
            `.pth` file; a `*.index.json` of shards; a TensorFlow prefix
            ('x/bert_model.ckpt') or its `.index`; or a folder that holds one of them
            under its usual name: safetensors is preferred, then PyTorch, then
            TensorFlow.

    Returns:
        A `Source`.

    Raises:
        FileNotFoundError: nothing is there; the message lists what was looked for.
        CheckpointError: the file is damaged, or of another kind.
    """
    if isinstance(path, Source):
        return path
    if isinstance(path, Mapping):
        return DictSource(path)
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_file(path)
    return _open_tensorflow(path)


def _open_folder(path):
    for name in _FOLDER_FILES:
        if (path / name).is_file():
            return _open_file(path / name)
    try:
        return _open_tensorflow(path)
    except FileNotFoundError as error:
        names = ", ".join(_FOLDER_FILES)
        if list(path.glob("*.gguf")):
            names += "; GGUF files are not read"
        raise FileNotFoundError(f"{error}; nor is there one of {names}") from None


def _open_file(path):
    if path.name.endswith(".index.json"):
        return ShardedSource(path)
    if path.suffix in _SHARD_SUFFIXES:
        return _open_shard(path)
    if path.suffix in (".h5", ".hdf5", ".keras"):
        raise CheckpointError("a Keras file is not read by open_source", path)
    return _open_tensorflow(path)


def _open_shard(path):
    if path.suffix not in _SHARD_SUFFIXES:
        raise CheckpointError(f"expected a file named {', '.join(_SHARD_SUFFIXES)}", path)
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    return TorchFile(path)


def _open_tensorflow(path):
    return TensorFlowCheckpoint(path)


class ShardedSource(Source):
    """Tensors spread over several files by a Hugging Face `*.index.json`.

    Args:
        path: the index: JSON with a `weight_map` from tensor names to file names,
            which are safetensors or PyTorch files.

    Raises:
        FileNotFoundError: there is no index.
        CheckpointError: the index is not as described, a file that it names is
            missing or cannot be read, or lacks a tensor that it promises.
    """

    def __init__(self, path):
        super().__init__(Path(path))
        self._shards = {}
        try:
            self._open(read_weight_map(self.path))
        except BaseException:
            self.close()
            raise

    def _open(self, weight_map):
        for shard_name in dict.fromkeys(weight_map.values()):
            try:
                shard = _open_shard(self.path.with_name(shard_name))
            except OSError as error:
                message = f"cannot open shard {shard_name}: {error}"
                raise CheckpointError(message, self.path) from error
            self._shards[shard_name] = shard
            # What a shard holds beyond the map belongs to nobody: the map decides.
            for name in shard:
                if weight_map.get(name) == shard_name:
                    self._entries[name] = shard_name
        for name, shard_name in weight_map.items():
            if name not in self._entries:
                raise CheckpointError(f"shard {shard_name} lacks it", self.path, name)

    def shape(self, name):
        return self._shards[self._entry(name)].shape(name)

    def dtype(self, name):
        return self._shards[self._entry(name)].dtype(name)

    def _read(self, name, entry):
        return self._shards[entry][name]

    def view(self, name):
        return self._shards[self._entry(name)].view(name)

    def close(self):
        for shard in self._shards.values():
            shard.close()


def read_weight_map(path):
    """The `weight_map` of a Hugging Face index, checked.

    Args:
        path: the `*.index.json` file.

    Returns:
        A dict from tensor names to file names in the same folder.

    Raises:
        CheckpointError: the file is not such an index.
    """
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        pairs = list(weight_map.items())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = f"expected JSON with an object 'weight_map', found: {error!r}"
        raise CheckpointError(message, path) from error
    for name, file_name in pairs:
        # A file elsewhere ('../x') is no part of this checkpoint.
        plain = isinstance(file_name, str) and Path(file_name).name == file_name
        if not plain or file_name in ("", "..") or "\0" in file_name:
            raise CheckpointError(f"expected a plain file name, found {file_name!r}", path, name)
    return weight_map
