"""Text in, text out: `TextGenerator` and what writes ids as text piece by piece.

python -m pytest tests/test_text_generation.py        (KERAS_BACKEND says the backend)
"""

import json

import numpy as np
import pytest
import tokenizers as rust
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import build

from bert4keras3.generation import GenerationError, IncrementalDecoder, Options, TextGenerator
from bert4keras3.generation.pieces import StopCutter
from bert4keras3.tokenizers import HuggingFaceTokenizer, Tokenizer

CORPUS = [
    "The quick brown fox doesn't jump over the lazy dog, does it? It's 3.14, I'm told.",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "Mixed 中文 and English 🙂🙂 emoji 👩‍👩‍👧 ünïcödé — naïve café.",
    "  leading blanks,\ttabs and\nnew lines  ",
] * 3
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "", "##", "\u3000", "it", "don", "x", "##x"]
BERT_WORDS += [*"'’-(.,，。！+床前明月0123stmrldve", "re", "ve", "ll", "##e", "##1", "##月", "�"]


# ----------------------------------------------------------------- tokenizers


def template(tokenizer, single, *names):
    specials = [(name, tokenizer.token_to_id(name)) for name in names]
    return rust.processors.TemplateProcessing(single=single, special_tokens=specials)


def byte_level():
    tokenizer = rust.Tokenizer(rust.models.BPE())
    tokenizer.pre_tokenizer = rust.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = rust.decoders.ByteLevel()
    trainer = rust.trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=sorted(rust.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_fallback():
    """In the form of Llama 2: blanks are ▁, one before the text, unknown characters are bytes."""
    tokenizer = rust.Tokenizer(rust.models.BPE(unk_token="<unk>", fuse_unk=True))
    trainer = rust.trainers.BpeTrainer(
        vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    normalizers = rust.normalizers
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.train_from_iterator(CORPUS[:1], trainer)
    content = json.loads(tokenizer.to_str())
    vocab = content["model"]["vocab"]
    vocab.update({token: len(vocab) + i for i, token in enumerate(BYTES)})
    content["model"]["byte_fallback"] = True
    tokenizer = rust.Tokenizer.from_str(json.dumps(content))
    decoders = rust.decoders
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = template(tokenizer, "<s> $A", "<s>")
    return tokenizer


def unigram():
    tokenizer = rust.Tokenizer(rust.models.Unigram())
    tokenizer.pre_tokenizer = rust.pre_tokenizers.Metaspace()
    tokenizer.decoder = rust.decoders.Metaspace()
    trainer = rust.trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = template(tokenizer, "$A </s>", "</s>")
    return tokenizer


def word_piece():
    tokenizer = rust.Tokenizer(rust.models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = rust.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = rust.decoders.WordPiece()
    trainer = rust.trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = template(tokenizer, "[CLS] $A [SEP]", "[CLS]", "[SEP]")
    return tokenizer


def characters(decoder=True):
    vocab = {char: i for i, char in enumerate(["<unk>", *sorted(set("".join(CORPUS)))])}
    tokenizer = rust.Tokenizer(rust.models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = rust.pre_tokenizers.Split("", "isolated")
    if decoder:
        tokenizer.decoder = rust.decoders.Fuse()
    return tokenizer


def suffixes():
    tokenizer = rust.Tokenizer(rust.models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = rust.pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = rust.decoders.BPEDecoder()
    trainer = rust.trainers.BpeTrainer(
        vocab_size=200, special_tokens=["</s>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


RUST = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "unigram": unigram,
    "word pieces": word_piece,
    "characters": characters,
    "characters without decoder": lambda: characters(decoder=False),
    "suffixes": suffixes,
}
KINDS = [*RUST, "bert"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {"bert": Tokenizer({token: i for i, token in enumerate(BERT_WORDS)})}
    for name, make in RUST.items():
        path = folder / f"{name}.json"
        make().save(str(path))
        made[name] = HuggingFaceTokenizer(path)
    return made


# -------------------------------------------------------- incremental decoder


def pieces_of(tokenizer, ids, size=1, context=()):
    decoder = IncrementalDecoder(tokenizer, context)
    pieces = [decoder.push(ids[i : i + size]) for i in range(0, len(ids), size)]
    return [*pieces, decoder.finish()]


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_make_the_whole(kind, tokenizers):
    tokenizer = tokenizers[kind]
    one = st.integers(0, tokenizer._vocab_size - 1 + 3 * (kind != "bert"))
    some = st.lists(one, min_size=1, max_size=6)
    # Patterns that come again and again are what the window finds hardest.
    repeated = st.tuples(some, st.integers(1, 60)).map(lambda pair: pair[0] * pair[1])
    strategy = st.lists(st.one_of(some, some, repeated), max_size=8).map(lambda x: sum(x, []))

    @settings(max_examples=150, deadline=None)
    @given(strategy, st.integers(1, 9))
    def holds(ids, size):
        assert "".join(pieces_of(tokenizer, ids, size)) == tokenizer.decode(ids)

    holds()


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_each_piece_is_final(kind, tokenizers):
    tokenizer = tokenizers[kind]
    ids = np.random.default_rng(0).integers(0, tokenizer._vocab_size, 400).tolist()
    decoder, sent = IncrementalDecoder(tokenizer), ""
    for n, i in enumerate(ids, 1):
        sent += decoder.push(i)
        for other in (ids[n : n + 5], ids[:3]):
            assert tokenizer.decode(ids[:n] + other).startswith(sent)
    assert sent + decoder.finish() == tokenizer.decode(ids)
    assert len(sent) > 100


BERT_CASES = [
    ["it", "'", "s", "x"],
    ["it", "'", "r", "##e", "x"],
    ["it", "'", "r", "##e", "##x", "x"],
    ["it", "'", "s", "", "", "[UNK]", "x"],
    ["x", "\u3000", "x"],
    ["1", ".", "2", ".", "3", ".", "0"] * 40,
    ["x", *["0", "."] * 60],
    ["x", "x", *["0", "."] * 60],
    ["##x"] * 200,
    ["[UNK]"] * 200 + ["x", "月", "x"] + ["[PAD]"] * 200 + ["x"],
    ["-", "(", "x", "+", "1"] * 30,
    ["it", "'", "s", "x"] * 40,
]


@pytest.mark.once
@pytest.mark.parametrize("tokens", BERT_CASES, ids=lambda tokens: " ".join(tokens[:7]))
def test_blanks_that_later_words_decide(tokens, tokenizers):
    tokenizer = tokenizers["bert"]
    ids = tokenizer.tokens_to_ids(tokens)
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.once
def test_characters_come_whole_and_soon(tokenizers):
    tokenizer = tokenizers["byte level"]
    ids = tokenizer.encode("ok 𠮷𠮷🙂 你")[0]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == "ok 𠮷𠮷🙂 你" and "�" not in "".join(pieces)
    assert len(ids) > 12 and pieces[-1] == ""
    plain = tokenizers["bert"]
    assert pieces_of(plain, plain.tokens_to_ids(list("床前明月，"))) == [*"床前明月，", ""]


@pytest.mark.once
def test_invalid_bytes(tokenizers):
    tokenizer = tokenizers["byte fallback"]
    first, *_ = tokenizer.tokens_to_ids(["<0xE4>"])
    newline, letter = tokenizer.tokens_to_ids(["<0x0A>", "e"])
    for ids in ([first], [newline, first, letter], [letter, newline, letter], [first] * 300):
        assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)
    tokenizer = tokenizers["byte level"]
    half = tokenizer.tokens_to_ids(["ä"])
    assert "".join(pieces_of(tokenizer, half * 300)) == "�" * 300
    # Much text waits for nothing: each next byte settles the one before.
    assert max(map(len, pieces_of(tokenizer, half * 300))) == 1


class Counting:
    """A tokenizer that counts the ids it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.count = tokenizer, 0
        self.id_to_token = tokenizer.id_to_token

    def decode(self, ids):
        self.count += len(ids)
        return self.tokenizer.decode(ids)


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("varied", [True, False])
def test_cost_grows_with_the_length(kind, varied, tokenizers):
    rng, tokenizer = np.random.default_rng(0), tokenizers[kind]
    for _ in range(1 if varied else 12):
        pattern = rng.integers(0, tokenizer._vocab_size, 4000 if varied else 3).tolist()
        ids = (pattern * 4000)[:4000]
        counting = Counting(tokenizer)
        pieces_of(counting, ids)
        assert counting.count < 100 * len(ids), pattern


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_context_is_not_returned(kind, tokenizers):
    tokenizer, rng = tokenizers[kind], np.random.default_rng(1)
    for length in (1, 5, 200):
        ids = rng.integers(0, tokenizer._vocab_size, length + 60).tolist()
        known, whole = tokenizer.decode(ids[:length]), tokenizer.decode(ids)
        if whole.startswith(known):
            found = "".join(pieces_of(tokenizer, ids[length:], context=ids[:length]))
            assert found == whole[len(known) :]
    assert pieces_of(tokenizer, [], context=ids) == [""]


@pytest.mark.once
def test_context_that_changes(tokenizers):
    tokenizer = tokenizers["bert"]
    context, ids = (tokenizer.tokens_to_ids(x) for x in (["x", "it", "'", "s"], ["x", "x"]))
    assert tokenizer.decode(context + ids) == "x it's x x"
    assert pieces_of(tokenizer, ids, context=context) == [" x", " x", ""]


@pytest.mark.once
def test_a_decoder_can_be_used_again(tokenizers):
    decoder = IncrementalDecoder(tokenizers["byte level"])
    for _ in range(2):
        ids = np.array(tokenizers["byte level"].encode("你好 world")[0])
        assert decoder.push(ids) + decoder.finish() == "你好 world"


# --------------------------------------------------------------- stop strings


def cut(text, stops, size):
    cutter = StopCutter(stops)
    kept = ""
    for i in range(0, len(text), size):
        kept += cutter.push(text[i : i + size])
        if cutter.found:
            return kept
    return kept + cutter.finish()


@pytest.mark.once
@settings(max_examples=300, deadline=None)
@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.integers(1, 5),
)
@example("abca", ["abca", "bc"], 1)
@example("abca", ["abca", "bc"], 5)
@example("aab", ["ab"], 1)
def test_stop_strings_at_any_border(text, stops, size):
    ends = [(text.index(s) + len(s), text.index(s)) for s in stops if s in text]
    assert cut(text, stops, size) == (text[: min(ends)[1]] if ends else text)


@pytest.mark.once
def test_a_beginning_is_held_back():
    cutter = StopCutter(("end",))
    found = [cutter.push(piece) for piece in ("xe", "n", "e", "nd")]
    assert (found, cutter.found, cutter.finish()) == (["x", "", "en", ""], True, "")


# ------------------------------------------------------------- text generator


def save_folder(folder, tokenizer, seed=0, **kwargs):
    """A tiny random Llama with a tokenizer, in Hugging Face form."""
    size = tokenizer.get_vocab_size()
    transformer = build("llama", vocab_size=size, max_position=96, pad_token_id=None, **kwargs)
    transformer.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("llama"), byte_level())


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator(folder)


PROMPTS = ["The", "床前明月光，", "The quick brown fox doesn't", "🙂"]
DRAWS = {"temperature": 1.5, "top_k": 40, "seed": 3}


@pytest.mark.parametrize("options", [{}, DRAWS], ids=["greedy", "drawn"])
def test_a_stream_is_what_generate_returns(generator, options):
    for prompt in PROMPTS[1:3]:
        pieces = list(generator.stream(prompt, 16, **options))
        assert all(pieces)
        assert "".join(pieces) == generator.generate(prompt, 16, **options)


@pytest.mark.once
def test_texts_are_the_ids_of_the_model(generator):
    prompt, tokenizer = PROMPTS[2], generator.tokenizer
    ids = tokenizer.encode(prompt)[0]
    found = generator.transformer.generate(ids, 24, **DRAWS)
    text = generator.generate(prompt, 24, **DRAWS)
    assert prompt + text == tokenizer.decode(ids + found)
    assert np.unique(found).size > 5


@pytest.mark.once
def test_a_list_of_prompts_of_several_lengths(generator):
    alone = [generator.generate(prompt, 12) for prompt in PROMPTS]
    assert generator.generate(PROMPTS, 12) == alone
    assert generator.generate(PROMPTS, 12, batch_size=3, progress=False) == alone


def test_samples(generator):
    samples = generator.generate("The", 12, num_samples=3, **DRAWS)
    assert len(samples) == len(set(samples)) == 3
    rows = generator.generate(["The", "🙂"], 12, num_samples=3, **DRAWS)
    assert [len(row) for row in rows] == [3, 3] and rows[0] == samples
    assert samples[0] == generator.generate("The", 12, **DRAWS)


@pytest.mark.once
def test_a_stop_string_cuts_wherever_pieces_end(generator):
    whole = generator.generate("The", 12, **DRAWS)
    assert len(whole) > 10
    for place in (1, 4, 5):
        stop = whole[place : place + 3]
        expected = whole[: whole.index(stop)]
        found = generator.generate("The", 12, stop=stop, **DRAWS)
        assert found == expected
        assert "".join(generator.stream("The", 12, stop=["no such", stop], **DRAWS)) == expected
    several = generator.generate(["The", "🙂"], 12, stop=stop, batch_size=1, **DRAWS)
    assert several[0] == expected
    assert generator.generate("The", 12, stop=stop, num_samples=2, **DRAWS)[0] == expected
    assert generator.generate("The", 12, stop="no such", batch_size=2, **DRAWS) == whole


@pytest.mark.once
def test_a_stream_that_is_left_computes_no_further(generator):
    stream = generator.stream("The", 24, **DRAWS)
    next(stream)
    stream.close()
    assert list(stream) == []


@pytest.mark.once
@pytest.mark.slow
def test_the_end_token_is_not_part_of_the_text(generator):
    ids = generator.transformer.generate(generator.tokenizer.encode("The")[0], 12, **DRAWS)
    # Not a special token: decoding would write it.
    end = next(i for i in ids[2:] if generator.tokenizer.decode([i]).isprintable())
    before = generator.tokenizer.decode(ids[: ids.index(end)])
    assert generator.generate("The", 12, end_token=end, **DRAWS) == before
    assert "".join(generator.stream("The", 12, end_token=[end, 0], **DRAWS)) == before
    assert generator.generate("The", 12, end_token=end, num_samples=2, **DRAWS)[0] == before


@pytest.mark.once
def test_the_end_token_is_found(generator, folder, tmp_path):
    assert generator.transformer.end_token_id is None
    assert generator.end_token == 0  # the tokenizer's <|endoftext|>
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    assert TextGenerator(tmp_path).end_token == 7
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": None}))
    assert TextGenerator(tmp_path).end_token == 7
    file.write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert TextGenerator(tmp_path).end_token == [5, 6]
    file.write_text("[]")
    with pytest.raises(ValueError, match="generation_config.json"):
        TextGenerator(tmp_path)


@pytest.mark.once
def test_a_transformer_and_a_tokenizer(generator, folder):
    same = TextGenerator(generator.transformer, generator.tokenizer)
    assert same.generate("The", 8) == generator.generate("The", 8)
    other = TextGenerator(folder, generator.tokenizer, prefix="other-")
    assert other.generate("The", 8) == generator.generate("The", 8)


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte fallback", "unigram", "word pieces"])
def test_continuations_begin_with_their_blank(kind, tmp_path):
    generator = TextGenerator(save_folder(tmp_path, RUST[kind](), end_token_id=1))
    tokenizer, prompt = generator.tokenizer, "The fox"
    (ids,) = generator._encode([prompt])
    new = generator.transformer.generate(ids, 20, end_token=-1, **DRAWS)
    text = generator.generate(prompt, 20, end_token=-1, **DRAWS)
    assert prompt + text == tokenizer.decode(ids + new)
    assert text != tokenizer.decode(new) or not text.startswith(" ")
    assert "".join(generator.stream(prompt, 20, end_token=-1, **DRAWS)) == text


def rows_of(generator, *prompts):
    return [generator.tokenizer.ids_to_tokens(row) for row in generator._encode(prompts)]


@pytest.mark.once
def test_no_end_token_follows_the_prompt(tmp_path):
    generators = {}
    for kind in ("byte level", "byte fallback", "unigram", "word pieces"):
        (tmp_path / kind).mkdir()
        generators[kind] = TextGenerator(save_folder(tmp_path / kind, RUST[kind]()))
    assert rows_of(generators["word pieces"], "", "[SEP]") == [["[CLS]"], ["[CLS]", "[SEP]"]]
    assert rows_of(generators["byte fallback"], "", "</s>") == [["<s>"], ["<s>", "</s>"]]
    assert rows_of(generators["byte level"], "<|endoftext|>") == [["<|endoftext|>"]]
    assert "</s>" not in rows_of(generators["unigram"], "The fox")[0]
    assert isinstance(generators["word pieces"].generate("", 4), str)
    for kind in ("unigram", "byte level"):
        with pytest.raises(ValueError, match="prompt 1 is empty.*adds no start token"):
            generators[kind].generate(["The", ""], 4)


@pytest.mark.slow
@pytest.mark.parametrize("application", ["lm", "unilm"])
def test_bert(application):
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz床前明月光，。"]
    tokenizer = Tokenizer({token: i for i, token in enumerate(vocab)})
    transformer = build(f"bert_{application}", vocab_size=len(vocab))
    generator = TextGenerator(transformer, tokenizer)
    assert generator.end_token == 3
    expected = ["[CLS]", "床", "前"] + ["[SEP]"] * (application == "unilm")
    assert rows_of(generator, "床前") == [expected]
    text = generator.generate("a", 12, forbidden_tokens=[1, 2, 3], **DRAWS)
    pieces = generator.stream("a", 12, forbidden_tokens=[1, 2, 3], **DRAWS)
    assert text == "".join(pieces) and len(text) > 10


@pytest.mark.once
@pytest.mark.slow
def test_beams(generator):
    pytest.importorskip("bert4keras3.generation.beam")
    found = generator.generate(PROMPTS[:2], 8, num_beams=3, stop="no such")
    assert all(isinstance(text, str) for text in found)
    assert generator.generate(PROMPTS[0], 8, num_beams=3) == found[0]


# --------------------------------------------------------------------- errors


@pytest.mark.once
def test_errors_of_the_model(folder, tmp_path, generator):
    with pytest.raises(FileNotFoundError, match="no model folder at"):
        TextGenerator(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="no tokenizer in"):
        TextGenerator(tmp_path)
    with pytest.raises(TypeError, match="expected a folder or a Transformer.*Functional"):
        TextGenerator(generator.transformer.model, generator.tokenizer)
    with pytest.raises(TypeError, match="a tokenizer is needed"):
        TextGenerator(generator.transformer)
    with pytest.raises(TypeError, match="nothing else is taken"):
        TextGenerator(generator.transformer, generator.tokenizer, with_lm=True)
    with pytest.raises(TypeError, match="takes no 'with_lmm'"):
        TextGenerator(folder, with_lmm=True)
    with pytest.raises(ValueError, match="sees both ways"):
        TextGenerator(build("bert", with_mlm="linear"), generator.tokenizer)


@pytest.mark.once
@pytest.mark.parametrize("method", ["generate", "stream"])
def test_errors_come_at_the_call(method, generator):
    call = getattr(generator, method)
    for prompt in (7, None, ["The", 7]) if method == "generate" else (7, None, ["The"]):
        with pytest.raises(TypeError, match="expected a str"):
            call(prompt, 4)
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        call("", 4)
    for stop in (["a", ""], "", [3]):
        with pytest.raises(ValueError, match="stop: expected strings"):
            call("The", 4, stop=stop)
    with pytest.raises(ValueError, match="temperature"):
        call("The", 4, temperature=-1)
    with pytest.raises(ValueError, match="beyond the model's max_position 96"):
        call("The", 96)
    with pytest.raises(TypeError, match="takes no 'segments'"):
        call("The", 4, segments=[0])
    with pytest.raises(TypeError, match="unexpected keyword"):
        call("The", 4, temprature=1)
    with pytest.raises(ValueError, match="end_token"):
        call("The", 4, end_token=10**6)


def test_nan_is_an_error(folder):
    generator = TextGenerator(folder)
    for variable in generator.transformer.model.weights:
        variable.assign(np.full(variable.shape, np.nan))
    with pytest.raises(GenerationError, match="NaN"):
        generator.generate("The", 4)
    with pytest.raises(GenerationError, match="NaN"):
        list(generator.stream("The", 4))


@pytest.mark.once
@pytest.mark.slow
def test_options_are_those_of_the_model(generator):
    """Every option of `Options` reaches the model."""
    values = {
        "sampler": "greedy",
        "repetition_penalty": 1.3,
        "no_repeat_ngram": 2,
        "min_new_tokens": 4,
        "stop_sequences": [[5, 6]],
        "forbidden_tokens": [9],
    }
    assert set(values) < set(Options.__dataclass_fields__)
    ids = generator.transformer.generate(generator.tokenizer.encode("The")[0], 12, **values)
    assert generator.generate("The", 12, **values) == generator.tokenizer.decode(ids)
