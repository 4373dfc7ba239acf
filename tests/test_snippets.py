"""Helpers for text and data.  pytest tests/test_snippets.py"""

import json

import numpy as np
import pytest

import bert4keras3
from bert4keras3.snippets import DataGenerator, orthogonally_resize, sequence_padding

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


def test_left_padding_keeps_the_end():
    np.testing.assert_array_equal(
        sequence_padding([[1, 2, 3], [4]], length=2, mode="pre"), [[2, 3], [0, 4]]
    )


def test_sequence_padding_errors(capsys):
    with pytest.raises(ValueError, match="'post' or 'pre', got 'left'"):
        sequence_padding([[1]], mode="left")
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
