"""T5: halves, options, files, documented uses.  KERAS_BACKEND=jax pytest tests/test_t5.py"""

import importlib
import json
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import sentencepiece
import tiny
from tiny import SIZES, assert_close, build, predict, randomize

from bert4keras3 import ops
from bert4keras3.cli import main
from bert4keras3.generation import AutoRegressiveDecoder, Conversation, TextGenerator
from bert4keras3.layers import Lambda
from bert4keras3.models import T5, T5_Decoder, T5_Encoder, build_transformer_model
from bert4keras3.ops import keras
from bert4keras3.tokenizers import SpTokenizer
from bert4keras3.weights import CheckpointError
from bert4keras3.weights.h5 import numbered_groups

GATED = tiny.GATED
TOKENS = np.array([[7, 8, 9, 10], [11, 12, 0, 0]], "int32")
DECODER_TOKENS = np.array([[0, 5, 6], [0, 7, 8]], "int32")


def make(**kwargs):
    model = build_transformer_model(
        **{**SIZES, "model": "t5", "with_lm": "linear", "return_keras_model": False, **kwargs}
    )
    randomize(model.model)
    return model


# ------------------------------------------------------------------- halves


def test_halves_make_the_whole():
    """What the encoder gives says itself what is padding; the layers are the same objects."""
    t5 = make(name="Small")
    assert (t5.encoder.name, t5.decoder.name) == ("Small_Encoder", "Small_Decoder")
    (whole,) = predict(t5.model, [TOKENS, DECODER_TOKENS])
    (context,) = predict(t5.encoder, [TOKENS])
    assert not context[1, 2:].any() and context[1, :2].all()
    (halves,) = predict(t5.decoder, [context, DECODER_TOKENS])
    assert_close(halves, whole)
    for model in (t5.encoder, t5.decoder):
        ours = {id(layer) for layer in model.layers if layer.weights}
        assert ours < {id(layer) for layer in t5.model.layers}
    with pytest.raises(ValueError, match="unknown model .t5.1.2"):
        build_transformer_model(model="t5.1.2", **SIZES)


KEYS = {
    f"{version}{half}": cls
    for version in ("t5", "t5.1.0", "t5.1.1", "mt5.1.1")
    for half, cls in (("", T5), ("_encoder", T5_Encoder), ("_decoder", T5_Decoder))
}


@pytest.mark.once
@pytest.mark.parametrize("key", KEYS)
def test_keys_and_versions(key):
    model = (
        make(model=key)
        if "encoder" not in key
        else build_transformer_model(model=key, return_keras_model=False, **SIZES)
    )
    assert type(model) is KEYS[key]
    version = key.partition("_")[0]
    assert model.version == ("t5.1.0" if version == "t5" else version)
    assert ("Decoder-Output-LM" in model.layers) == ("5.1.1" in key and "encoder" not in key)


@pytest.mark.once
def test_version_as_argument_and_in_the_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**SIZES, "version": "mt5.1.1"}))
    assert build_transformer_model(path, model="t5", return_keras_model=False).version == "mt5.1.1"
    for version in ("t5.1.0", "t5.1.1"):
        model = build_transformer_model(path, model="t5", version=version, return_keras_model=False)
        assert model.version == version
    with pytest.raises(ValueError, match="version: expected one of .* got 't6'"):
        build_transformer_model(path, model="t5", version="t6")


@pytest.mark.slow
def test_options():
    """Segments, smaller embeddings, fixed lengths, no head, conditions, a prefix."""
    segments = np.array([[0, 1, 1, 0], [1, 0, 0, 0]], "int32")
    model = make(segment_size=2, embedding_size=8, sequence_length=4, decoder_sequence_length=3)
    names = ["Encoder-Input-Token", "Segment-Input-Token", "Decoder-Input-Token"]
    assert [x.name for x in model.model.inputs] == names
    assert [x.shape[1] for x in model.model.inputs] == [4, 4, 3]
    (found,) = predict(model.model, [TOKENS, segments, DECODER_TOKENS])
    (other,) = predict(model.model, [TOKENS, 0 * segments, DECODER_TOKENS])
    assert found.shape == (2, 3, 50) and np.abs(found - other).max() > 1e-3
    assert model.generate([[7, 8, 9, 10]], 3, segments=[[0, 1, 1, 0]]) != model.generate(
        [[7, 8, 9, 10]], 3, segments=[[1, 0, 0, 0]]
    )
    hidden = make(with_lm=False)
    assert predict(hidden.model, [TOKENS, DECODER_TOKENS])[0].shape == (2, 3, 16)
    with pytest.raises(ValueError, match="no language-model head"):
        hidden.generate([[5]])
    unscaled, scaled = (make(logit_scale=x) for x in (False, True))
    a, b = (predict(x.model, [TOKENS, DECODER_TOKENS])[0] for x in (unscaled, scaled))
    assert_close(a * 16**-0.5, b)
    condition = keras.Input((4,))
    model = make(layer_norm_cond=condition, additional_input_layers=condition, prefix="My-")
    assert model.model.layers and len(model.model.inputs) == 3
    inputs = [TOKENS, DECODER_TOKENS]
    one, two = (predict(model.model, [*inputs, tiny.draw(2, 4, seed=i)])[0] for i in (0, 1))
    assert np.abs(one - two).max() > 1e-3


@pytest.mark.once
def test_refusals():
    for options, error, message in (
        ({"residual_attention_scores": True}, TypeError, "residual_attention_scores"),
        ({"model": "misakat5", "cross_position_bias": True}, ValueError, "rotary positions"),
        ({"with_pool": True}, TypeError, "T5 cannot have with_pool"),
        ({"application": "lm"}, ValueError, "T5 can be built as"),
        ({"head": "sequence_classification"}, ValueError, "head: expected one of"),
    ):
        with pytest.raises(error, match=message):
            make(**options)


def test_keep_tokens():
    """Rows of the token table and of the output projection are selected alike."""
    keep = [0, 1, 9, 8, 7, 30]
    whole, cut = make(**GATED, version="t5.1.1"), make(**GATED, version="t5.1.1", keep_tokens=keep)
    arrays = {}
    for name, tensors in whole.table("tf").items():
        for tensor, weight in zip(tensors, whole.layers[name].weights, strict=True):
            arrays[tensor.name] = tensor.write(weight.numpy())
    cut.load_weights_from_checkpoint(arrays)
    inputs = [np.array([[4, 2, 3]], "int32"), np.array([[0, 5]], "int32")]
    (expected,) = predict(whole.model, [np.array(keep, "int32")[x] for x in inputs])
    (found,) = predict(cut.model, inputs)
    assert_close(found, expected[:, :, keep])


# -------------------------------------------------------------- weight files


ORDERS = {
    "plain": {},
    "one-block": {"num_hidden_layers": 1},
    "three-blocks": {"num_hidden_layers": 3, "num_decoder_layers": 1},
    "own-bias": {"share_position_bias": False},
    "rotary": {"model": "misakat5", "prefix": "My-"},
    "cross": {"cross_position_bias": True},
}


def strip_names(path):
    """As files were before Keras stored the layers' names in them."""
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None))


@pytest.mark.once
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("saved, now", [(0.1, 0.0), (0.0, 0.1)])
def test_order_follows_the_dropout_that_was_saved(saved, now, order, tmp_path):
    """Two norms change places with the dropout: the configuration says which order a file has."""
    config = {**SIZES, **GATED, "model": "t5.1.1", "with_lm": "linear", **ORDERS[order]}
    path, weights = tmp_path / "config.json", tmp_path / "model.weights.h5"
    path.write_text(json.dumps({**config, "hidden_dropout_prob": saved}))
    first = build_transformer_model(path, return_keras_model=False)
    randomize(first.model)
    first.save_weights(weights)
    named = shutil.copy(weights, tmp_path / "named.weights.h5")
    strip_names(weights)
    inputs = [TOKENS, DECODER_TOKENS]
    expected = predict(first.model, inputs)[0]
    for file in (weights, named):
        second = build_transformer_model(
            path, keras_weights_path=file, dropout_rate=now, return_keras_model=False
        )
        assert_close(predict(second.model, inputs)[0], expected, 0)
    # The rule is what the graphs say.
    wanted = numbered_groups(first.model)
    found = second.groups_in_files() or numbered_groups(second.model)
    weighted = {layer.name for layer in first.model.layers if layer.weights}
    assert {k: found[k] for k in weighted} == {k: wanted[k] for k in weighted}
    # Without a configuration file, what stands for its name says it.
    kwargs = {**config, "hidden_dropout_prob": saved, "dropout_rate": now}
    third = build_transformer_model(**kwargs, keras_weights_path=weights)
    assert_close(predict(third, inputs)[0], expected, 0)
    # What is saved from here is read again, under either dropout.
    second.save_weights(named)
    for rate in (saved, now):
        again = build_transformer_model(path, keras_weights_path=named, dropout_rate=rate)
        assert_close(predict(again, inputs)[0], expected, 0)


def test_golden_file_with_another_dropout(golden):
    """The old library's own file, saved with dropout 0.1."""
    case = json.loads((golden / "h5" / "index.json").read_text())["t5_1_1_flan"]
    model = build_transformer_model(
        model=case["model"],
        keras_weights_path=golden / "h5" / "t5_1_1_flan.weights.h5",
        **{**case["kwargs"], "dropout_rate": 0},
    )
    assert not any("Dropout" in layer.name for layer in model.layers)
    data = np.load(golden / "h5" / "t5_1_1_flan.npz")
    (found,) = predict(model, [data["input_0"], data["input_1"]])
    assert_close(found, data["output_0"])


@pytest.mark.once
def test_halves_of_a_folder(tmp_path):
    """A folder of the whole gives either half; one of the encoder only that."""
    whole = make(**GATED, version="t5.1.1")
    whole.save_pretrained(tmp_path / "whole")
    encoder = build_transformer_model(
        tmp_path / "whole", model="t5_encoder", return_keras_model=False
    )
    decoder = build_transformer_model(tmp_path / "whole", model="t5_decoder")
    (context,) = predict(encoder.model, [TOKENS])
    (found,) = predict(decoder, [context, DECODER_TOKENS])
    assert_close(found, predict(whole.model, [TOKENS, DECODER_TOKENS])[0])
    encoder.save_pretrained(tmp_path / "encoder")
    again = build_transformer_model(tmp_path / "encoder", return_keras_model=False)
    assert type(again) is T5_Encoder
    assert_close(predict(again.model, [TOKENS])[0], context)
    with pytest.raises(ValueError, match="expected a checkpoint of 'bert'"):
        build_transformer_model(tmp_path / "encoder", model="bert")


@pytest.mark.once
def test_what_hugging_face_does_not_have(tmp_path):
    for options, message in (
        ({"cross_position_bias": True}, "cross attention"),
        ({"logit_scale": False, "cross_position_bias": False}, "share_embedding"),
        ({**GATED, "logit_scale": True, "version": "mt5.1.1"}, "logit_scale"),
        ({**GATED, "version": "t5.1.1", "hidden_act": ["gelu", "relu"]}, "feed-forward"),
        ({**GATED, "version": "t5.1.1", "segment_size": 2}, "segments"),
        ({"model": "misakat5"}, "no Hugging Face form"),
        ({"model": "t5_decoder"}, "no Hugging Face form"),
    ):
        with pytest.raises(CheckpointError, match=message):
            make(**options).save_pretrained(tmp_path)
    config = {"model_type": "t5", "vocab_size": 9, "num_layers": 1, "num_heads": 2}
    for change, message in (
        ({}, "needs the keys"),
        ({"d_model": 8, "d_ff": 8, "feed_forward_proj": "gated-sine"}, "feed_forward_proj"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            build_transformer_model(tmp_path)


# ---------------------------------------------------------------- generation


@pytest.fixture(scope="module")
def t5():
    return build("t5_1_1")


def test_cache_model_of_any_source_length(t5):
    """`input_lengths=[None, n]`: padded at either side, and to a length of its own."""
    sources, expected = [[7, 8, 9, 10], [11, 12], [30] * 40], None
    for width in (40, 57):
        model = t5.build_cache_model([None, 12], end_token=3, index_bias=1)
        for side in (0, 1):
            tokens = np.zeros((3, width), "int32")
            for row, source in zip(tokens, sources, strict=True):
                row[slice(len(source)) if side else slice(width - len(source), None)] = source
            found = model.predict([tokens, np.zeros((3, 12), "int32")], verbose=0)
            expected = found if expected is None else expected
            np.testing.assert_array_equal(found, expected)
    texts = t5.generate(sources, 11, end_token=3)
    for row, text in zip(expected, texts, strict=True):
        assert row[1 : 1 + len(text)].tolist() == text
    assert [x.name for x in model.inputs] == ["Encoder-Input-Token", "Decoder-Input-Token-cache-12"]
    # a longer beginning, and the start token counts without a bias
    prompts = np.zeros((3, 12), "int32")
    prompts[:, 1] = texts[1][0]
    found = t5.build_cache_model([57, 12], end_token=3).predict([tokens, prompts], verbose=0)
    np.testing.assert_array_equal(found[1], expected[1])
    assert (found[:, :2] == [0, texts[1][0]]).all() and texts[1][0]


def test_cache_model_of_the_decoder_alone(t5):
    """It takes what the encoder predicts; padding shows in it."""
    (context,) = predict(t5.encoder, [TOKENS])
    prompts = np.zeros((2, 9), "int32")
    whole = t5.build_cache_model([None, 9], 3).predict([TOKENS, prompts], verbose=0)
    model = t5._decoder.build_cache_model([None, 9], end_token=3, index_bias=1)
    assert [x.shape for x in model.inputs] == [(None, None, 16), (None, 9)]
    np.testing.assert_array_equal(model.predict([context, prompts], verbose=0), whole)
    found = keras.ops.convert_to_numpy(model([tiny.tensor(context), tiny.tensor(prompts)]))
    np.testing.assert_array_equal(found, whole)
    texts = t5._decoder.generate(context, 8, end_token=3)
    assert texts == t5.generate([[7, 8, 9, 10], [11, 12]], 8, end_token=3)
    assert t5._decoder.generate(context[1, :2], 8, end_token=3) == texts[1]


def test_samples_and_log_probs(t5):
    """Samples of a source share its memory; log-probabilities are the model's."""
    sources = [[7, 8, 9, 10], [11, 12]]
    greedy = t5.generate(sources, 5)
    assert t5.generate(sources, 5, num_samples=3, sampler="greedy") == [[x] * 3 for x in greedy]
    drawn = [t5.generate(sources, 5, temperature=1.5, seed=2, batch_size=n) for n in (1, 2)]
    assert drawn[0] == drawn[1]
    ids, log_probs = t5.generate(sources, 5, return_log_probs=True)
    tokens = np.array([[7, 8, 9, 10], [11, 12, 0, 0]], "int32")
    beginnings = np.array([[0, *text[:-1]] for text in ids], "int32")
    (probabilities,) = predict(t5.model, [tokens, beginnings])
    chosen = np.take_along_axis(probabilities, np.array(ids)[..., None], 2)[..., 0]
    assert_close(np.array(log_probs), np.log(chosen), 1e-4)


@pytest.mark.slow
def test_sources_are_encoded_some_rows_at_a_time(monkeypatch):
    """As `ops.by_rows` does with long ones on JAX's CPU backend."""
    sources = [[7, 8, 9, 10], [11, 12], [30] * 20, [5]]
    expected = build("t5").generate(sources, 4)
    monkeypatch.setattr(ops, "TOKENS_AT_ONCE", 64)
    assert build("t5").generate(sources, 4) == expected


class Gated(T5_Decoder):
    """A subclass that uses the encoder's context in a way of its own and knows no caches."""

    def apply_main_layers(self, inputs, index):
        context, x = super().apply_main_layers(inputs, index)
        most = self.apply(
            context,
            Lambda,
            function=lambda c: keras.ops.max(c, axis=1, keepdims=True),
            name=f"Max-{index}",
        )
        return [context, self.apply([x, most], keras.layers.Add, name=f"Gated-{index}")]


class GatedT5(T5):
    decoder_class = Gated


def test_own_decoders_generate():
    model = make(model=GatedT5)
    source, text = [7, 8, 9], [0]
    for _ in range(5):
        (logits,) = predict(model.model, [np.array([source]), np.array([text])])
        text.append(int(logits[0, -1].argmax()))
    # The maximum sees no mask: the source has to have the length that it is compiled for.
    found = model.build_cache_model([3, 6], end_token=-1)
    assert found.predict([np.array([source]), np.zeros((1, 6))], verbose=0)[0].tolist() == text


class Titles(AutoRegressiveDecoder):
    """The documents' way to decode on the host: the encoder once, then the decoder."""

    @AutoRegressiveDecoder.wraps(default_rtype="probas")
    def predict(self, inputs, output_ids, states):
        return self.last_token(self.t5.decoder).predict([inputs[0], output_ids])

    def generate(self, ids):
        (context,) = predict(self.t5.encoder, [np.array([ids], "int32")])
        return self.beam_search([context[0]], topk=1).tolist()[1:]


def test_host_decoder_agrees(t5):
    titles = Titles(start_id=0, end_id=-1, maxlen=4)
    titles.t5 = t5
    assert titles.generate([7, 8, 9]) == t5.generate([7, 8, 9], 4)


def test_bad_input(t5):
    for prompts, options, message in (
        ([], {}, "expected at least one"),
        ([[]], {}, "prompt 0 is empty"),
        ([[99]], {}, "expected an id from 0 to 49"),
        ([[5]], {"decoder_prompts": [[0], [0]]}, "decoder_prompts: expected one for each of 1"),
        ([[5]], {"decoder_prompts": [77]}, "expected an id from 0 to 49"),
    ):
        with pytest.raises(ValueError, match=message):
            t5.generate(prompts, 2, **options)
    with pytest.raises(ValueError, match="context 0: expected an array \\(length, 16\\)"):
        t5._decoder.generate([np.ones((3, 8))], 2)
    with pytest.raises(ValueError, match="has no decoder"):
        build("llama").generate([[5]], 2, decoder_prompts=[0])
    with pytest.raises(ValueError, match="makes another text"):
        Conversation(t5)
    with pytest.raises(ValueError, match="expected one for each of"):
        t5.build_cache_model([8], 3)
    with pytest.raises(ValueError, match="input_lengths: expected a whole number"):
        t5.build_cache_model([8, None], 3)
    model = t5.build_cache_model([None, 8], 3)
    prompts = np.zeros((1, 8), "int32")
    for tokens, message in (
        (np.zeros((1, 4)), "row 0: the source is empty"),
        (np.full((1, 4), 50), "expected an id from 0 to 49"),
        (np.ones((2, 4)), "expected the shape"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict([tokens, prompts], verbose=0)
    model = t5._decoder.build_cache_model([None, 8], 3)
    with pytest.raises(ValueError, match="row 0: the context is empty"):
        model.predict([np.zeros((1, 4, 16)), prompts], verbose=0)


# ------------------------------------------------------------- text to text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A T5 in Hugging Face form with a SentencePiece model."""
    path = tmp_path_factory.mktemp("t5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox", "jumps over the lazy dog", "床前明月光"]),
        model_prefix=str(path / "spiece"),
        vocab_size=50,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    )
    (path / "spiece.vocab").unlink()
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 10})
    )
    make(**GATED, version="t5.1.1", vocab_size=70, end_token_id=1).save_pretrained(path)
    return path


@pytest.mark.once
def test_text_to_text(folder, capfdbinary):
    """Sources keep their end token; an answer is a text of its own, here and in the terminal."""
    generator = TextGenerator(folder)
    assert not generator.continues and generator.end_token == 1
    tokenizer = SpTokenizer(folder / "spiece.model", token_start=None, token_end="</s>")
    texts = ["the lazy fox", "床前 dog"]
    rows = [tokenizer.encode(text)[0] for text in texts]
    assert all(row[-1] == 1 for row in rows)
    options = {"temperature": 3.0, "seed": 1}
    ids = generator.transformer.generate(rows, 8, **options)
    expected = [generator.tokenizer.decode(i) for i in ids]
    assert any(expected)
    assert generator.generate(texts, 8, **options) == expected
    assert generator.generate(texts[0], 8, **options) == expected[0]
    assert "".join(generator.stream(texts[0], 8, **options)) == expected[0]
    assert isinstance(generator.generate(texts, 8, num_beams=2)[1], str)
    arguments = ["generate", "--model", str(folder), "--prompt", texts[0], "--seed", "1"]
    arguments += ["--temperature", "3.0", "--max-new-tokens", "8"]
    assert main(arguments) == 0
    assert capfdbinary.readouterr().out.decode() == f"{expected[0]}\n"
    assert main([*arguments, "--format", "jsonl"]) == 0
    record = json.loads(capfdbinary.readouterr().out)
    assert record == {"prompt": texts[0], "text": expected[0]}
    with pytest.raises(ValueError, match="reads no texts without its encoder"):
        TextGenerator(generator.transformer._decoder, tokenizer)


@pytest.mark.once
@pytest.mark.slow
def test_example_runs(tmp_path, monkeypatch, capsys):
    """From nothing, and from the folder that came of it."""
    folder = Path(__file__).resolve().parents[1] / "examples"
    if not folder.is_dir():
        pytest.skip("no examples beside the tests")
    monkeypatch.syspath_prepend(folder)
    script = importlib.import_module("train_next_line")
    new, following = ["--output", str(tmp_path / "new")], ["--output", str(tmp_path / "next")]
    for arguments in (new, [*following, "--model", new[1]]):
        monkeypatch.setattr(sys, "argv", ["train_next_line.py", "--smoke", *arguments])
        script.main()
        assert "lines followed by the next one" in capsys.readouterr().out
    assert isinstance(TextGenerator(tmp_path / "next").generate("床前", 4), str)


@pytest.mark.slow
def test_seq2seq_training_lowers_the_loss():
    """Teacher forcing with padded sources and targets."""
    keras.utils.set_random_seed(0)
    t5 = build_transformer_model(
        **{**SIZES, **GATED}, model="t5.1.1", with_lm="linear", return_keras_model=False
    )
    t5.model.compile(
        keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    sources = np.array([[5, 6, 7, 0], [8, 9, 0, 0], [10, 11, 12, 13]] * 4, "int32")
    targets = np.array([[6, 5, 3, 0], [9, 3, 0, 0], [13, 12, 11, 3]] * 4, "int32")
    beginnings = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    weights = (targets != 0).astype("float32")
    before = t5.model.evaluate([sources, beginnings], targets, sample_weight=weights, verbose=0)
    t5.model.fit([sources, beginnings], targets, sample_weight=weights, epochs=25, verbose=0)
    after = t5.model.evaluate([sources, beginnings], targets, sample_weight=weights, verbose=0)
    assert after < before / 3
    assert t5.generate([[5, 6, 7], [8, 9]], 4, end_token=3) == [[6, 5, 3], [9, 3]]
