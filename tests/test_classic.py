"""What is special about the classic families.  KERAS_BACKEND=jax pytest tests/test_classic.py"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import SIZES, assert_close, build, inputs_for, predict

from bert4keras3 import models
from bert4keras3.backend import DepthScaled
from bert4keras3.models import build_transformer_model
from bert4keras3.models.registry import FAMILIES
from bert4keras3.ops import keras
from bert4keras3.weights import CheckpointError

CAUSAL = ("gpt", "gpt2", "gpt2_ml", "llama", "gemma")
SPECIAL = {"deberta": {"bucket_size": 4}, "gau": {"attention_key_size": 8}}


def make(model, **kwargs):
    arguments = {**SIZES, **SPECIAL.get(model, {}), "return_keras_model": False, **kwargs}
    return build_transformer_model(model=model, **arguments)


# ------------------------------------------------------- options that cannot be


@pytest.mark.parametrize(
    ("model", "option"),
    [
        *[(model, name) for model in CAUSAL for name in ("with_pool", "with_nsp", "with_mlm")],
        *[("electra", name) for name in ("with_pool", "with_nsp", "with_mlm")],
        *[(model, "with_pool") for model in ("roformer_v2", "gau", "deberta", "distilbert")],
        *[(model, "hierarchical_position") for model in ("nezha", "roformer", "gau", "deberta")],
        *[(model, "custom_position_ids") for model in ("nezha", "gpt2", "llama", "deberta")],
        *[(model, "segment_vocab_size") for model in ("gpt2", "gpt2_ml", "distilbert")],
        *[(model, "residual_attention_scores") for model in ("gau", "deberta")],
    ],
)
def test_an_option_the_family_cannot_have_is_an_error(model, option):
    with pytest.raises(TypeError, match=f"cannot have {option}"):
        make(model, **{option: True})
    make(model, **{option: 0})


def test_a_file_may_hold_sizes_of_other_families(tmp_path):
    config = {**SIZES, "type_vocab_size": 2}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert len(build_transformer_model(path, model="gpt2").inputs) == 1
    path.write_text(json.dumps({**config, "with_pool": True}))
    with pytest.raises(TypeError, match="GPT2 cannot have with_pool=True"):
        build_transformer_model(path, model="gpt2")


@pytest.mark.parametrize("application", ["lm", "unilm"])
def test_electra_is_no_language_model(application):
    with pytest.raises(ValueError, match="ELECTRA can be built as .'encoder'"):
        make("electra", application=application)


def test_electra_without_segments_in_its_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SIZES))
    with pytest.warns(UserWarning, match='config.json: no type_vocab_size.*add "type_vocab_size"'):
        model = build_transformer_model(path, model="electra")
    assert len(model.inputs) == 2
    assert len(build_transformer_model(path, model="electra", type_vocab_size=0).inputs) == 1


@pytest.mark.parametrize("model", ["albert", "albert_unshared"])
def test_brightmarts_first_albert_is_recognised(model):
    arrays = {
        "bert/embeddings/word_embeddings_2": np.zeros((50, 16), "float32"),
        "bert/encoder/layer_shared/attention/self/query/kernel": np.zeros((16, 16), "float32"),
    }
    with pytest.raises(CheckpointError, match="before Google's release.*bojone/albert_zh"):
        make(model).load_weights_from_checkpoint(arrays)


@pytest.mark.parametrize("model", ["gpt", "gpt2", "gpt2_ml"])
def test_tied_logits_need_token_vectors_of_the_hidden_size(model):
    with pytest.raises(ValueError, match="embedding_size 8 must be hidden_size 16"):
        make(model, embedding_size=8)
    assert make(model, embedding_size=8, final_activation=False).output.shape[-1] == 16


def test_conditional_norms_where_norms_have_no_weights():
    condition = keras.Input((4,))
    for model in ("roformer_v2", "gau", "deberta", "llama"):
        with pytest.raises(ValueError, match="layer_norm_cond: .* has no conditional norms"):
            make(model, layer_norm_cond=condition, additional_input_layers=condition)
    make("roformer", layer_norm_cond=condition, additional_input_layers=condition)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "summary"}, "head: expected one of .*sequence_classification.* got 'summary'"),
        ({"head": "token_classification", "labels": ["a"], "num_labels": 3}, "expected 3 names"),
        ({"head": "token_classification", "with_mlm": True}, "stands in the place of with_pool"),
    ],
)
def test_heads_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        make("bert", **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "roformer_positions", "gpt2"])
def test_a_pretrained_file_leaves_the_head_to_be_trained(name, tmp_path):
    encoder = build(name)
    encoder.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    encoder.save_weights(tmp_path / "model.weights.h5")
    for option, file in (
        ("checkpoint_path", "model.ckpt"),
        ("keras_weights_path", "model.weights.h5"),
    ):
        path = {option: tmp_path / file}
        with pytest.warns(
            UserWarning, match="has no head for sequence_classification: .*'Classifier'"
        ):
            model = make(**{**_arguments(name), "head": "sequence_classification"}, **path)
        assert np.std(model.layers["Classifier"].get_weights()[0]) > 0
        first = model.layers["Embedding-Token"].get_weights()[0]
        np.testing.assert_array_equal(first, encoder.layers["Embedding-Token"].get_weights()[0])
    with pytest.raises(CheckpointError, match="missing"):
        make("nezha", checkpoint_path={"unrelated": np.zeros(3)}, head="token_classification")


def test_labels_name_the_classes():
    model = make("roformer", head="token_classification", labels=["O", "B", "I"])
    assert model.output.shape == (None, None, 3) and model.labels == ["O", "B", "I"]
    assert make("gpt2", head="question_answering", num_labels=7).output.shape[-1] == 2


# ------------------------------------------------- vocabularies, names, sharing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roformer_v2", "gau", "gpt2", "gpt2_ml", "albert", "nezha"])
def test_keep_and_compound_tokens(name, tmp_path):
    whole = build(name)
    whole.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    whole.save_weights(tmp_path / "model.weights.h5")
    keep, compound = [0, 7, 3, 20, 11], [[1, 2], ([3, 4], [1.0, 3.0])]
    table = whole.layers["Embedding-Token"].get_weights()[0][keep]
    rows = [table, table[[1, 2]].mean(0)[None], (table[3] + 3 * table[4])[None] / 4]
    for load in ("load_weights_from_checkpoint", "load_weights"):
        part = build(name, keep_tokens=keep, compound_tokens=compound)
        suffix = "ckpt" if load.endswith("checkpoint") else "weights.h5"
        getattr(part, load)(tmp_path / f"model.{suffix}")
        assert_close(part.layers["Embedding-Token"].get_weights()[0], np.concatenate(rows))
        assert part.vocab_size == 7 and part.load_report.complete


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roformer", "deberta", "gpt2", "gau"])
def test_prefix_and_shared_layers(name):
    first = build(name)
    arrays = inputs_for(first)
    expected = predict(first.model, arrays)
    shared = build_transformer_model(
        **{**SIZES, **_arguments(name)}, layers=first.layers, return_keras_model=False
    )
    for a, b in zip(predict(shared.model, arrays), expected, strict=True):
        assert_close(a, b, 0)
    prefixed = build(name, prefix="Second-")
    assert all(x.name.startswith("Second-") for x in prefixed.model.layers if x.weights)
    for a, b in zip(prefixed.model.weights, first.model.weights, strict=True):
        a.assign(np.array(b.numpy()))  # a copy: JAX gives a model's arrays away
    for a, b in zip(predict(prefixed.model, arrays), expected, strict=True):
        assert_close(a, b)


def _arguments(name):
    import tiny

    return tiny.ALL[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roformer", "albert", "gpt2", "gpt2_ml"])
def test_residual_attention_scores_change_the_output(name):
    plain, residual = build(name), build(name, residual_attention_scores=True)
    arrays = inputs_for(plain)
    for a, b in zip(residual.model.weights, plain.model.weights, strict=True):
        a.assign(np.array(b.numpy()))  # a copy: JAX gives a model's arrays away
    found, expected = predict(residual.model, arrays)[-1], predict(plain.model, arrays)[-1]
    assert np.abs(found - expected).max() > 1e-5


# ------------------------------------------------------------------- structure


def test_albert_has_one_block():
    model = build("albert", num_hidden_layers=5)
    assert [x.name for x in model.model.layers].count("Transformer-FeedForward") == 1
    assert "Transformer-0-FeedForward" not in model.layers


def test_initial_numbers_shrink_with_depth():
    kernel = np.asarray(DepthScaled(16, 2)((256, 64)))
    assert abs(kernel.std() - 1 / np.sqrt(256) / 4) < 1e-3
    table = np.asarray(DepthScaled(8, 3)((20000, 64)))
    assert abs(table.std() - 1 / np.sqrt(64) / 2) < 1e-3
    assert type(make("gau").initializer) is DepthScaled and make("gau").initializer.order == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nezha", "roformer", "roformer_v2", "gau", "deberta"])
def test_sequences_may_be_longer_than_max_position(name):
    model = build(name, max_position=4)
    found = predict(model.model, inputs_for(model, length=11))
    assert all(np.isfinite(x).all() for x in found)


def test_every_documented_class_is_there():
    for name in """Transformer LM_Mask UniLM_Mask BERT NEZHA ELECTRA ALBERT ALBERT_Unshared RoFormer
        RoFormerV2 GAU_alpha GPT GPT2 GPT2_ML Gemma Llama Deberta""".split():
        assert hasattr(models, name)
    for (
        key
    ) in "albert albert_unshared nezha roformer roformer_v2 electra gau gpt gpt2 gpt2_ml".split():
        assert key in FAMILIES


@pytest.mark.once
def test_the_table_of_models_is_up_to_date():
    script = Path(__file__).parent.parent / "docs" / "make_models.py"
    subprocess.run([sys.executable, script, "--check"], check=True)


# ------------------------------------------------------- what a review once found


def test_a_row_must_name_every_weight(tmp_path):
    gated = build("bert", hidden_act=["gelu", "linear"], intermediate_size=16)
    with pytest.raises(CheckpointError, match="no place for the layers .'Transformer-0-FeedForw"):
        gated.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    assert not list(tmp_path.iterdir())
    build("bert", intermediate_size=16).save_weights_as_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match="'Transformer-0-FeedForward' has 6 weights.*names 4"):
        gated.load_weights_from_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gau", "gpt2_ml", "roformer_v2"])
def test_small_embeddings_are_saved_whole(name, tmp_path):
    arguments = {"embedding_size": 8}
    if name == "gpt2_ml":
        arguments["final_activation"] = False
    model, other = build(name, **arguments), build(name, **arguments)
    model.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    for variable in other.model.weights:
        variable.assign(np.zeros(variable.shape, "float32"))
    other.load_weights_from_checkpoint(tmp_path / "model.ckpt")
    for a, b in zip(model.model.weights, other.model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("model", ["gpt", "gpt2", "gpt2_ml", "llama", "gemma"])
def test_a_causal_family_is_a_language_model(model):
    assert make(model, application="lm").attention_kind == "causal"


def test_unilm_of_llama_sees_segment_0_both_ways():
    unilm = build("llama", application="unilm", segment_vocab_size=2)
    tokens, segments = inputs_for(unilm)
    segments[:] = np.arange(9) > 4
    other = tokens.copy()
    other[:, 4] = tokens[:, 4] % 40 + 3
    a, b = (predict(unilm.model, [x, segments])[0] for x in (tokens, other))
    assert np.abs(a[:, 0] - b[:, 0]).max() > 1e-4


def test_unilm_needs_segments_whatever_other_inputs_there_are():
    with pytest.raises(ValueError, match="needs segment ids.*'Input-Position'"):
        make("bert", application="unilm", segment_vocab_size=0, custom_position_ids=True)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("nezha", {"attention_key_size": 12}, "attention_key_size 12 must be"),
        ("deberta", {"attention_key_size": 12}, "attention_head_size, attention_key_size"),
        ("deberta", {"bucket_size": 1}, "bucket_size: expected 2 or more, got 1"),
        ("roformer", {"attention_key_size": 7}, "output_dim: expected an even one, got 7"),
        ("bert", {"hierarchical_position": 1.5}, "a number between 0 and 1, got 1.5"),
        ("bert", {"num_attention_heads": 0}, "num_attention_heads: expected 1 or more"),
        ("bert", {"labels": ["a", "b"]}, "give head, too"),
        ("gau", {"attention_caches": {"Nothing": []}}, "attention_caches: .'Nothing'"),
    ],
)
def test_sizes_and_options_that_cannot_be(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(model, **arguments)


def test_flags_may_be_numbers():
    assert make("bert", with_mlm=1).with_mlm is True
    assert make("gpt2", final_activation=0).output.shape[-1] == 16
