"""RWKV's tokenizer."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert4keras3.generation.pieces import IncrementalDecoder
from bert4keras3.tokenizers import RWKV_TOKENIZER, VocabularyError

pytestmark = pytest.mark.once
NAME = "rwkv_vocab_v20230424.txt"
LINES = ["1 'a' 1", "2 'ab' 2", "3 'b' 1", "4 '我' 3", r"8 '\n\n' 2", "9 ' ' 1", r"10 b'\xe6' 1"]


@pytest.fixture
def small(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return RWKV_TOKENIZER(tmp_path / "vocab.txt")


@pytest.fixture(scope="module")
def world():
    """The official vocabulary, from the package `rwkv`."""
    folder = Path(importlib.util.find_spec("rwkv").origin).parent
    return RWKV_TOKENIZER(folder / NAME)


def test_longest_token_first(small):
    assert small.encode("abba我 \n\n") == [[2, 3, 1, 4, 9, 8]]
    assert small.encode(["ab", "", "b"]) == [[2], [], [3]]
    assert small.encode_batch(["ab"], ["b"]) == [([2, 3], [0, 1])]
    assert small.tokenize("ab我") == ["ab", "我"]
    assert small.tokens_to_ids(["ab", "我"]) == [2, 4]


def test_decode(small):
    assert small.decode([2, 4, 0]) == "ab我"
    assert small.decode([]) == ""
    assert small.decode([[2], [4, 9]]) == ["ab", "我 "]
    assert small.decode(np.array([[2, 3], [4, 0]])) == ["abb", "我"]
    assert small.decode([np.array([2, 3])]) == ["abb"]
    assert small.decode([2, 10]) == "ab\ufffd"
    assert small.id_to_token(10) == "\udce6" and small.token_to_id("\udce6") == 10


def test_errors(small, tmp_path):
    with pytest.raises(VocabularyError, match="begins with the byte b'c'"):
        small.encode("abc")
    with pytest.raises(VocabularyError, match="begins with the byte b'c'"):
        small.encode("acb")
    with pytest.raises(TypeError, match="expected a str, found int"):
        small.encode([1])
    with pytest.raises(VocabularyError, match="no token 'x'"):
        small.token_to_id("x")
    with pytest.raises(FileNotFoundError, match="no vocabulary"):
        RWKV_TOKENIZER(tmp_path / "none.txt")
    for line in ("1 'a' 2", "1 __import__('os').getcwd() 1", "x 'a' 1", "1", "1 '' 0", "1 5 1"):
        (tmp_path / "bad.txt").write_text(f"7 'b' 1\n{line}\n")
        with pytest.raises(VocabularyError, match="bad.txt, line 2: expected"):
            RWKV_TOKENIZER(tmp_path / "bad.txt")
    (tmp_path / "bad.txt").write_text("1 'a' 1\n1 'b' 1\n")
    with pytest.raises(VocabularyError, match="the id 1 is there already"):
        RWKV_TOKENIZER(tmp_path / "bad.txt")


def test_as_the_official_package(world):
    from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

    peer = TRIE_TOKENIZER(str(Path(importlib.util.find_spec("rwkv").origin).parent / NAME))
    for text in (
        "hello world",
        "我是中国人",
        "\n下面是一个关于python实现",
        "a\r\n\n\n\t\x00 🦄🏳️‍🌈",
    ):
        assert world.encode(text) == [peer.encode(text)]
    assert world._vocab_size == 65530


@given(text=st.text())
def test_every_text_comes_back(world, text):
    (ids,) = world.encode(text)
    assert world.decode(ids) == text
    # Greedy: no token could have been longer.
    data, place = text.encode(), 0
    for i in ids:
        token = world.idx2token[i]
        assert data[place : place + len(token)] == token
        longer = (data[place : place + n] for n in range(len(token) + 1, 20))
        assert not any(len(x) > len(token) and x in world.token2idx for x in longer)
        place += len(token)


@given(text=st.text(), cut=st.integers(0, 20))
def test_streams(world, text, cut):
    """Half characters wait for the rest."""
    (ids,) = world.encode(text)
    decoder = IncrementalDecoder(world, ids[:cut])
    pieces = [decoder.push(i) for i in ids[cut:]] + [decoder.finish()]
    expected = text.encode()[len(b"".join(world.idx2token[i] for i in ids[:cut])) :]
    if not expected.decode("utf-8", "replace").startswith("\ufffd"):
        assert "".join(pieces).encode() == expected
