"""BERT's options, and what users build on it.  KERAS_BACKEND=jax pytest tests/test_bert.py"""

import subprocess
import sys

import numpy as np
import pytest
from tiny import SIZES, assert_close, build, inputs_for, predict, randomize

from bert4keras3.layers import Dense, Embedding, LayerNormalization, MultiHeadAttention
from bert4keras3.models import (
    BERT,
    LM_Mask,
    build_transformer_model,
    extend_with_language_model,
    extend_with_unified_language_model,
)
from bert4keras3.ops import keras


def make(**kwargs):
    transformer = build_transformer_model(**{**SIZES, "return_keras_model": False, **kwargs})
    randomize(transformer.model)
    return transformer


BLOCK = [
    "Transformer-0-MultiHeadSelfAttention",
    "Transformer-0-MultiHeadSelfAttention-Dropout",
    "Transformer-0-MultiHeadSelfAttention-Add",
    "Transformer-0-MultiHeadSelfAttention-Norm",
    "Transformer-0-FeedForward",
    "Transformer-0-FeedForward-Dropout",
    "Transformer-0-FeedForward-Add",
    "Transformer-0-FeedForward-Norm",
]


def test_layer_names_and_order():
    transformer = make(dropout_rate=0.1, num_hidden_layers=1, with_nsp=True, with_mlm=True)
    names = [layer.name for layer in transformer.model.layers]
    assert names == [
        "Input-Token",
        "Input-Segment",
        "Embedding-Token",
        "Embedding-Segment",
        "Embedding-Token-Segment",
        "Embedding-Position",
        "Embedding-Norm",
        "Embedding-Dropout",
        *BLOCK,
        "MLM-Dense",
        "MLM-Norm",
        "Pooler",
        "Pooler-Dense",
        "MLM-Bias",
        "NSP-Proba",
        "MLM-Activation",
    ]
    unilm = make(application="unilm", num_hidden_layers=1)
    assert "Attention-Mask" in [layer.name for layer in unilm.model.layers]


def test_outputs_follow_the_heads():
    shapes = {
        (): [(None, None, 16)],
        ("with_pool",): [(None, 16)],
        ("with_nsp",): [(None, 2)],
        ("with_mlm",): [(None, None, 50)],
        ("with_pool", "with_mlm"): [(None, 16), (None, None, 50)],
        ("with_nsp", "with_mlm"): [(None, 2), (None, None, 50)],
    }
    for heads, expected in shapes.items():
        transformer = make(**dict.fromkeys(heads, True))
        assert [tuple(x.shape) for x in transformer.outputs] == expected
        single = len(expected) == 1
        assert transformer.output is (transformer.outputs[0] if single else transformer.outputs)
    assert transformer.input is transformer.inputs
    alone = make(segment_vocab_size=0)
    assert alone.input is alone.inputs[0]


def test_head_activations():
    transformer = make(with_pool="linear", with_mlm="linear")
    arrays = inputs_for(transformer)
    pooled, logits = predict(transformer.model, arrays)
    other = make(with_pool=True, with_mlm=True)
    tanh, probabilities = predict(other.model, arrays)
    assert_close(tanh, np.tanh(pooled))
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    assert_close(probabilities, exponentials / exponentials.sum(-1, keepdims=True))


def test_custom_positions():
    plain, custom = make(), make(custom_position_ids=True)
    arrays = inputs_for(plain)
    positions = np.tile(np.arange(9, dtype="int32"), (3, 1))
    expected = predict(plain.model, arrays)[0]
    assert_close(predict(custom.model, [*arrays, positions])[0], expected)
    moved = predict(custom.model, [*arrays, positions + 3])[0]
    assert np.abs(moved - expected).max() > 1e-2
    assert custom.model.inputs[2].name == "Input-Position"


@pytest.mark.parametrize("name", ["hierarchical_position", "hierarchical"])
def test_hierarchical_positions(name):
    transformer = make(max_position=8, **{name: True})
    long = inputs_for(transformer, length=40)
    assert predict(transformer.model, long)[0].shape == (3, 40, 16)
    with pytest.raises(ValueError, match="40 tokens, but the position table ends at 8"):
        make(max_position=8).model.predict_on_batch(long)


def test_shared_segment_embeddings():
    transformer = make(shared_segment_embeddings=True)
    assert "Embedding-Segment" not in transformer.layers
    tokens, segments = inputs_for(transformer)
    table = transformer.layers["Embedding-Token"].get_weights()[0]
    plain = make(segment_vocab_size=50)
    for layer in plain.model.layers:
        if layer.weights and layer.name != "Embedding-Segment":
            layer.set_weights(transformer.model.get_layer(layer.name).get_weights())
    plain.layers["Embedding-Segment"].set_weights([table])
    # Segment 0 has the id of padding but is none.
    found = predict(transformer.model, [tokens, segments])[0]
    assert_close(found, predict(plain.model, [tokens, segments])[0])


def test_more_segments_than_two(tmp_path):
    source = make()
    source.save_weights_as_checkpoint(tmp_path / "bert.ckpt")

    class Segments(BERT):
        def load_weights_from_checkpoint(self, checkpoint, mapping=None):
            mapping = mapping or self.variable_mapping()
            mapping.pop("Embedding-Segment")
            super().load_weights_from_checkpoint(checkpoint, mapping)

    transformer = build_transformer_model(
        None,
        tmp_path / "bert.ckpt",
        model=Segments,
        segment_vocab_size=5,
        return_keras_model=False,
        **SIZES,
    )
    fresh = transformer.layers["Embedding-Segment"].get_weights()[0]
    # What the checkpoint does not fill is drawn as if there were no checkpoint.
    assert fresh.shape == (5, 16) and 0.005 < fresh.std() < 0.05
    np.testing.assert_array_equal(
        transformer.layers["Embedding-Token"].get_weights()[0],
        source.layers["Embedding-Token"].get_weights()[0],
    )


@pytest.mark.slow
def test_conditional_layer_norm(tmp_path):
    plain = make()
    plain.save_weights_as_checkpoint(tmp_path / "bert.ckpt")
    arrays = inputs_for(plain)
    condition = keras.Input((3,), name="condition")
    for size in (None, 5):
        transformer = build_transformer_model(
            checkpoint_path=tmp_path / "bert.ckpt",
            layer_norm_cond=condition,
            layer_norm_cond_hidden_size=size,
            layer_norm_cond_hidden_act="swish",
            additional_input_layers=condition,
            return_keras_model=False,
            **SIZES,
        )
        z = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
        # The condition starts without effect: a checkpoint's results are kept.
        found = predict(transformer.model, [*arrays, z])[0]
        assert_close(found, predict(plain.model, arrays)[0])
        randomize(transformer.model)
        found = predict(transformer.model, [*arrays, z])[0]
        assert np.abs(found - predict(transformer.model, [*arrays, z + 1])[0]).max() > 1e-3


@pytest.mark.slow
def test_attention_caches():
    name = "Transformer-0-MultiHeadSelfAttention"
    cache = keras.Input((4, 16), name="cache")
    transformer = make(attention_caches={name: [cache, cache]}, additional_input_layers=[cache])
    arrays = inputs_for(transformer)[:2]
    memory = np.random.default_rng(0).normal(size=(3, 4, 16)).astype("float32")
    found = predict(transformer.model, [*arrays, memory])[0]
    assert found.shape == (3, 9, 16)
    assert np.abs(found - predict(transformer.model, [*arrays, memory * 2])[0]).max() > 1e-3
    # Padding stays hidden behind the outside keys, which always count.
    arrays[0][0, 5:] = 0
    padded = predict(transformer.model, [*arrays, memory])[0]
    alone = predict(transformer.model, [a[:1, :5] for a in arrays] + [memory[:1]])[0]
    assert_close(padded[:1, :5], alone)


def test_residual_attention_scores_differ_from_plain_bert():
    plain, residual = make(), make(residual_attention_scores=True)
    arrays = inputs_for(plain)
    one, other = predict(plain.model, arrays)[0], predict(residual.model, arrays)[0]
    assert np.abs(one - other).max() > 1e-3
    names = [
        layer.name for layer in make(residual_attention_scores=True, application="lm").model.layers
    ]
    assert "Transformer-1-MultiHeadSelfAttention-Attention-Bias" in names


def test_prefix_and_shared_layers():
    first = make(prefix="A-", name="first")
    assert first.model.name == "first"
    assert all(name.startswith("A-") for name in first.layers)
    first.layers.pop("A-Input-Token"), first.layers.pop("A-Input-Segment")
    second = make(prefix="A-", layers=first.layers, with_mlm="linear")
    assert second.model.get_layer("A-Embedding-Token") is first.model.get_layer("A-Embedding-Token")
    mapping = second.variable_mapping()
    assert mapping["Embedding-Token"] == ["bert/embeddings/word_embeddings"]


def test_sequence_length_is_fixed():
    transformer = make(sequence_length=6)
    assert tuple(transformer.inputs[0].shape) == (None, 6)
    with pytest.raises(ValueError, match="'Embedding-Position': a sequence of 33 tokens"):
        make(sequence_length=33)


@pytest.mark.slow
def test_old_style_subclass():
    """Written from the documents alone: classic protocol, everything by self.apply."""

    class TwoNorms(BERT):
        def __init__(self, extra_units, **kwargs):
            super().__init__(**kwargs)
            self.extra_units = extra_units

        def apply_main_layers(self, inputs, index):
            x = inputs
            z = self.layer_norm_conds[0]
            attention_name = f"Transformer-{index}-MultiHeadSelfAttention"
            attention_mask = self.compute_attention_bias(index)
            xi, x, arguments = x, [x, x, x], {"a_bias": None}
            if attention_mask is not None:
                arguments["a_bias"] = True
                x.append(attention_mask)
            x = self.apply(
                inputs=x,
                layer=MultiHeadAttention,
                arguments=arguments,
                heads=self.num_attention_heads,
                head_size=self.attention_head_size,
                out_dim=self.hidden_size,
                key_size=self.attention_key_size,
                attention_dropout=self.attention_dropout_rate,
                kernel_initializer=self.initializer,
                name=attention_name,
            )
            x = self.apply(inputs=[xi, x], layer=keras.layers.Add, name=f"{attention_name}-Add")
            x = self.apply(
                inputs=self.simplify([x, z]),
                layer=LayerNormalization,
                conditional=(z is not None),
                hidden_units=self.layer_norm_conds[1],
                hidden_activation=self.layer_norm_conds[2],
                hidden_initializer=self.initializer,
                name=f"{attention_name}-Norm",
            )
            x = self.apply(x, Dense, units=self.extra_units, name=f"Extra-{index}")
            return self.apply(x, Dense, units=self.hidden_size, name=f"Back-{index}")

    transformer = make(model=TwoNorms, extra_units=7, application="lm", with_mlm="linear")
    assert transformer.layers["Extra-1"].units == 7
    assert isinstance(transformer, (TwoNorms, LM_Mask))
    arrays = inputs_for(transformer)
    expected = predict(transformer.model, arrays)[0]
    later = [a.copy() for a in arrays]
    later[0][:, 5:] += 1
    later[0] %= 50
    assert_close(predict(transformer.model, later)[0][:, :5], expected[:, :5])
    # It decodes with a cache, unchanged.
    states = transformer.initial_states(3, 9)
    found = []
    for i in range(9):
        token = [keras.ops.convert_to_tensor(a[:, i : i + 1]) for a in arrays]
        at = np.full((3, 1), i)
        output, states = transformer.step(token, at, at[:, 0] + 1, states, 9)
        found.append(keras.ops.convert_to_numpy(output))
    assert_close(np.concatenate(found, 1), expected)
    transformer.model.compile("adam", "sparse_categorical_crossentropy")


def test_a_forward_is_a_function_of_its_inputs():
    """Nothing of a decoding step stays behind."""
    transformer = build("bert_lm")
    arrays = inputs_for(transformer)
    expected = predict(transformer.model, arrays)[0]
    inputs = transformer.inputs
    states = transformer.initial_states(3, 9)
    tensors = [keras.ops.convert_to_tensor(a) for a in arrays]
    positions = np.tile(np.arange(9), (3, 1))
    transformer.step(tensors, positions, np.full(3, 9), states, 9)
    assert transformer.inputs is inputs and transformer.decoding is None
    assert_close(predict(transformer.model, arrays)[0], expected, 0)
    with pytest.raises(ValueError, match="Attention', which has no state|has no state"):
        transformer.step(tensors, positions, np.full(3, 9), {}, 9)
    assert transformer.decoding is None


def test_extension_functions():
    for extend, first in (
        (extend_with_language_model, "LM_Mask"),
        (extend_with_unified_language_model, "UniLM_Mask"),
    ):
        cls = extend(BERT)
        assert cls.__mro__[1].__name__ == first and issubclass(cls, BERT)
        transformer = cls(**{**SIZES, "with_mlm": "linear"})
        assert transformer.with_mlm == "linear"
        transformer.build()
        assert transformer.model.output_shape == (None, None, 50)
    assert cls(**SIZES).with_mlm is True


def test_token_table_is_shared_with_the_output():
    transformer = make(with_mlm="linear")
    tables = [v for v in transformer.model.weights if tuple(v.shape) == (50, 16)]
    assert len(tables) == 1
    assert isinstance(transformer.layers["Embedding-Token"], Embedding)


def test_float_ids_are_accepted():
    transformer = make()
    arrays = inputs_for(transformer)
    found = predict(transformer.model, [a.astype("float32") for a in arrays])[0]
    assert_close(found, predict(transformer.model, arrays)[0], 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_whole_model_in_low_precision(dtype, tmp_path):
    try:
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)  # the default policy is fixed by the first layer
        transformer = make(application="unilm", with_mlm="linear", dropout_rate=0.1)
        arrays = inputs_for(transformer)
        found = predict(transformer.model, arrays)[0]
        assert {keras.backend.standardize_dtype(v.dtype) for v in transformer.model.weights} == {
            dtype
        }
        transformer.save_weights(tmp_path / "low.weights.h5")
        transformer.save_weights_as_checkpoint(tmp_path / "low.ckpt")
        for path in (tmp_path / "low.weights.h5", tmp_path / "low.ckpt"):
            other = make(application="unilm", with_mlm="linear")
            randomize(other.model, seed=9)
            other.load_weights_from_checkpoint(path)
            assert_close(predict(other.model, arrays)[0], found, 0)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    plain = make(application="unilm", with_mlm="linear")
    plain.load_weights_from_checkpoint(tmp_path / "low.weights.h5")
    assert_close(found, predict(plain.model, arrays)[0], 5e-2)


@pytest.mark.slow
def test_set_floatx_alone_is_enough_in_a_script():
    code = (
        "from bert4keras3.models import *\n"
        "keras.config.set_floatx('bfloat16')\n"
        f"model = build_transformer_model(**{SIZES!r})\n"
        "assert {str(keras.backend.standardize_dtype(v.dtype)) for v in model.weights} == "
        "{'bfloat16'}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
