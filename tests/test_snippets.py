"""Helpers for text and data.  pytest tests/test_snippets.py"""

import functools
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bert4keras3
from bert4keras3 import snippets
from bert4keras3.snippets import (
    DataGenerator,
    WorkerError,
    longest_common_subsequence,
    longest_common_substring,
    orthogonally_resize,
    pack_sequences,
    parallel_apply,
    parallel_apply_generator,
    sequence_padding,
    text_segmentate,
    truncate_sequences,
)

pytestmark = pytest.mark.once


def test_sequence_padding_golden(golden):
    cases = json.loads((golden / "snippets" / "snippets.json").read_text())["sequence_padding"]
    for case in cases:
        found = sequence_padding([np.array(x) for x in case["inp"]], **case["kw"])
        np.testing.assert_array_equal(found, case["out"])


def test_orthogonally_resize_golden(golden):
    cases = json.loads((golden / "snippets" / "snippets.json").read_text())["orthogonally_resize"]
    for case in cases:
        found = orthogonally_resize(np.array(case["a"]), case["shape"], case["window"])
        np.testing.assert_allclose(found, case["out"], atol=1e-12)


@pytest.mark.parametrize("mode", ["post", "pre"])
def test_too_long_sequences_keep_a_side(mode):
    one = [[0, 9], [9, 0]][mode == "post"]
    found = sequence_padding([[1, 2, 3], [9]], 2, mode=mode)
    np.testing.assert_array_equal(found, [[1, 2], one])
    found = sequence_padding([[1, 2, 3], [9]], 2, mode=mode, truncate="pre")
    np.testing.assert_array_equal(found, [[2, 3], one])
    rows = [np.arange(9).reshape(3, 3)]
    found = sequence_padding(rows, [2, 4], seq_dims=2, mode=mode, truncate="pre")
    kept = [np.pad(row, [0, 1] if mode == "post" else [1, 0]) for row in rows[0][1:]]
    np.testing.assert_array_equal(found, [kept])


def test_sequence_padding_errors(capsys):
    with pytest.raises(ValueError, match="'post' or 'pre', got 'left'"):
        sequence_padding([[1]], mode="left")
    with pytest.raises(ValueError, match="truncate: expected 'post' or 'pre', got 'left'"):
        sequence_padding([[1]], truncate="left")
    with pytest.raises(ValueError, match="2 axes"):
        sequence_padding([[[1]]], seq_dims=2, length=[1, 2, 3])
    assert sequence_padding([]).shape == (0, 0)
    sequence_padding([[1], [2]], show_tqdm=True)
    assert "padding" in capsys.readouterr().err


class Pairs(DataGenerator):
    def __iter__(self, random=False):
        rows = []
        for is_end, row in self.sample(random):
            rows.append(row)
            if len(rows) == self.batch_size or is_end:
                yield rows, len(rows)
                rows = []


def test_data_generator():
    assert bert4keras3.DataGenerator is DataGenerator
    assert bert4keras3.sequence_padding is sequence_padding
    generator = Pairs(list(range(10)), batch_size=4)
    assert len(generator) == 3
    assert [n for _, n in generator] == [4, 4, 2]
    epoch = [rows for rows, _ in generator.__iter__(random=True)]
    assert sorted(sum(epoch, [])) == list(range(10))
    stream = generator.forfit(random=False)
    assert [next(stream)[1] for _ in range(6)] == [4, 4, 2, 4, 4, 2]
    assert next(generator.fortest()) == [0, 1, 2, 3]


def test_data_generator_without_length():
    generator = Pairs((i for i in range(10)), batch_size=4, buffer_size=3)
    with pytest.raises(TypeError, match="no length"):
        len(generator)
    assert sorted(sum((rows for rows, _ in generator.__iter__(random=True)), [])) == list(range(10))
    assert list(Pairs([], 4)) == []


# ----------------------------------------------------------------------- strings


def test_text_golden(golden):
    cases = json.loads((golden / "snippets" / "snippets.json").read_text())
    for case in cases["text_segmentate"]:
        arguments = (case["text"], case["maxlen"], case["seps"], case["strips"])
        assert text_segmentate(*arguments) == case["out"]
    for case in cases["truncate_sequences"]:
        inputs = [list(x) for x in case["inp"]]
        found = truncate_sequences(case["maxlen"], case["indices"], *inputs)
        assert found == case["out"] == inputs
    for source, target, (length, places) in cases["lcsubstring"]:
        assert longest_common_substring(source, target) == (length, tuple(places))
    for source, target, (length, pairs) in cases["lcsubsequence"]:
        assert longest_common_subsequence(source, target) == (length, [tuple(p) for p in pairs])
    for text, expected in cases["lowercase_and_normalize"]:
        assert snippets.lowercase_and_normalize(text) == expected


def test_text_segmentate():
    text = "今天天气好。我们出去玩，好不好？好的！"
    pieces = ["今天天气好", "我们出去玩", "好不好？", "好的！"]
    assert text_segmentate(text, 8, "\n。！？，", "。，") == pieces
    assert "".join(text_segmentate("a b c", 2, " ")) == "abc"
    assert text_segmentate("aaaa", 2) == ["aaaa"] and text_segmentate("", 2) == [""]


def subsequences(text):
    found = {""}
    for char in text:
        found |= {s + char for s in found}
    return found


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_what_two_texts_share(source, target):
    length, (start, end, other, other_end) = longest_common_substring(source, target)
    assert source[start:end] == target[other:other_end] and end - start == length
    runs = {source[i:j] for i in range(len(source)) for j in range(i, len(source) + 1)}
    assert length == max((len(s) for s in runs if s in target), default=0)
    length, pairs = longest_common_subsequence(source, target)
    assert len(pairs) == length and all(source[i] == target[j] for i, j in pairs)
    assert pairs == sorted(pairs) and len(set(i for i, _ in pairs)) == length
    assert length == max(map(len, subsequences(source) & subsequences(target)))


def test_small_helpers():
    assert snippets.strQ2B("ＡＢＣ\u3000１２３，。！～") == "ABC 123,。!~"
    assert snippets.string_matching("科学技术", ["生产", "技.$"])
    assert not snippets.string_matching("科学技术", ["生产"])
    assert snippets.convert_to_unicode("科".encode()) == "科" == snippets.convert_to_str("科")
    assert snippets.convert_to_unicode(b"\xbf\xc6", "gb18030") == "科"
    assert snippets.is_string("a") and not snippets.is_string(b"a")
    a, b = snippets.to_array([1, 2], [[3]])
    assert a.shape == (2,) and b.shape == (1, 1) and snippets.to_array([1]).shape == (1,)
    x = [1]
    assert snippets.is_one_of(x, [[2], x]) and not snippets.is_one_of(x, [[1]])
    probabilities = snippets.softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]]))
    np.testing.assert_allclose(probabilities, [[0.5, 0.5], [0, 1]], atol=1e-12)
    assert snippets.basestring is str and snippets.is_py2 is False
    scope = {}
    exec("from bert4keras3.snippets import uniout, open, _open_, parallel_apply", scope)
    exec("from bert4keras3.snippets import *", scope)
    assert {"ViterbiDecoder", "DataGenerator", "AutoRegressiveDecoder", "uniout"} <= set(scope)
    assert scope["__builtins__"]["open"] is open is snippets._open_
    with pytest.raises(ValueError, match="1 indices for 2 sequences"):
        truncate_sequences(1, [-1], [1], [2])
    assert truncate_sequences(9, -1, [1], None, []) == [[1]]


def test_helpers_need_no_keras():
    code = (
        "import sys; from bert4keras3.snippets import *; assert not {'keras', 'starlette'} & "
        "set(sys.modules)"
    ).replace("import *", "import parallel_apply, DataGenerator, ViterbiDecoder, pack_sequences")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_arguments_of_an_init():
    class Sampler:
        @snippets.insert_arguments(temperature=1.0)
        @snippets.delete_arguments("topk")
        def __init__(self, units):
            self.units = units

    assert Sampler(3).temperature == 1.0
    assert Sampler(units=3, temperature=0.5).temperature == 0.5
    with pytest.raises(TypeError, match="unexpected keyword argument 'topk'"):
        Sampler(3, topk=2)
    assert Sampler.__init__.__name__ == "__init__"


# ------------------------------------------------------------------------- files


def test_open_by_lines(tmp_path, capsys):
    path, index = tmp_path / "text.txt", tmp_path / "index.json"
    path.write_bytes("一\n二二\r\n\n末".encode())
    with snippets.open(path, indexable=str(index)) as file:
        assert len(file) == 4 and file[1] == "二二\n" and file[-1] == "末" and file[2] == "\n"
        assert file[:2] == ["一\n", "二二\n"]
        assert list(file) == ["一\n", "二二\n", "\n", "末"]
        with pytest.raises(IndexError):
            file[4]
    assert "indexing" in capsys.readouterr().err
    with snippets.open(path, indexable=index) as file:
        assert file[3] == "末"
    assert "indexing" not in capsys.readouterr().err
    path.write_bytes(b"changed\n")  # the kept index is of another text
    with snippets.open(path, indexable=index) as file:
        assert list(map(file.__getitem__, range(len(file)))) == ["changed\n"]
    generator = Pairs(snippets.open(path, indexable=True), batch_size=1)
    assert [rows for rows, _ in generator.__iter__(random=True)] == [["changed\n"]]


def test_open_reads_and_writes(tmp_path):
    path = tmp_path / "text.txt"
    with snippets.open(path, "w", encoding="gb18030") as file:
        file.write("一二\n三\n")
        file.flush()
    assert path.read_bytes() == "一二\n三\n".encode("gb18030")
    file = snippets.open(path, encoding="gb18030")
    assert file.next() == "一二\n" and next(file) == "三\n"
    file.seek(0)
    assert file.readline() == "一二\n" and file.tell() > 0 and file.readlines() == ["三\n"]
    file.seek(0)
    assert file.read() == "一二\n三\n"
    file.close()
    with pytest.raises(TypeError, match="indexable=True"):
        len(snippets.open(path))
    with snippets.open(path, "rb") as file:
        assert next(file) == "一二\n".encode("gb18030")


def test_open_of_another_encoding(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"abc\n" * 5000 + "科学\n".encode("gb18030"))
    with pytest.raises(ValueError, match="line 5001 is not utf-8 .*pass encoding="):
        list(snippets.open(path))
    with pytest.raises(ValueError, match="line 5001 is not utf-8"):
        snippets.open(path, indexable=True)[5000]
    assert len(list(snippets.open(path, errors="ignore"))) == 5001
    with pytest.raises(ValueError, match="a file in utf-16 cannot be indexable"):
        snippets.open(path, encoding="utf-16", indexable=True)


# ---------------------------------------------------------------------- parallel


@pytest.mark.parametrize("dummy", [True, False])
def test_parallel_apply(dummy):
    offset = 1
    square = functools.partial(parallel_apply, lambda x: x * x + offset, workers=2, dummy=dummy)
    expected = [x * x + 1 for x in range(50)]
    assert sorted(square(iterable=range(50), max_queue_size=5)) == expected
    assert square(iterable=range(50), max_queue_size=0, unordered=False) == expected
    results = []
    found = square(
        iterable=iter(range(50)), max_queue_size=100, callback=results.append, unordered=False
    )
    assert found is None and results == expected
    assert square(iterable=[], max_queue_size=5) == []
    numbered = parallel_apply_generator(abs, [-1, -2], 2, 2, dummy)
    assert sorted(numbered) == [(0, 1), (1, 2)]
    with pytest.raises(ValueError, match="workers: at least 1"):
        parallel_apply(abs, [1], 0, 2, dummy=dummy)


def test_parallel_apply_takes_no_more_than_it_works_on():
    taken = []

    def endless():
        while True:
            taken.append(0)
            yield len(taken)

    results = parallel_apply_generator(abs, endless(), 2, 3)
    for _ in range(20):
        next(results)
    assert len(taken) <= 20 + 2 + 3
    results.close()


def long_or_wrong(x):
    if x == 3:
        raise LookupError("three")
    time.sleep(0 if x < 3 else 1000)


class Demanding(Exception):
    def __init__(self, *, reason):
        super().__init__(reason)


def demanding(x):
    raise Demanding(reason="no")


def leaves(x):
    sys.exit(4)


def dies(x):
    if x == 1:
        os._exit(5)
    time.sleep(1000)


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (long_or_wrong, LookupError, "three"),
        (demanding, WorkerError, "Demanding: no"),
        (leaves, WorkerError, "exit"),
        (dies, WorkerError, "a worker process died"),
    ],
)
def test_errors_of_workers_end_the_call(function, error, text):
    """Though other workers would go on for a quarter of an hour, and items never end."""
    with pytest.raises(error, match=text):
        parallel_apply(function, iter(int, 1) if function is leaves else range(9), 3, 2)


def test_errors_of_threads_and_items():
    def raises(x):
        raise LookupError("thread")

    with pytest.raises(LookupError, match="thread"):
        parallel_apply(raises, range(9), 2, 2, dummy=True)

    def items():
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        parallel_apply(abs, items(), 2, 2)


def test_seeds_of_workers():
    def draw(x):
        time.sleep(0.05)
        return np.random.randint(10**9)

    fresh = parallel_apply(draw, range(6), 2, 2)
    assert len(set(fresh)) == 6
    seeded = parallel_apply(draw, range(1), 1, 0, random_seeds=[7])
    np.random.seed(7)
    assert seeded == [np.random.randint(10**9)]
    np.random.seed(3)
    alike = parallel_apply(draw, range(1), 1, 0, random_seeds=None)
    np.random.seed(3)
    assert alike == [np.random.randint(10**9)]


def test_functions_that_cannot_be_sent(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(TypeError, match="cannot be sent to worker processes.*dummy=True"):
        parallel_apply(lambda x: x, [1], 1, 1)


# ----------------------------------------------------------------------- packing


@given(st.lists(st.integers(0, 30)), st.integers(1, 12), st.booleans())
def test_packing(sizes, length, split):
    sequences = [np.full(n, i + 1) for i, n in enumerate(sizes)]
    rows = pack_sequences(sequences, length, value=-1, split=split)
    assert rows.tokens.shape[1:] == (length,)
    packed = np.concatenate([[0], rows.tokens[rows.numbers > 0]])
    np.testing.assert_array_equal(np.bincount(packed, minlength=len(sizes) + 1)[1:], sizes)
    assert (rows.tokens[rows.numbers == 0] == -1).all()
    for tokens, numbers, positions in zip(rows.tokens, rows.numbers, rows.positions, strict=True):
        for number in range(1, numbers.max(initial=0) + 1):
            piece = numbers == number
            assert len(set(tokens[piece])) == 1
            np.testing.assert_array_equal(positions[piece], np.arange(piece.sum()))
    if split:
        assert (rows.numbers[:-1] > 0).all()
    elif len(rows.tokens) > 1:
        # No two rows would fit into one.
        filled = np.sort((rows.numbers > 0).sum(1))
        assert filled[0] + filled[1] > length
    continues = (rows.targets == rows.inputs) & (rows.targets > 0)
    np.testing.assert_array_equal(rows.weights > 0, continues & (rows.positions[:, 1:] > 0))


def test_packing_errors():
    with pytest.raises(ValueError, match="length: expected at least 1"):
        pack_sequences([[1]], 0)
