"""Reading and writing of tensor files: TensorFlow, safetensors, PyTorch."""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import google_crc32c
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert4keras3.weights import tensorflow as tf_format
from bert4keras3.weights import tensorflow_writing
from bert4keras3.weights.atomic import atomic_group, atomic_path
from bert4keras3.weights.errors import CheckpointError, MissingTensorError
from bert4keras3.weights.opening import ShardedSource, open_source
from bert4keras3.weights.safetensors import SafetensorsFile, parse_size, write_safetensors
from bert4keras3.weights.sources import DictSource, TensorFile
from bert4keras3.weights.table import Tensor
from bert4keras3.weights.tensorflow import TensorFlowCheckpoint
from bert4keras3.weights.tensorflow_writing import write_tensorflow_checkpoint
from bert4keras3.weights.torch import TorchFile

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT.parent / "shared" / "golden" / "tf"
CASES = sorted(path.name for path in GOLDEN.glob("*/")) if GOLDEN.is_dir() else []
BF16 = np.dtype(ml_dtypes.bfloat16)
quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sample_arrays():
    """Arrays of every dtype that all formats share, and of awkward shapes."""
    rng = np.random.default_rng(0)
    arrays = {
        f"layer/{np.dtype(dtype).name}": rng.integers(0, 100, (3, 5)).astype(dtype)
        for dtype in "f4 f8 f2 i1 i2 i4 i8 u1 u2 u4 u8".split()
    }
    arrays["layer/bool"] = rng.integers(0, 2, (7,)).astype(bool)
    arrays["layer/bfloat16"] = rng.normal(size=(4, 3)).astype(BF16)
    arrays["scalar"] = np.array(3.5, np.float32)
    arrays["empty"] = np.zeros((0, 4), np.float32)
    arrays["transposed"] = rng.normal(size=(6, 2)).T
    arrays["large"] = rng.normal(size=(300, 1000)).astype("f4")
    arrays["名字/ÿ"] = np.arange(3)
    return arrays


def assert_same(array, expected):
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    assert array.tobytes() == np.asarray(expected, order="C").tobytes()


def assert_holds(source, expected):
    """The source has these arrays, and its arrays are the caller's."""
    assert set(source) == set(expected)
    assert len(source) == len(expected)
    for name, array in expected.items():
        assert name in source
        assert source.shape(name) == array.shape
        assert source.dtype(name) == array.dtype
        read = source[name]
        assert_same(read, array)
        assert read.flags.writeable and read.flags.c_contiguous
        assert read.ctypes.data % 64 == 0 or not read.size
        read[...] = 0
        assert_same(source[name], array)


def entries_of(arrays):
    return [(name, a.shape, a.dtype, lambda a=a: a) for name, a in arrays.items()]


def read_all(path):
    with open_source(path) as source:
        return {name: source[name] for name in source}


def mutations(data):
    """A strategy: the bytes with some changed, or cut off, or added."""
    places = st.tuples(st.integers(0, len(data) - 1), st.integers(1, 255))

    def change(flips):
        changed = bytearray(data)
        for place, bits in flips:
            changed[place] ^= bits
        return bytes(changed)

    return st.one_of(
        st.lists(places, min_size=1, max_size=3, unique_by=lambda p: p[0]).map(change),
        st.integers(0, len(data) - 1).map(lambda n: data[:n]),
        st.binary(min_size=1, max_size=9).map(lambda more: data + more),
    )


# --- TensorFlow, against itself ---------------------------------------------------------

TENSORFLOW_SCRIPT = r"""
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saver_pb2

folder, golden = Path(sys.argv[1]), Path(sys.argv[2])
v1 = tf.compat.v1
inputs = np.load(folder / "inputs.npz")
arrays = {n: inputs[n] for n in inputs.files}
bits = arrays.pop("layer/bfloat16")
tensors = {n: tf.constant(a) for n, a in arrays.items()}
tensors["layer/bfloat16"] = tf.bitcast(tf.constant(bits), tf.bfloat16)


def numpy_of(array):
    array = np.asarray(array)
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def save(prefix, pairs):
    names, slices, values = zip(*pairs)
    tf.raw_ops.SaveV2(
        prefix=str(folder / prefix), tensor_names=names, shape_and_slices=slices, tensors=values
    )


# Every dtype, eagerly.
save("dtypes.ckpt", [(n, "", t) for n, t in tensors.items()])
# Slices along two axes, of a variable that is negative nowhere but long: codes of 2 bytes.
grid = np.arange(300 * 20, dtype="f4").reshape(300, 20)
np.save(folder / "grid.npy", grid)
rows, columns = [(0, 100), (100, 150), (250, 50)], [(0, 7), (7, 13)]
save("grid.ckpt", [
    ("a/grid\xff\x00b", f"300 20 {r},{m}:{c},{n}", tf.constant(grid[r : r + m, c : c + n]))
    for r, m in rows for c, n in columns
])
# What a sharded saver does: parts are written apart and merged.
for i in range(3):
    save(f"part{i}", [(f"v{i}", "", tf.fill([4, i + 1], float(i)))])
tf.raw_ops.MergeV2Checkpoints(
    checkpoint_prefixes=[str(folder / f"part{i}") for i in range(3)],
    destination_prefix=str(folder / "merged.ckpt"),
)
# The object graph of TF 2.
tf.train.Checkpoint(w=tf.Variable(grid)).write(str(folder / "tf2.ckpt"))
# The old graph mode, with partitioned variables, two devices and shards.
with tf.Graph().as_default():
    parts = v1.fixed_size_partitioner(3)
    with tf.device("/cpu:0"):

        def cut(shape, dtype, partition_info):
            start = partition_info.var_offset[0]
            return tf.constant(grid[start : start + shape[0]])

        v1.get_variable("p", grid.shape, initializer=cut, partitioner=parts)
    with tf.device("/cpu:1"):
        v1.get_variable("q", initializer=grid[0])
    config = v1.ConfigProto(device_count={"CPU": 2})
    with v1.Session(config=config) as session:
        session.run(v1.global_variables_initializer())
        (folder / "graph").mkdir()
        v1.train.Saver(sharded=True).save(session, str(folder / "graph" / "model.ckpt"), 7)
        (folder / "v1").mkdir()
        old = v1.train.Saver(write_version=saver_pb2.SaverDef.V1)
        old.save(session, str(folder / "v1" / "old.ckpt"))
# The golden files as TensorFlow reads them.
for case in golden.glob("*/bert_model.ckpt.index"):
    reader = tf.train.load_checkpoint(str(case)[: -len(".index")])
    names = reader.get_variable_to_shape_map()
    np.savez(folder / f"golden-{case.parent.name}.npz", **{n: reader.get_tensor(n) for n in names})
# What we wrote.
ours = str(folder / "ours" / "modèl 1.ckpt")
assert tf.train.latest_checkpoint(str(folder / "ours")) == ours
reader = tf.train.load_checkpoint(ours)
names = reader.get_variable_to_shape_map()
assert sorted(names) == sorted(n for n, _ in tf.train.list_variables(ours))
np.savez(folder / "ours.npz", **{n: numpy_of(reader.get_tensor(n)) for n in names})
some = {n: numpy_of(tf.train.load_variable(ours, n)) for n in ("scalar", "layer/bfloat16", "large")}
np.savez(folder / "ours-some.npz", **some)
"""


@pytest.fixture(scope="module")
def tensorflow_files(tmp_path_factory):
    """A folder of checkpoints made by TensorFlow, and of ours as TensorFlow reads them."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs tensorflow")
    folder = tmp_path_factory.mktemp("tensorflow")
    arrays = sample_arrays()
    (folder / "ours").mkdir()
    write_tensorflow_checkpoint(folder / "ours" / "modèl 1.ckpt", arrays.items())
    bits = arrays["layer/bfloat16"].view(np.uint16)
    np.savez(folder / "inputs.npz", **{**arrays, "layer/bfloat16": bits})
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", TENSORFLOW_SCRIPT, str(folder), str(GOLDEN)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_reads_every_dtype_of_tensorflow(tensorflow_files):
    with TensorFlowCheckpoint(tensorflow_files / "dtypes.ckpt") as source:
        assert_holds(source, sample_arrays())


def test_reads_slices_along_two_axes(tensorflow_files):
    with TensorFlowCheckpoint(tensorflow_files / "grid.ckpt.index") as source:
        assert len(source) == 1
        grid = np.load(tensorflow_files / "grid.npy")
        assert_same(source[next(iter(source))], grid)


def test_reads_merged_shards(tensorflow_files):
    assert (tensorflow_files / "merged.ckpt.data-00002-of-00003").is_file()
    with open_source(tensorflow_files / "merged.ckpt") as source:
        assert_holds(source, {f"v{i}": np.full((4, i + 1), i, "f4") for i in range(3)})


def test_reads_the_sharded_saver_with_partitioned_variables(tensorflow_files):
    folder = tensorflow_files / "graph"
    assert len(list(folder.glob("*.data-*-of-00002"))) == 2
    grid = np.load(tensorflow_files / "grid.npy")
    for path in (folder, folder / "model.ckpt-7", folder / "model.ckpt-7.data-00001-of-00002"):
        with open_source(path) as source:
            assert_holds(source, {"p": grid, "q": grid[0]})


def test_lists_but_does_not_read_the_object_graph(tensorflow_files):
    with TensorFlowCheckpoint(tensorflow_files / "tf2.ckpt") as source:
        grid = np.load(tensorflow_files / "grid.npy")
        assert_same(source["w/.ATTRIBUTES/VARIABLE_VALUE"], grid)
        assert source.dtype("_CHECKPOINTABLE_OBJECT_GRAPH") == np.dtype(object)
        with pytest.raises(CheckpointError, match="_OBJECT_GRAPH.*found strings"):
            source["_CHECKPOINTABLE_OBJECT_GRAPH"]


def test_refuses_the_format_v1(tensorflow_files):
    for path in (tensorflow_files / "v1", tensorflow_files / "v1" / "old.ckpt"):
        with pytest.raises(CheckpointError, match="format V1"):
            open_source(path)


def test_tensorflow_reads_what_we_write(tensorflow_files):
    arrays = sample_arrays()
    arrays["layer/bfloat16"] = arrays["layer/bfloat16"].view(np.uint16)
    for file in ("ours.npz", "ours-some.npz"):
        read = np.load(tensorflow_files / file)
        for name in read.files:
            assert_same(read[name], arrays[name])
    assert set(np.load(tensorflow_files / "ours.npz").files) == set(arrays)


@pytest.mark.parametrize("case", CASES)
def test_golden_checkpoint_as_tensorflow_reads_it(case, tensorflow_files):
    expected = np.load(tensorflow_files / f"golden-{case}.npz")
    with open_source(GOLDEN / case) as source:
        assert_holds(source, {name: expected[name] for name in expected.files})


@pytest.mark.parametrize("case", CASES)
def test_golden_checkpoint(case):
    lines = (GOLDEN / case / "ckpt_vars.txt").read_text().splitlines()
    shapes = {name: tuple(json.loads(shape)) for name, shape in (x.split(" ", 1) for x in lines)}
    # The expected weights go by the names of Keras, and some are transposed.
    weights = np.load(GOLDEN / case / "weights.npz")
    with TensorFlowCheckpoint(GOLDEN / case / "bert_model.ckpt") as source:
        assert {name: source.shape(name) for name in source} == shapes
        found = {np.sort(source[name], axis=None).tobytes() for name in source}
    for name in weights.files:
        if "Relative-Position" not in name:  # Nezha computes its own
            assert np.sort(weights[name], axis=None).tobytes() in found


# --- TensorFlow, without it ---------------------------------------------------------------


def test_tensorflow_round_trip(tmp_path):
    prefix = write_tensorflow_checkpoint(tmp_path / "a.ckpt", iter(sample_arrays().items()))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.ckpt.data-00000-of-00001",
        "a.ckpt.index",
        "checkpoint",
    ]
    for path in (prefix, f"{prefix}.index", tmp_path):
        with open_source(path) as source:
            assert list(source) == list(sample_arrays())
            assert_holds(source, sample_arrays())


def test_folder_without_a_usable_state_file(tmp_path):
    write_tensorflow_checkpoint(tmp_path / "a.ckpt", [("x", np.ones(3))])
    state = tmp_path / "checkpoint"
    line = 'model_checkpoint_path: "{}"\n'
    for text in (line.format("/elsewhere/a.ckpt"), line.format("/"), line.format(""), "junk", None):
        state.unlink() if text is None else state.write_text(text)
        assert list(read_all(tmp_path)) == ["x"]
    write_tensorflow_checkpoint(tmp_path / "b.ckpt", [("y", np.ones(3))])
    assert list(read_all(tmp_path)) == ["y"]
    state.unlink()
    with pytest.raises(FileNotFoundError, match="single .*index, found 2"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([("a", np.ones(2)), ("a", np.ones(2))], "'a'.*found it twice"),
        ([("a", np.array(["x"]))], "'a'.*no dtype <U1"),
        ([("", np.ones(2))], "expected a name"),
        ([("\0a", np.ones(2))], "expected a name"),
        ([("\ud800", np.ones(2))], "expected a name"),
        ([(3, np.ones(2))], "expected a name"),
        ([("a" * 5000, np.ones(2))], "expected a name"),
    ],
)
def test_unwritable_tensors_leave_nothing_behind(pairs, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        write_tensorflow_checkpoint(tmp_path / "a.ckpt", pairs)
    assert list(tmp_path.iterdir()) == []


def test_failing_iterable_keeps_the_old_checkpoint(tmp_path):
    def tensors():
        yield "x", np.zeros(3)
        raise KeyboardInterrupt

    write_tensorflow_checkpoint(tmp_path / "a.ckpt", [("x", np.ones(3))])
    with pytest.raises(KeyboardInterrupt):
        write_tensorflow_checkpoint(tmp_path / "a.ckpt", tensors())
    assert_same(read_all(tmp_path)["x"], np.ones(3))
    assert len(list(tmp_path.iterdir())) == 3


def test_foreign_byte_order_is_converted(tmp_path):
    array = np.arange(5, dtype=">f4")
    write_tensorflow_checkpoint(tmp_path / "a.ckpt", [("x", array)])
    write_safetensors(tmp_path / "a.safetensors", [("x", (5,), array.dtype, lambda: array)])
    for path in ("a.ckpt", "a.safetensors"):
        assert_same(read_all(tmp_path / path)["x"], np.arange(5, dtype="f4"))


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory):
    """The expected arrays and the bytes of the index and data of a small checkpoint."""
    prefix = tmp_path_factory.mktemp("small") / "a.ckpt"
    arrays = {
        f"layer_{i}/kernel": np.random.default_rng(i).normal(size=(3, i)).astype("f4")
        for i in range(5)
    }
    arrays["step"] = np.array(7)
    write_tensorflow_checkpoint(prefix, arrays.items())
    return arrays, Path(f"{prefix}.index").read_bytes(), tf_format.data_path(prefix, 0, 1)


def read_bytes_as_tensorflow(folder, index, data):
    (folder / "m.ckpt.index").write_bytes(index)
    (folder / "m.ckpt.data-00000-of-00001").write_bytes(data)
    return read_all(folder / "m.ckpt")


@quick
@given(choice=st.data())
def test_damaged_tensorflow_files_are_detected(choice, small_checkpoint, tmp_path):
    arrays, index, data_file = small_checkpoint
    data = data_file.read_bytes()
    if choice.draw(st.booleans()):
        index = choice.draw(mutations(index))
    else:
        data = choice.draw(mutations(data))
    try:
        found = read_bytes_as_tensorflow(tmp_path, index, data)
    except CheckpointError as error:
        assert str(tmp_path) in str(error)
    else:
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert_same(found[name], array)


@quick
@given(choice=st.data())
def test_damaged_index_of_tensorflow_itself(choice, tmp_path):
    if not CASES:
        pytest.skip("needs the golden files")
    prefix = GOLDEN / CASES[0] / "bert_model.ckpt"
    data = tf_format.data_path(prefix, 0, 1).read_bytes()
    index = choice.draw(mutations(tf_format.index_path(prefix).read_bytes()))
    try:
        found = read_bytes_as_tensorflow(tmp_path, index, data)
    except CheckpointError:
        return
    expected = read_all(prefix)
    assert found.keys() == expected.keys()
    for name in expected:
        assert_same(found[name], expected[name])


@quick
@given(choice=st.data())
def test_forged_checksums_raise_nothing_else(choice, small_checkpoint, tmp_path):
    """Changes with valid checksums, as only malice makes, reach the parsers."""
    _, index, data_file = small_checkpoint
    size = index_parts(index)
    block = choice.draw(mutations(index[:size]))[:size].ljust(size, b"\0")
    forged = block + trailer(block) + index[size + tf_format.TRAILER_SIZE :]
    try:
        read_bytes_as_tensorflow(tmp_path, forged, data_file.read_bytes())
    except CheckpointError:
        pass


def index_parts(index):
    """The size of the only data block of an index that we wrote."""
    footer = index[-tf_format.FOOTER_SIZE :]
    position = tf_format._read_handle(footer, 0)[-1]
    offset, size, _ = tf_format._read_handle(footer, position)
    [(_, handle)] = tf_format._read_block(index, offset, size)
    return tf_format._read_handle(handle, 0)[1]


def trailer(block, compression=0):
    end = bytes([compression])
    return end + tf_format.mask(google_crc32c.value(block + end)).to_bytes(4, "little")


# Protocol buffers by hand, for what TensorFlow does not write.
V, F = tensorflow_writing.varint, tensorflow_writing._bytes_field
HEADER = b"\x08\x01"


def proto(dtype=1, shape=(2,), shard=0, offset=0, size=8, checksum=None, slices=()):
    dims = b"".join(F(2, b"\x08" + V(n)) for n in shape)
    checksum = DATA_CHECKSUM if checksum is None else checksum
    fields = b"\x08" + V(dtype) + F(2, dims) + b"\x18" + V(shard) + b"\x20" + V(offset)
    fields += b"\x28" + V(size) + b"\x35" + checksum.to_bytes(4, "little")
    for extents in slices:
        pairs = (b"\x08" + V(s) + (b"\x10" + V(n) if n >= 0 else b"") for s, n in extents)
        fields += F(7, b"".join(F(1, pair) for pair in pairs))
    return fields


DATA = np.array([1, 2], "f4").tobytes()
DATA_CHECKSUM = tf_format.mask(google_crc32c.value(DATA))


def sliced(*extents, shape=(4,), stored=None):
    """A variable of the slices given, whose parts are those stored (all by default)."""
    pairs = {b"x": proto(shape=shape, slices=extents, size=0)}
    for part in extents if stored is None else stored:
        dims = [n if length < 0 else length for (_, length), n in zip(part, shape, strict=True)]
        pairs[tf_format.slice_key(b"x", part)] = proto(shape=dims)
    return pairs


@pytest.mark.parametrize(
    "pairs, message",
    [
        ({b"": HEADER + b"\x10\x01", b"x": proto()}, "found big-endian"),
        ({b"x": proto()}, "expected a header"),
        ({b"": b"", b"x": proto()}, "shard number below 0"),
        ({b"x": proto(shard=1)}, "'x'.*shard number below 1, found 1"),
        ({b"": b"\x08\x02", b"x": proto(shard=1)}, "data-00001-of-00002: cannot open"),
        ({b"x": proto(dtype=13)}, "dtype number 13"),
        ({b"x": proto(dtype=0)}, "dtype number 0"),
        ({b"x": proto(offset=1)}, "'x'.*expected 8 bytes at 1, the file has 8"),
        ({b"x": proto(shape=(2**62, 0), size=0)}, "numpy cannot hold|checksum"),
        ({b"x": proto(shape=(1,) * 70, size=4)}, "numpy cannot hold"),
        ({b"x": proto(shape=(3,))}, r"float32 of shape \(3,\) has 12 bytes"),
        ({b"x": proto(shape=(2**64 - 2,))}, "from 0 up"),
        ({b"x": proto(checksum=1)}, "'x'.*expected checksum 0x1, found"),
        ({b"x": proto(size=2**62, shape=(2**60,))}, "the file has 8"),
        ({b"x": proto(size=2**64 - 1)}, "from 0 up"),
        ({b"x": proto() + b"\x20"}, "runs off the end"),
        ({b"x": proto() + b"\x20" + b"\xff" * 10}, "more than 64 bits"),
        ({b"x": proto() + b"\x12\x7f"}, "runs off the end"),
        ({b"x": proto() + b"\x13"}, "wire type 3"),
        ({b"x": proto() + b"\x22\x00"}, "expected a number"),
        ({b"x": proto() + b"\x10\x00"}, "expected a message"),
        ({b"\xff": proto()}, "utf-8"),
        ({b"x" * 5000: proto()}, "impossible lengths"),
        (sliced([(0, 2)]), "do not tile"),
        (sliced([(0, 2)], [(1, 2)]), "do not tile"),
        (sliced([(0, 2)], [(3, 2)]), "expected a slice of shape"),
        (sliced([(0, 2)], [(2, 2)], stored=[[(0, 2)]]), "found none"),
        (sliced([(0, -1)]), r"has 16 bytes"),
        (sliced([(0, 2), (0, 2)], shape=(2, 2), stored=[]), "found none"),
        ({b"x": proto(slices=[[(0, 2), (0, 2)]])}, "a slice of shape"),
        ({b"x": proto(slices=[[(2**64 - 1, 2)]])}, "a slice of shape"),
        ({b"x": proto(slices=[[(2**63 - 1, 2**63 - 1)]])}, "a slice of shape"),
    ],
)
def test_forged_index(pairs, message, tmp_path):
    pairs = {b"": HEADER, **pairs} if len(pairs) > 0 and pairs != {b"x": proto()} else pairs
    index = tensorflow_writing.build_table(sorted(pairs.items()))
    with pytest.raises(CheckpointError, match=message):
        read_bytes_as_tensorflow(tmp_path, index, DATA)


def test_forged_slices_that_fit_are_read(tmp_path):
    pairs = {b"": HEADER, **sliced([(2, 2)], [(0, 2)])}
    found = read_bytes_as_tensorflow(
        tmp_path, tensorflow_writing.build_table(sorted(pairs.items())), DATA
    )
    assert_same(found["x"], np.array([1, 2, 1, 2], "f4"))


def test_slice_keys_are_those_of_tensorflow():
    # OrderedCode: numbers below 64 take a byte, those up to 8191 two.
    key = tf_format.slice_key(b"a\0\xff", [(0, -1), (100, 63), (64, 8192)])
    assert key == (
        b"\0" + b"a\0\xff\xff\0" + b"\0\1" + b"\1\3"
        b"\x80\x7f" + b"\xc0\x64\xbf" + b"\xc0\x40\xe0\x20\x00"
    )
    assert tf_format._ordered_code(-65) == b"\x3f\xbf"
    assert len(tf_format._ordered_code(2**63 - 1)) == 10


def test_compressed_blocks_and_loops_are_refused(small_checkpoint, tmp_path):
    _, index, data_file = small_checkpoint
    size = index_parts(index)
    snappy = index[:size] + trailer(index[:size], 1) + index[size + 5 :]
    with pytest.raises(CheckpointError, match="1 is snappy"):
        read_bytes_as_tensorflow(tmp_path, snappy, b"")
    # An index block that leads to the same data block twice.
    block = b"".join(b"\0\1" + V(len(handle)) + b"k" + handle for handle in [V(0) + V(size)] * 2)
    block += bytes(4) + b"\1\0\0\0"
    start = size + 5
    footer = (V(0) + V(0) + V(start) + V(len(block))).ljust(40, b"\0") + tf_format.MAGIC
    loop = index[:start] + block + trailer(block) + footer
    with pytest.raises(CheckpointError, match="expected a block after"):
        read_bytes_as_tensorflow(tmp_path, loop, data_file.read_bytes())


# --- safetensors --------------------------------------------------------------------------


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "model.safetensors"
    assert write_safetensors(path, entries_of(sample_arrays())) == path
    with open_source(path) as source:
        assert_holds(source, sample_arrays())
        assert source.metadata == {"format": "pt"}
    size = int.from_bytes(path.read_bytes()[:8], "little")
    assert size % 8 == 0


def test_safetensors_library_reads_what_we_write(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = sample_arrays()
    write_safetensors(tmp_path / "a.safetensors", entries_of(arrays), metadata={"k": "é"})
    found = library.load_file(tmp_path / "a.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_same(np.asarray(found[name]), array)


def test_we_read_what_the_safetensors_library_writes(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {name: np.ascontiguousarray(a) for name, a in sample_arrays().items()}
    library.save_file(arrays, tmp_path / "a.safetensors")
    with SafetensorsFile(tmp_path / "a.safetensors") as source:
        assert_holds(source, arrays)
        assert source.metadata == {}


def test_safetensors_of_torch_with_float8(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    wide = torch.linspace(-4, 4, 12).reshape(3, 4)
    dtypes = [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]
    tensors = {str(dtype): wide.to(dtype) for dtype in dtypes}
    library.save_file(tensors, tmp_path / "a.safetensors")
    found = read_all(tmp_path / "a.safetensors")
    for name, tensor in tensors.items():
        assert found[name].astype("c8").tolist() == tensor.to(torch.complex64).tolist()
        assert str(found[name].dtype) == name.removeprefix("torch.")
    write_safetensors(tmp_path / "b.safetensors", entries_of(found))
    back = library.load_file(tmp_path / "b.safetensors")
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].to(torch.complex64).equal(tensor.to(torch.complex64))


def header_file(path, header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if size is None else size
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    return path


def one(dtype="F32", shape=(2,), data_offsets=(0, 8)):
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}}


@pytest.mark.parametrize(
    "header, message",
    [
        (b"", "damaged header"),
        (b"[1]", "expected a JSON object, found list"),
        (b"{", "damaged header"),
        (b"\xff", "damaged header"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"x": 1, "x": 2}', "comes twice"),
        ({"x": 3}, "expected dtype, shape and data_offsets"),
        ({"__metadata__": {"a": 1}}, "object of strings"),
        (one(dtype=3), "impossible"),
        (one(shape=[-2]), "impossible"),
        (one(shape=[True, 2]), "impossible"),
        (one(shape=[2.0]), "impossible"),
        (one(shape=[3]), "has 12 bytes, but the header declares 8"),
        (one(shape=[2**70]), "declares 8"),
        (one(data_offsets=[8, 0]), "impossible"),
        (one(data_offsets=[0, 8, 9]), "impossible"),
        (one(data_offsets=[4, 12]), "expected its data at 0"),
        (one(shape=[4], data_offsets=[0, 16]), "expected 16 bytes of data, found 8"),
        (one(shape=[1], data_offsets=[0, 4]), "expected 4 bytes of data, found 8"),
        ({**one(), "y": one()["x"]}, "tensor 'y': expected its data at 8"),
        (one(shape=[0, 2**62, 2**62], data_offsets=[0, 0]), "expected 0 bytes"),
    ],
)
def test_damaged_safetensors(header, message, tmp_path):
    path = header_file(tmp_path / "a.safetensors", header, DATA)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_source(path)
    assert str(path) in str(caught.value)


def test_safetensors_with_impossible_lengths(tmp_path):
    for size in (3, 2**63, 10**9):
        path = header_file(tmp_path / "a.safetensors", one(), DATA, size=size)
        with pytest.raises(CheckpointError):
            open_source(path)
    path.write_bytes(b"1234")
    with pytest.raises(CheckpointError, match="expected at least 8 bytes, found 4"):
        open_source(path)


def test_safetensors_dtype_that_numpy_lacks(tmp_path):
    path = header_file(tmp_path / "a.safetensors", one(dtype="F4", shape=[16]), DATA)
    with open_source(path) as source:
        assert source.shape("x") == (16,)
        with pytest.raises(CheckpointError, match="'x'.*dtype F4 is not supported"):
            source["x"]


def test_safetensors_booleans_are_booleans(tmp_path):
    path = header_file(tmp_path / "a.safetensors", one(dtype="BOOL", shape=[8]), b"\2" * 8)
    with open_source(path) as source, pytest.raises(CheckpointError, match="found a byte 2"):
        source["x"]


@quick
@given(choice=st.data())
def test_damaged_safetensors_headers_raise_nothing_else(choice, tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(4, bool)}
    write_safetensors(path, entries_of(arrays))
    data = path.read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    if choice.draw(st.booleans()):
        path.write_bytes(choice.draw(mutations(data[:head])) + data[head:])
    else:
        path.write_bytes(data[: choice.draw(st.integers(0, len(data) - 1))])
    try:
        found = read_all(path)
    except CheckpointError:
        return
    # A header has no checksum: a letter of a name may change, the amount of data not.
    assert sum(array.nbytes for array in found.values()) <= 28


@pytest.mark.parametrize(
    "entry, message",
    [
        (
            ("x", (2,), "f4", lambda: np.ones(3, "f4")),
            r"expected float32 \(2,\), found .* \(3",
        ),
        (("x", (2,), "f4", lambda: np.ones(2, "f8")), "found float64"),
        (("x", (2,), "U3", lambda: None), "no dtype"),
        (("y", (2,), "f4", lambda: np.ones(2, "f4")), "'y'.*unique names"),
        (("__metadata__", (), "f4", lambda: np.float32(1)), "unique names"),
    ],
)
def test_unwritable_safetensors(entry, message, tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, [("old", (1,), "f4", lambda: np.ones(1, "f4"))])
    first = ("y", (1,), "f4", lambda: np.ones(1, "f4"))
    with pytest.raises(CheckpointError, match=message):
        write_safetensors(path, [first, entry])
    assert list(read_all(path)) == ["old"]
    assert len(list(tmp_path.iterdir())) == 1


def test_metadata_must_be_strings(tmp_path):
    with pytest.raises(CheckpointError, match="dict of str"):
        write_safetensors(tmp_path / "a.safetensors", [], metadata={"a": 1})
    write_safetensors(tmp_path / "a.safetensors", [], metadata={})
    assert read_all(tmp_path / "a.safetensors") == {}


def test_writing_holds_one_tensor_at_a_time(tmp_path):
    alive = []

    def read():
        # The array read before is gone, or at most still being let go of.
        alive.append(sum(reference() is not None for reference in references))
        array = np.ones(1000, "f4")
        references.append(weakref.ref(array))
        return array

    references = []
    write_safetensors(tmp_path / "a.safetensors", [(str(i), (1000,), "f4", read) for i in range(5)])
    assert max(alive) <= 1


# --- shards -------------------------------------------------------------------------------


def test_safetensors_shards(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {f"w{i}": np.full((10,), i, "f4") for i in range(5)}
    index = write_safetensors(path, entries_of(arrays), max_shard_size=80)
    assert index.name == "model.safetensors.index.json"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    assert json.loads(index.read_text())["metadata"]["total_size"] == 200
    for where in (index, tmp_path):
        with open_source(where) as source:
            assert isinstance(source, ShardedSource)
            assert list(source) == list(arrays)
            assert_holds(source, arrays)
    # Saving in another number of shards leaves none of the old behind.
    write_safetensors(path, entries_of(arrays), max_shard_size="1GB")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    write_safetensors(path, entries_of(arrays), max_shard_size=1)
    assert len(list(tmp_path.iterdir())) == 6
    with open_source(tmp_path) as source:
        assert_holds(source, arrays)


def test_hugging_face_reads_our_shards(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    library = pytest.importorskip("safetensors.torch")
    torch = pytest.importorskip("torch")
    arrays = {f"w{i}": np.full((10,), i, "f4") for i in range(5)}
    write_safetensors(tmp_path / "model.safetensors", entries_of(arrays), max_shard_size=80)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    expected = hub.split_torch_state_dict_into_shards(tensors, max_shard_size=80)
    assert index["weight_map"] == expected.tensor_to_filename
    found = {}
    for name in expected.filename_to_tensors:
        found.update(library.load_file(tmp_path / name))
    assert all(found[name].equal(tensor) for name, tensor in tensors.items())


def test_shards_that_do_not_keep_their_promise(tmp_path):
    arrays = {f"w{i}": np.full((10,), i, "f4") for i in range(3)}
    index = write_safetensors(tmp_path / "m.safetensors", entries_of(arrays), max_shard_size=40)
    shard = tmp_path / "m-00002-of-00003.safetensors"
    write_safetensors(shard, entries_of({"other": np.ones(3)}))
    with pytest.raises(CheckpointError, match=r"'w1'.*m-00002-of-00003.safetensors lacks it"):
        open_source(index)
    shard.write_bytes(b"")
    with pytest.raises(CheckpointError, match="m-00002-of-00003.*damaged"):
        open_source(index)
    shard.unlink()
    with pytest.raises(CheckpointError, match="cannot open shard m-00002-of-00003"):
        open_source(index)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"weight_map": 3}',
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {"a": ".."}}',
        b'{"weight_map": {"a": ""}}',
        b'{"weight_map": {"a": "../x.safetensors"}}',
        b'{"weight_map": {"a": "/x.safetensors"}}',
        b'{"weight_map": {"a": "m.safetensors.index.json"}}',
        b'{"weight_map": {"a": "a\\u0000.safetensors"}}',
        b'{"a":' * 100_000,
    ],
)
def test_damaged_index_json(content, tmp_path):
    path = tmp_path / "m.safetensors.index.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="m.safetensors.index.json"):
        open_source(path)


def test_sizes():
    assert [parse_size(s) for s in ("5GB", "10 mb", "1KiB", "2.5kB", "7B", 9, None)] == [
        5 * 10**9,
        10**7,
        1024,
        2500,
        7,
        9,
        None,
    ]
    for size in ("5", "GB", "-1GB", 0, -1, 1.5, True, "0B"):
        with pytest.raises(CheckpointError, match="expected a size"):
            parse_size(size)


# --- PyTorch ------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def torch_arrays(torch):
    arrays = sample_arrays()
    tensors = {}
    for name, array in arrays.items():
        plain = np.array(array)
        if array.dtype == BF16:
            tensors[name] = torch.from_numpy(plain.view("i2")).view(torch.bfloat16)
        else:
            tensors[name] = torch.from_numpy(plain)
    return arrays, tensors


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_torch_files(torch, tmp_path, zipped, wrapper):
    arrays, tensors = torch_arrays(torch)
    if not zipped:
        # PyTorch itself cannot load these from its old format.
        for name in ("layer/uint16", "layer/uint32", "layer/uint64"):
            del arrays[name], tensors[name]
    tensors["layer/float32"] = torch.nn.Parameter(tensors["layer/float32"])
    content = {**tensors, "step": 3} if wrapper is None else {wrapper: tensors, "epoch": 1}
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for where in (path, tmp_path):
        with open_source(where) as source:
            assert_holds(source, arrays)


def test_torch_views_and_float8(torch, tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "bf16": base.to(torch.bfloat16).T[1:],
        "f8": base.to(torch.float8_e4m3fn)[::2],
        "tied": base,
        "conj": torch.view_as_complex(base.clone().reshape(-1, 2)).conj(),
    }
    torch.save(tensors, tmp_path / "a.pt")
    found = read_all(tmp_path / "a.pt")
    for name, tensor in tensors.items():
        assert found[name].astype("c8").tolist() == tensor.to(torch.complex64).tolist()
    assert found["bf16"].dtype == BF16


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bomb-went-off",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_torch_refuses_to_run_code(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Bomb()}, tmp_path / "a.bin")
    torch.save({"x": Bomb()}, tmp_path / "b.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "c.bin").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.bin", "b.bin", "c.bin"):
        with pytest.raises(CheckpointError, match="refused"):
            open_source(tmp_path / name)
    assert not (tmp_path / "bomb-went-off").exists()


def test_torch_files_of_another_kind(torch, tmp_path):
    path = tmp_path / "a.pth"
    for content in ([1, 2], {}, {"lr": 0.1}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="expected a dict of tensors"):
            open_source(path)
    torch.save({"s": torch.eye(3).to_sparse()}, path)
    with pytest.raises(CheckpointError):
        open_source(path)
    for content in (b"", b"junk", b"PK\3\4junk"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="a.pth"):
            open_source(path)


def test_truncated_torch_files(torch, tmp_path):
    torch.save({"x": torch.arange(1000.0)}, tmp_path / "a.bin")
    data = (tmp_path / "a.bin").read_bytes()
    for size in range(0, len(data), 199):
        (tmp_path / "a.bin").write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            open_source(tmp_path / "a.bin")


def test_torch_shards(torch, tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.zeros(2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weight_map = {n: f"pytorch_model-0000{i}-of-00002.bin" for i, n in ((1, "a"), (2, "b"))}
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (tmp_path / "pytorch_model.bin.index.json").write_text(text)
    with open_source(tmp_path) as source:
        assert_holds(source, {"a": np.ones(3, "f4"), "b": np.zeros(2, "f4")})


def test_torch_not_installed(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match="install torch, or convert"):
        TorchFile(tmp_path / "a.bin")


# --- sources ------------------------------------------------------------------------------


def test_dict_source():
    arrays = sample_arrays()
    source = open_source(arrays)
    assert isinstance(source, DictSource)
    assert open_source(source) is source
    assert_holds(source, arrays)
    assert open_source({"a": [1.0, 2.0]})["a"].tolist() == [1.0, 2.0]


def test_missing_tensor():
    source = DictSource({"a": np.ones(2)}, path="here")
    assert "b" not in source and 3 not in source and source.get("b") is None
    for ask in (source.shape, source.dtype, source.__getitem__):
        with pytest.raises(MissingTensorError, match="^here: tensor 'b': not among the 1"):
            ask("b")
        with pytest.raises(KeyError):
            ask("b")
    error = pickle.loads(pickle.dumps(CheckpointError("why", "file", "name")))
    assert str(error) == "file: tensor 'name': why"


def test_nothing_found_lists_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: looked for it and .*none.index"):
        open_source(tmp_path / "none")
    with pytest.raises(FileNotFoundError) as caught:
        open_source(tmp_path)
    for name in ("checkpoint", "*.index", "model.safetensors", "pytorch_model.bin.index.json"):
        assert name in str(caught.value)


def test_other_kinds_of_file(tmp_path):
    for name, message in (
        ("a.h5", "a Keras file"),
        ("a.weights.h5", "a Keras file"),
        ("a.txt", "unknown format"),
        ("a.ckpt.index", "damaged index"),
    ):
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(CheckpointError, match=message):
            open_source(tmp_path / name)


def test_safetensors_come_first(tmp_path):
    write_tensorflow_checkpoint(tmp_path / "a.ckpt", [("tf", np.ones(1))])
    assert list(read_all(tmp_path)) == ["tf"]
    write_safetensors(tmp_path / "model.safetensors", entries_of({"st": np.ones(1)}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert list(read_all(tmp_path)) == ["st"]


def make_file(kind, folder):
    """A file of one tensor 'x', large enough to span pages; returns what to open and to cut."""
    array = np.arange(100_000, dtype="f4")
    if kind == "tensorflow":
        prefix = write_tensorflow_checkpoint(folder / "a.ckpt", [("x", array)])
        return prefix, tf_format.data_path(prefix, 0, 1)
    if kind == "safetensors":
        path = folder / "a.safetensors"
        write_safetensors(path, entries_of({"x": array}))
    else:
        torch = pytest.importorskip("torch")
        path = folder / "a.bin"
        torch.save({"x": torch.from_numpy(array)}, path)
    return path, path


@pytest.mark.parametrize("kind", ["tensorflow", "safetensors", "torch"])
def test_files_changed_while_open(kind, tmp_path):
    path, data_file = make_file(kind, tmp_path)
    content = data_file.read_bytes()
    with open_source(path) as source:
        # A file put in its place is another file; ours stays open.
        with atomic_path(data_file) as temporary:
            temporary.write_bytes(b"")
        assert source["x"][-1] == 99_999
    data_file.write_bytes(content)
    with open_source(path) as source:
        os.truncate(data_file, 5000)
        with pytest.raises(CheckpointError, match=f"{data_file.name}: tensor 'x'"):
            source["x"]
    with pytest.raises(CheckpointError):
        source["x"]


@pytest.mark.parametrize("kind", ["tensorflow", "safetensors"])
def test_threads_may_share_a_source(kind, tmp_path):
    arrays = {f"w{i}": np.full((1000, 50), i, "f4") for i in range(20)}
    if kind == "tensorflow":
        path = write_tensorflow_checkpoint(tmp_path / "a.ckpt", arrays.items())
    else:
        path = write_safetensors(tmp_path / "a.safetensors", entries_of(arrays))
    wrong = []
    with open_source(path) as source:

        def work():
            wrong.extend(name for name in source if (source[name] != arrays[name]).any())

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_tensor_file_reads_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abcdef")
    file = TensorFile(tmp_path / "a")
    assert file.read(1, 3) == b"bcd" and file.read(6, 0) == b""
    with pytest.raises(CheckpointError, match="expected 3 bytes at 4"):
        file.read(4, 3)
    file.close()


def test_safetensors_views(tmp_path, rng):
    arrays = {
        "odd": np.array([True, False, True]),
        "none": np.zeros((0, 3), "float32"),
        "half": rng.normal(size=(300, 7)).astype(ml_dtypes.bfloat16),
        "wide": rng.normal(size=(257, 260)).astype("float32"),
    }
    path = tmp_path / "x.safetensors"
    tensors = [(n, a.shape, a.dtype, lambda a=a: a) for n, a in arrays.items()]
    write_safetensors(path, tensors)
    with SafetensorsFile(path) as source:
        for name, array in arrays.items():
            np.testing.assert_array_equal(source.view(name), array)
        assert not source.view("wide").flags.writeable
        turned = Tensor("wide", (("T", ""),)).read(source.view("wide"))
        np.testing.assert_array_equal(turned, arrays["wide"].T)
        assert turned.flags.c_contiguous and turned.ctypes.data % 64 == 0
        os.truncate(path, 1000)
        with pytest.raises(CheckpointError, match="ends before"):
            source.view("wide")


# --- replacing files ----------------------------------------------------------------------


def test_atomic_path_replaces(tmp_path):
    path = tmp_path / "a.weights.h5"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.name.endswith(".weights.h5")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_atomic_path_keeps_the_old_file(error, tmp_path):
    path = tmp_path / "a.bin"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_text() == "old"


def test_killed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_text("old")
    script = (
        "import os, signal, sys\n"
        "from bert4keras3.weights.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half')\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT)
    assert done.returncode == 9
    assert path.read_text() == "old"


def test_groups_go_together(tmp_path, monkeypatch):
    data, index = tmp_path / "data", tmp_path / "index"
    data.write_text("old")
    index.write_text("old")
    with pytest.raises(ValueError), atomic_group() as group:
        group.add(data).write_text("new")
        group.add(index, is_index=True)
        raise ValueError
    assert (data.read_text(), index.read_text()) == ("old", "old")

    # Stopped between two renames, the new data must not stand under the old index.
    def replace(source, target, real=os.replace):
        if Path(target) == index:
            raise OSError("stopped")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="stopped"), atomic_group() as group:
        group.add(data).write_text("new")
        group.add(index, is_index=True).write_text("new")
    assert data.read_text() == "new" and not index.exists()
    assert list(tmp_path.iterdir()) == [data]


def test_imports_are_cheap():
    script = (
        "import sys\n"
        "from bert4keras3.weights import atomic, errors, safetensors, sources, tensorflow, torch\n"
        "print({'keras', 'torch', 'tensorflow', 'jax', 'safetensors'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
