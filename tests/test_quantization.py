"""Weights of 8 and 4 bits: products, every family, files, and what they refuse."""

import json

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import assert_close, build, inputs_for, predict

from bert4keras3 import low_bits
from bert4keras3.generation import TextGenerator
from bert4keras3.generation.sources import takes_contexts
from bert4keras3.layers import Dense, EinsumDense, Embedding
from bert4keras3.models import build_transformer_model
from bert4keras3.ops import keras
from bert4keras3.quantization import Quantization, quantization_of, quantize
from bert4keras3.training import enable_lora, load_lora, lora_targets, merge_lora, save_lora
from bert4keras3.weights import CheckpointError

KINDS = [(8, None), (8, 6), (4, None), (4, 6)]


def both(name, bits, group_size=None, **kwargs):
    """A quantised model, and a float one that has the values its numbers stand for."""
    quantised, plain = build(name, **kwargs), build(name, **kwargs)
    quantize(quantised, bits, group_size)
    parts = lora_targets(plain)
    for path, layer in lora_targets(quantised).items():
        parts[path].set_matrix(layer.matrix_value())
    return quantised, plain


# -------------------------------------------------------------------------- matrices


@pytest.mark.once
@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 17),
    st.sampled_from([8, 4]),
    st.sampled_from([None, 2, 4, 32]),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e6]),
    st.integers(0, 99),
)
def test_numbers_stand_for_what_they_were_made_of(outputs, inputs, bits, group_size, size, seed):
    matrix = np.float32(tiny.draw(outputs, inputs, seed=seed) * size)
    matrix[0] = 0
    values, scale = low_bits.encode(matrix, bits, group_size)
    assert [values.shape, scale.shape] == list(low_bits.shapes(outputs, inputs, bits, group_size))
    assert values.dtype == low_bits.DTYPES[bits] and scale.dtype == "float32"
    found = tiny.numpy(low_bits.floats(tiny.tensor(values), tiny.tensor(scale), inputs))
    # Half a step; of 4 bits the largest number is one step nearer to 0 than the smallest.
    step = np.abs(matrix).max(axis=1, keepdims=True) / (127 if bits == 8 else 8)
    assert (np.abs(found - matrix) <= step * (0.51 if bits == 8 else 1.01)).all()
    assert not found[0].any()


@pytest.mark.once
@pytest.mark.parametrize("bits", [8, 4])
def test_large_matrices_are_encoded_in_parts(bits, monkeypatch):
    matrix = tiny.draw(50, 8)
    whole = low_bits.encode(matrix, bits)
    monkeypatch.setattr(low_bits, "ENTRIES_AT_ONCE", 30)
    for a, b in zip(low_bits.encode(matrix, bits), whole, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bits, group_size", KINDS)
@pytest.mark.parametrize("rows", [(1,), (2, 3)])
def test_product_equals_that_of_the_floats(bits, group_size, rows, monkeypatch):
    """In whole blocks, and with some rows left over; rows that end within a group."""
    monkeypatch.setattr(low_bits, "ENTRIES_OF_A_BLOCK", 16)
    x, matrix = tiny.draw(*rows, 15), tiny.draw(37, 15, seed=1)
    values, scale = map(tiny.tensor, low_bits.encode(matrix, bits, group_size))
    floats = tiny.numpy(low_bits.floats(values, scale, 15))
    assert_close(tiny.numpy(low_bits.product(tiny.tensor(x), values, scale)), x @ floats.T)


@pytest.mark.parametrize("bits, group_size", KINDS)
def test_layers_equal_those_with_the_floats(bits, group_size):
    x, heads = tiny.draw(2, 3, 8), tiny.draw(2, 3, 2, 5)
    cases = [
        (lambda: Dense(7, activation="tanh", bias_initializer="ones"), x),
        (lambda: EinsumDense("btd,ndh->btnh", (None, 2, 5)), x),
        (lambda: EinsumDense("btnh,nhd->btd", (None, 6), bias_axes="d"), heads),
        (lambda: Embedding(11, 8), np.array([[3, 10, 0]])),
    ]
    for make, inputs in cases:
        layer, plain = make(), make()
        expected = tiny.numpy(layer(inputs))
        plain(inputs)
        plain.set_weights(layer.get_weights())
        layer.quantize_kernel(bits, group_size)
        assert_close(tiny.numpy(layer(inputs)), expected, 0.02 if bits == 8 else 0.4)
        plain.set_matrix(layer.matrix_value())
        assert_close(tiny.numpy(layer(inputs)), tiny.numpy(plain(inputs)))
    assert_close(tiny.numpy(layer(x, mode="dense")), tiny.numpy(plain(x, mode="dense")))


# -------------------------------------------------------------------------- families


@pytest.mark.parametrize("name", tiny.each(tiny.ALL))
def test_every_family_computes_with_what_the_numbers_stand_for(name):
    quantised, plain = both(name, 4, 6)
    arrays = inputs_for(plain)
    expected = predict(plain.model, arrays)
    for a, b in zip(predict(quantised.model, arrays), expected, strict=True):
        assert_close(a, b)
    memory = {w.dtype for w in quantised.model.weights if w.path.endswith("quantized/values")}
    assert memory == {"uint8"} and not quantised.model.trainable_weights


@pytest.mark.parametrize("name", tiny.each(tiny.DECODERS, quick=("llama",)))
def test_every_family_generates_the_same(name):
    quantised, plain = both(name, 8)
    prompts = [[5, 6, 7], [8, 9]]
    if plain.source_inputs and takes_contexts(plain):
        prompts = [tiny.draw(4, plain.hidden_size), tiny.draw(2, plain.hidden_size)]
    expected = plain.generate(prompts, 6)
    assert quantised.generate(prompts, 6) == expected
    if name in ("llama", "t5"):
        assert list(quantised.stream([5, 6, 7], 6)) == expected[0]


def test_compiled_equals_eager():
    quantised, plain = both("llama", 4, dtype="mixed_bfloat16")
    arrays = inputs_for(plain)
    for a, b in zip(
        tiny.compiled(quantised.model, arrays), predict(plain.model, arrays), strict=True
    ):
        assert_close(a, b, 5e-2)


def test_what_was_compiled_for_the_floats_is_forgotten():
    transformer = build("llama")
    arrays = inputs_for(transformer)
    before = tiny.compiled(transformer.model, arrays)[0]
    quantize(transformer, 8)
    after = tiny.compiled(transformer.model, arrays)[0]
    assert_close(after, predict(transformer.model, arrays)[0])
    assert_close(after, before, 0.05)
    assert np.abs(after - before).max() > 1e-4


def test_skipped_layers_stay_as_they_are():
    transformer = build("llama")
    names = quantize(transformer, 8, skip=["Embedding-Token", "o_dense"])
    assert names and not any("o_dense" in name or "Embedding" in name for name in names)
    left = [n for n, layer in lora_targets(transformer).items() if layer.quantized is None]
    assert set(left) == set(lora_targets(transformer)) - set(names) and len(left) == 3


# ----------------------------------------------------------------------------- files


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", tiny.each(("llama", "rwkv7", "gpt2", "t5"), quick=("llama",)))
def test_keras_files_round_trip(name, bits, tmp_path):
    transformer, path = build(name), tmp_path / "model.weights.h5"
    arrays = inputs_for(transformer)
    build(name).save_weights(tmp_path / "float.weights.h5")
    quantize(transformer, bits)
    expected = predict(transformer.model, arrays)
    transformer.save_weights(path)
    others = [
        build_quantised(name, bits, keras_weights_path=path),
        build_quantised(name, bits, keras_weights_path=tmp_path / "float.weights.h5"),
        build_quantised(name, bits),
        build_quantised(name, bits),
    ]
    others[2].load_weights(path)
    others[3].model.load_weights(path)
    for other in others:
        for a, b in zip(predict(other.model, arrays), expected, strict=True):
            assert_close(a, b, 0)


def build_quantised(name, bits, **kwargs):
    arguments = {**tiny.SIZES, **tiny.ALL[name], "return_keras_model": False, **kwargs}
    return build_transformer_model(**arguments, quantization=f"int{bits}")


@pytest.mark.parametrize("name", ["llama", "bert_lm"])
def test_folders_round_trip(name, tmp_path):
    transformer = build(name)
    arrays = inputs_for(transformer)
    transformer.save_pretrained(tmp_path / "float")
    quantize(transformer, 4, skip=["Transformer-0-FeedForward"])
    expected = predict(transformer.model, arrays)[-1]
    transformer.save_quantized(tmp_path / "few", max_shard_size="10KB")
    config = json.loads((tmp_path / "few" / "config.json").read_text())
    entry = {"quant_method": "bert4keras3", "bits": 4, "group_size": 32}
    assert config["quantization_config"] == entry
    head = {k: v for k, v in tiny.ALL[name].items() if k in ("application", "with_mlm", "with_lm")}
    options = {"return_keras_model": False, **head}
    asked = {"bits": 4, "skip": ["Transformer-0-FeedForward"]}
    read = build_transformer_model(tmp_path / "few", **options)
    made = build_transformer_model(tmp_path / "float", quantization=asked, **options)
    for other in (read, made):
        assert_close(predict(other.model, arrays)[-1], expected, 0)
        assert quantization_of(other.model) == Quantization(4)
        assert (
            lora_targets(other)[
                "Transformer-0-FeedForward/i0_dense"
                if name == "bert_lm"
                else "Transformer-0-FeedForward/feedforward_gate_dense"
            ].quantized
            is None
        )
    assert read.load_report.complete and not read.load_report.unused


def test_layers_are_quantised_one_by_one_as_they_are_loaded(tmp_path, monkeypatch):
    """No more than one layer's floats are filled at a time."""
    build("llama").save_pretrained(tmp_path)
    at_once, encode = [], low_bits.encode

    def watched(matrix, *arguments):
        found = [layer for layer in targets() if layer.quantized is None]
        filled = [x for x in found if np.isfinite(x.kernel_variable.numpy()).all()]
        at_once.append(len(filled))
        return encode(matrix, *arguments)

    made = []
    prepare = build_transformer_model.__globals__["Transformer"].prepare_quantization

    def targets():
        return lora_targets(made[0]).values()

    def noticed(transformer, asked):
        made.append(transformer)
        prepare(transformer, asked)

    monkeypatch.setattr(low_bits, "encode", watched)
    monkeypatch.setattr(
        build_transformer_model.__globals__["Transformer"], "prepare_quantization", noticed
    )
    build_transformer_model(tmp_path, quantization="int8", with_lm="linear")
    assert len(at_once) == len(targets()) and max(at_once) <= 4, at_once


@pytest.mark.further
@pytest.mark.slow
def test_a_text_generator_of_few_bits():
    generator = TextGenerator(quantization="int8")
    assert quantization_of(generator.transformer.model) == Quantization(8)
    assert generator.generate("床前明月光，", 12) == TextGenerator().generate("床前明月光，", 12)


# ------------------------------------------------------------------------- bad input


def test_files_of_the_other_kind_are_refused(tmp_path):
    transformer = build("llama")
    transformer.save_weights(tmp_path / "float.weights.h5")
    transformer.save_pretrained(tmp_path / "float")
    quantize(transformer, 8)
    transformer.save_weights(tmp_path / "int8.weights.h5")
    transformer.save_quantized(tmp_path / "int8")
    layer = "'Decoder-Output-LM'"
    with pytest.raises(CheckpointError, match=f"layer ({layer}).* in the file, but not in"):
        build("llama").load_weights(tmp_path / "int8.weights.h5")
    with pytest.raises(CheckpointError, match=f"layer ({layer}).* in the model, but not in"):
        transformer.load_weights(tmp_path / "float.weights.h5")
    with pytest.raises(CheckpointError, match="expected numbers of uint8, found int8"):
        build_quantised("llama", 4, keras_weights_path=tmp_path / "int8.weights.h5")
    with pytest.raises(ValueError, match="layer 'Embedding-Token'.* 8 bits"):
        transformer.load_weights_from_checkpoint(tmp_path / "float")
    with pytest.raises(ValueError, match=r"int8 holds .*bits=8.* expected .*bits=4"):
        build_transformer_model(tmp_path / "int8", quantization="int4")
    with pytest.raises(ValueError):
        build("llama").model.load_weights(tmp_path / "int8.weights.h5")
    config = tmp_path / "int8" / "config.json"
    changed = json.loads(config.read_text())
    changed["quantization_config"]["bits"] = 3
    config.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"quantization_config: bits: expected one of \[4, 8\]"):
        build_transformer_model(tmp_path / "int8")


def test_what_a_quantised_model_cannot_do_is_an_error(tmp_path):
    transformer = build("llama")
    with pytest.raises(CheckpointError, match="is not quantised"):
        transformer.save_quantized(tmp_path / "x")
    quantize(transformer, 8)
    model, arrays = transformer.model, inputs_for(transformer)
    for save in (transformer.save_pretrained, transformer.save_weights_as_checkpoint):
        with pytest.raises((CheckpointError, ValueError), match="'Embedding-Token'.* 8 bits"):
            save(tmp_path / "x")
    with pytest.raises(ValueError, match="configuration cannot tell"):
        model.save(tmp_path / "x.keras")
    with pytest.raises(ValueError, match="quantised already"):
        quantize(transformer, 4)
    with pytest.raises(ValueError, match="DoRA cannot adapt"):
        enable_lora(transformer, use_dora=True)
    # A head of one's own on it may be trained.
    head = keras.Model(model.input, keras.layers.Dense(2)(model.output))
    head.compile("sgd", "mse")
    head.fit(arrays[0], np.zeros((3, 9, 2)), verbose=0)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="nothing to train: enable_lora"):
        model.fit(arrays[0], np.zeros((3, 9, 50)), verbose=0)


def test_lora_beside_few_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(low_bits, "ENTRIES_OF_A_BLOCK", 64)
    quantised, plain = both("llama", 4)
    arrays = inputs_for(plain)
    before = predict(quantised.model, arrays)[0]
    for transformer in (quantised, plain):
        keras.utils.set_random_seed(3)
        enable_lora(transformer, rank=2)
        transformer.model.compile(keras.optimizers.SGD(0.3), "mse")
        transformer.model.fit(arrays[0], np.zeros((3, 9, 50)), epochs=3, verbose=0)
    expected = predict(plain.model, arrays)[0]
    assert_close(predict(quantised.model, arrays)[0], expected, 1e-4)
    assert np.abs(expected - before).max() > 1e-3
    with pytest.raises(ValueError, match="4 bits, which an adapter cannot be folded into"):
        merge_lora(quantised)
    save_lora(quantised, tmp_path / "adapter")
    quantised.save_weights(tmp_path / "model.weights.h5")
    for kind in ("adapter", "h5"):
        other = both("llama", 4)[0]
        if kind == "adapter":
            load_lora(other, tmp_path / "adapter")
        else:
            enable_lora(other, rank=2)
            other.load_weights(tmp_path / "model.weights.h5")
        assert_close(predict(other.model, arrays)[0], expected, 1e-4)


@pytest.mark.once
def test_arguments_are_checked():
    for asked in ("int3", "8", 8, {"bit": 8}, True):
        with pytest.raises(ValueError, match="quantization: expected one of"):
            build_transformer_model(**tiny.SIZES, model="llama", quantization=asked)
    for arguments in ({"bits": 5}, {"group_size": 3}, {"group_size": 0}, {"group_size": "a"}):
        with pytest.raises(ValueError, match="expected"):
            Quantization(**arguments)
    with pytest.raises(ValueError, match="skip: no layer is called 'nothing'"):
        quantize(build("llama"), skip=["nothing"])
    with pytest.raises(ValueError, match="nothing to quantise"):
        quantize(build("llama"), skip=".*")
    adapted = build("llama", lora=2)
    with pytest.raises(ValueError, match="has the adapters"):
        quantize(adapted)
    broken = build("llama")
    kernel = lora_targets(broken)["Embedding-Token"].kernel_variable
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="Embedding-Token/embeddings: expected finite weights"):
        quantize(broken)
