"""SentencePiece models, alone and in Hugging Face folders; GPT-2's two files.

python -m pytest tests/test_sentencepiece.py
"""

import copy
import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert4keras3.generation import IncrementalDecoder
from bert4keras3.tokenizers import SpTokenizer, VocabularyError, from_folder, load_tokenizer

pytestmark = pytest.mark.once

CORPUS = [
    "The quick brown fox doesn't jump over the lazy dog, does it? It's 3.14, I'm told.",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "hello world, a naive cafe again and again [x] (y) <z> _0",
    "Mixed 中文 and English text with hello world",
] * 5
BYTES = {
    "model_type": "bpe",
    "vocab_size": 380,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}
PIECES = {"model_type": "unigram", "vocab_size": 120, "hard_vocab_limit": False}
# kind: how its models are trained
TRAINING = {
    "llama": BYTES,
    "gemma": BYTES
    | {"add_dummy_prefix": False, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    | {"bos_piece": "<bos>", "eos_piece": "<eos>", "user_defined_symbols": ["<turn>"]},
    "t5": PIECES | {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "albert": PIECES
    | {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
    | {"control_symbols": ["[CLS]", "[SEP]", "[MASK]"]},
    "deberta-v2": PIECES
    | {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]"}
    | {"bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
}
FILES = {"llama": "tokenizer.model", "gemma": "tokenizer.model", "deberta-v2": "spm.model"}
ENDS = {"llama": ("<s>", None), "gemma": ("<bos>", "<eos>"), "t5": (None, "</s>")}
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",))),
    st.text("abc 我▁<>/s\n\t\0🙂é"),
    st.lists(st.sampled_from(["hello", " ", "<s>", "</s>", "<unk>", "▁", "[CLS]"])).map("".join),
)
quick = settings(max_examples=100, deadline=None)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for kind, options in TRAINING.items():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_prefix=str(folder / kind),
            minloglevel=2,
            num_threads=1,
            character_coverage=1.0,
            **options,
        )
    return folder


@pytest.fixture(scope="module")
def alone(models):
    found = {}
    for kind in TRAINING:
        start, end = ENDS.get(kind, ("[CLS]", "[SEP]"))
        found[kind] = SpTokenizer(models / f"{kind}.model", token_start=start, token_end=end)
    return found


def make_folder(models, path, kind, **configuration):
    path.mkdir(exist_ok=True)
    shutil.copy(models / f"{kind}.model", path / FILES.get(kind, "spiece.model"))
    (path / "config.json").write_text(json.dumps({"model_type": kind}))
    (path / "tokenizer_config.json").write_text(json.dumps(configuration))
    return path


# ---------------------------------------------------------------- SpTokenizer


@pytest.mark.parametrize("kind", TRAINING)
@quick
@given(text=TEXT)
@example(text="")
@example(text=" hello  world ")
def test_agrees_with_sentencepiece(alone, kind, text):
    tokenizer = alone[kind]
    model = tokenizer.sp_model
    ids, segments = tokenizer.encode(text)
    start, end = (int(token is not None) for token in ENDS.get(kind, ("[CLS]", "[SEP]")))
    assert ids[start : len(ids) - end] == model.encode(text)
    assert segments == [0] * len(ids)
    assert tokenizer.tokens_to_ids(tokenizer.tokenize(text)) == ids
    assert tokenizer.decode(ids) == model.decode(ids)
    assert tokenizer.decode(np.array(ids, "float32")) == model.decode(ids)
    assert tokenizer.encode_batch([text], ["hello"]) == [tokenizer.encode(text, "hello")]


@pytest.mark.parametrize("kind", TRAINING)
@quick
@given(ids=st.lists(st.integers(-5, 600)))
def test_decoding_any_ids(alone, kind, ids):
    model = alone[kind].sp_model
    inside = [i for i in ids if 0 <= i < model.get_piece_size()]
    assert alone[kind].decode(ids) == model.decode(inside)


def test_attributes(alone):
    t5, llama = alone["t5"], alone["llama"]
    assert t5._vocab_size == t5.sp_model.get_piece_size()
    assert (t5._token_pad, t5._token_pad_id, t5._token_unk, t5._token_unk_id) == (
        *("<pad>", 0),
        *("<unk>", 2),
    )
    assert t5._token_start is None and t5._token_end_id == 1
    assert (llama._token_start_id, llama._token_unk_id, llama._token_pad) == (1, 0, None)
    for name in ("_token_mask_id", "_token_start_id"):
        with pytest.raises(AttributeError, match=f"no {name}"):
            getattr(t5, name)
    assert t5.token_to_id("never seen") == t5._token_unk_id
    assert t5.id_to_token(10**6) == "" and t5.id_to_token(np.int64(1)) == "</s>"
    with pytest.raises(VocabularyError, match="found -1"):
        t5.id_to_token(-1)
    assert t5._is_special(0) and t5._is_special(2) and not t5._is_decodable(1)
    assert t5._is_decodable(5) and not t5._is_decodable(10**6)


def test_pairs_and_truncation(alone):
    t5, deberta = alone["t5"], alone["deberta-v2"]
    first, second = t5.encode("hello")[0], t5.encode("world")[0]
    assert t5.encode("hello", "world") == (
        first + second,
        [0] * len(first) + [1] * len(second),
    )
    assert t5.encode("hello world", maxlen=3)[0] == [*t5.encode("hello world")[0][:2], 1]
    ids, segments = deberta.encode("hello", "world", maxlen=6)
    assert ids[0] == 1 and ids.count(2) == 2 and ids[-1] == 2
    assert len(ids) == 6 == len(segments)
    assert t5.encode(["▁", "a", "</s>"])[0] == t5.tokens_to_ids(["▁", "a", "</s>"])


def test_pre_tokenize_and_translation(models):
    """As CPM does: words are cut first, and blanks and line ends have pieces in their place."""
    options = {"token_start": None, "token_end": None}
    plain = SpTokenizer(models / "t5.model", **options)
    tokenizer = SpTokenizer(
        models / "t5.model",
        pre_tokenize=lambda text: text.split("|"),
        token_translate={"x": "z", "y": "<unk>"},
        **options,
    )
    assert tokenizer.tokenize("hello|world") == plain.tokenize("hello world")
    assert tokenizer.tokenize("x") == ["▁", "z"]
    assert tokenizer.decode(tokenizer.encode("axy")[0]) == "axy"


def test_copies(alone):
    for made in (pickle.loads(pickle.dumps(alone["t5"])), copy.deepcopy(alone["t5"])):
        assert made.encode("hello world") == alone["t5"].encode("hello world")


def test_errors(alone, tmp_path):
    with pytest.raises(FileNotFoundError, match="no SentencePiece model .*nothing.model"):
        SpTokenizer(tmp_path / "nothing.model")
    for content in (b"", b"no model"):
        (tmp_path / "broken.model").write_bytes(content)
        with pytest.raises(ValueError, match="broken.model' is not a SentencePiece model"):
            SpTokenizer(tmp_path / "broken.model")
    with pytest.raises(ValueError, match="text holds half of a surrogate pair at 1"):
        alone["t5"].encode("a\ud800")
    with pytest.raises(TypeError, match="text must be a str, found int"):
        alone["t5"].tokenize(3)


@pytest.fixture(scope="module")
def released():
    """A model file as it was released, of 32,000 pieces, 256 of them bytes."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None:
        pytest.skip("the package mistral-common is not installed")
    return Path(spec.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"


def test_released_model(released):
    """Ids, pieces and texts of a real vocabulary; numbers of any kind; special pieces."""
    tokenizer = SpTokenizer(released, token_start=None, token_end="</s>")
    model = sentencepiece.SentencePieceProcessor(str(released))
    assert tokenizer._vocab_size == 32000 and tokenizer._token_end_id == 2
    for text in [*CORPUS[:4], "", "  two  blanks ", "émigré 🙂\n\ttab", "</s> <unk> <s>"]:
        ids, segments = tokenizer.encode(text)
        assert ids == [*model.encode(text), 2] and segments == [0] * len(ids)
        assert tokenizer.decode(ids) == model.decode(ids)
        for numbers in (np.array(ids), np.array(ids) * 1.0, tuple(np.int64(i) for i in ids)):
            assert tokenizer.decode(numbers) == model.decode(ids)
    assert tokenizer.decode([1, *tokenizer.encode("hello")[0], 2, 32000]) == "hello"
    assert [tokenizer._is_special(i) for i in (0, 1, 2, 3, 300)] == [True] * 3 + [False] * 2
    assert tokenizer.id_to_token(32000) == "" and tokenizer.id_to_token(3) == "<0x00>"
    first = model.encode("hello world", out_type=str)[0]
    assert tokenizer.tokenize("hello world", maxlen=2) == [first, "</s>"]
    assert tokenizer.encode("hello", "world", maxlen=4)[0][-1] == 2


def test_import_takes_no_sentencepiece():
    code = (
        "import sys, bert4keras3.tokenizers as t; "
        "assert not {'sentencepiece', 'jinja2', 'tokenizers', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -------------------------------------------------------------------- folders


PLAIN = [
    "hello world",
    "",
    "The lazy dog, does it?",
    "中文 and English hello",
    "  two  blanks",
    "床前明月光",
    "ends in blanks  ",
]
SPECIAL = [
    "a</s>b <s> c",
    "a</s>b<s>c",
    "<s>hello</s>",
    "x <extra_id_0> y<extra_id_99>",
    "hello [MASK] world[SEP]again",
    "<turn>user <eos>",
    "<pad><unk> hello",
]


def transformers_of(path):
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    return transformers.AutoTokenizer.from_pretrained(str(path))


def texts_for(kind, configuration, texts):
    """Without those where transformers 5 drops a blank: Llama's model puts one before a blank."""
    if kind != "llama":
        return texts
    kept = [text for text in texts if not text.startswith(" ")]
    return [text for text in kept if "> " not in text] if configuration.get("legacy") else kept


@pytest.mark.parametrize(
    "kind,configuration",
    [
        ("llama", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}),
        ("llama", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": True}),
        (
            "llama",
            {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False, "add_eos_token": True}
            | {"legacy": False, "pad_token": "<new pad>"},
        ),
        ("gemma", {"add_bos_token": True}),
        ("t5", {}),
        ("t5", {"extra_ids": 3, "tokenizer_class": "T5Tokenizer"}),
        ("albert", {}),
        ("albert", {"do_lower_case": False, "keep_accents": True}),
        ("deberta-v2", {"do_lower_case": False}),
        ("deberta-v2", {"do_lower_case": True, "additional_special_tokens": ["<new>"]}),
    ],
)
def test_folder_equals_transformers(models, tmp_path, kind, configuration):
    path = make_folder(models, tmp_path, kind, **configuration)
    ours, theirs = from_folder(path), transformers_of(path)
    for text in texts_for(kind, configuration, PLAIN + SPECIAL):
        assert ours.encode(text)[0] == theirs(text)["input_ids"], text
        assert ours.tokens_to_ids(ours.tokenize(text)) == ours.encode(text)[0]
    if kind in ("t5", "albert", "deberta-v2"):
        assert ours.encode("hello", "world")[0] == theirs("hello", "world")["input_ids"]
    for text in texts_for(kind, configuration, PLAIN[:4]):
        ids = ours.encode(text)[0]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours._vocab_size == len(theirs)
    for role in ("pad", "unk", "mask"):
        number = getattr(theirs, f"{role}_token_id")
        assert getattr(ours, f"_token_{role}_id", None) == number


def test_llama_folder_starts_texts(models, tmp_path):
    """transformers 4 and the model want <s>; transformers 5 needs to be told."""
    tokenizer = from_folder(make_folder(models, tmp_path, "llama"))
    assert tokenizer.encode("hello")[0] == [1, *tokenizer.sp_model.encode("hello")]
    assert tokenizer._token_end is None and not hasattr(tokenizer, "_token_end_id")


def test_added_tokens(models, tmp_path):
    path = make_folder(
        models,
        tmp_path,
        "llama",
        added_tokens_decoder={
            "380": {"content": "<|end|>", "special": True, "rstrip": True},
            "382": {"content": "<tool>", "special": False},
        },
    )
    (path / "added_tokens.json").write_text('{"<later>": 390}')
    tokenizer = load_tokenizer(path)
    ids = tokenizer.encode("hello<|end|>  <tool>hello<later>")[0]
    assert [i for i in ids if i >= 380] == [380, 382, 390]
    assert tokenizer.tokenize("a<|end|>  b")[-2:] == ["<|end|>", "b"]
    assert tokenizer.decode(ids) == "hello<tool>hello<later>"
    assert tokenizer._vocab_size == 391
    assert tokenizer.id_to_token(385) == "" and tokenizer.decode([385, 400, -1]) == ""
    assert pickle.loads(pickle.dumps(tokenizer)).encode("a<tool>") == tokenizer.encode("a<tool>")


@pytest.mark.parametrize("kind", TRAINING)
def test_folder_pieces_of_text(models, tmp_path, kind):
    """What comes id by id is what decoding makes of all ids."""
    tokenizer = from_folder(make_folder(models, tmp_path, kind))
    for text in PLAIN + SPECIAL + ["🙂 emoji 🙂", "naïve"]:
        ids = tokenizer.encode(text)[0]
        decoder = IncrementalDecoder(tokenizer)
        assert "".join(decoder.push(i) for i in ids) + decoder.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", TRAINING)
def test_folder_property(models, tmp_path_factory, kind):
    tokenizer = from_folder(make_folder(models, tmp_path_factory.mktemp(kind), kind))
    specials = sorted(tokenizer._added)
    parts = st.lists(st.one_of(TEXT, st.sampled_from(specials)))

    @quick
    @given(parts.map("".join))
    def check(text):
        ids, segments = tokenizer.encode(text)
        assert len(ids) == len(segments) and all(0 <= i < tokenizer._vocab_size for i in ids)
        tokenizer.decode(ids)
        if not any(token in text for token in specials) and kind in ("llama", "gemma", "t5"):
            core = [i for i in ids if tokenizer.id_to_token(i) not in specials or i == unknown]
            assert core == tokenizer.sp_model.encode(text)

    unknown = tokenizer.sp_model.unk_id()
    check()


def test_folder_errors(models, tmp_path):
    path = make_folder(models, tmp_path / "a", "t5")
    for configuration, message in (
        ({"tokenizer_class": "XLMRobertaTokenizer"}, "kind 'XLMRobertaTokenizer'.*tokenizer.json"),
        (
            {"tokenizer_class": "DebertaV2TokenizerFast", "split_by_punct": True},
            "'DebertaV2TokenizerFast' with split_by_punct",
        ),
        ({"added_tokens_decoder": {"x": "<new>"}}, "tokenizer_config.json.*found 'x': '<new>'"),
        ({"added_tokens_decoder": {"7": {}}}, "tokenizer_config.json.*found '7'"),
    ):
        (path / "tokenizer_config.json").write_text(json.dumps(configuration))
        with pytest.raises(ValueError, match=message):
            load_tokenizer(path)
    (path / "tokenizer_config.json").unlink()
    (path / "config.json").unlink()
    with pytest.raises(ValueError, match="neither tokenizer_config.json.*SpTokenizer"):
        load_tokenizer(path)
    (path / "config.json").write_text('{"model_type": "camembert"}')
    with pytest.raises(ValueError, match="spiece.model alone .*'camembert'"):
        load_tokenizer(path)
    with pytest.raises(FileNotFoundError, match="spm.model"):
        load_tokenizer(tmp_path)


def test_order_of_files(models, tmp_path):
    path = make_folder(models, tmp_path, "llama")
    (path / "vocab.txt").write_text("[UNK]\n")
    assert isinstance(load_tokenizer(path), SpTokenizer)
    assert from_folder is load_tokenizer


# ---------------------------------------------------------------------- GPT-2


@pytest.fixture
def gpt2(tmp_path):
    rust = pytest.importorskip("tokenizers")
    trained = rust.ByteLevelBPETokenizer()
    trained.train_from_iterator(
        CORPUS, vocab_size=330, special_tokens=["<|endoftext|>"], show_progress=False
    )
    trained.save_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    return tmp_path


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"add_prefix_space": True, "add_bos_token": True, "pad_token": "<|pad|>"},
        {"added_tokens_decoder": {"330": {"content": "<x>", "special": False}}},
    ],
)
def test_gpt2_files_equal_transformers(gpt2, configuration):
    configuration = {"tokenizer_class": "GPT2Tokenizer", **configuration}
    for entry in configuration.get("added_tokens_decoder", {}).values():
        entry.update(lstrip=False, rstrip=False, single_word=False, normalized=False)
    (gpt2 / "tokenizer_config.json").write_text(json.dumps(configuration))
    ours, theirs = load_tokenizer(gpt2), transformers_of(gpt2)
    for text in [*PLAIN, "a<|endoftext|>b", "🙂 <|pad|><x> é"]:
        assert ours.encode(text)[0] == theirs(text)["input_ids"], text
        ids = ours.encode(text)[0]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.encode("a", "b")[0] == theirs("a", "b")["input_ids"]
    assert ours._token_end_id == theirs.eos_token_id and ours._vocab_size == len(theirs)


def test_gpt2_errors(gpt2):
    configuration = gpt2 / "tokenizer_config.json"
    configuration.write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    with pytest.raises(ValueError, match="GPT-2's tokenizer only, found 'Qwen2Tokenizer'; save"):
        load_tokenizer(gpt2)
    configuration.write_text('{"added_tokens_decoder": {"500": "<far>"}}')
    with pytest.raises(ValueError, match="'<far>' cannot have the id 500: expected 330"):
        load_tokenizer(gpt2)
    configuration.unlink()
    (gpt2 / "vocab.json").write_text("[")
    with pytest.raises(ValueError, match="vocab.json' and its merges.txt are no vocabulary"):
        load_tokenizer(gpt2)
    (gpt2 / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no merges.txt"):
        load_tokenizer(gpt2)
