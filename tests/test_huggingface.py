"""Random tiny models of transformers, loaded and written.  Needs torch and transformers."""

import json

import numpy as np
import pytest
from tiny import assert_close, build, predict

from bert4keras3.models import RoBERTa, build_transformer_model
from bert4keras3.weights import CheckpointError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
# name: their class, their configuration, our arguments
CASES = {
    "BertModel": ("BertModel", {}, {"with_pool": True}),
    "BertModel-tanh": ("BertModel", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}, {}),
    "BertModel-relu": ("BertModel", {"hidden_act": "relu", "type_vocab_size": 5}, {}),
    "BertModel-silu": ("BertModel", {"hidden_act": "silu", "pad_token_id": 7}, {}),
    "BertForMaskedLM": ("BertForMaskedLM", {}, {"with_mlm": "linear"}),
    "BertForPreTraining": ("BertForPreTraining", {}, {"with_nsp": True, "with_mlm": "linear"}),
    "BertForNextSentencePrediction": ("BertForNextSentencePrediction", {}, {"with_nsp": True}),
    "BertLMHeadModel": ("BertLMHeadModel", {"is_decoder": True}, {"with_mlm": "linear"}),
    "RobertaModel": ("RobertaModel", {"type_vocab_size": 1}, {}),
    "RobertaForMaskedLM": ("RobertaForMaskedLM", {}, {"with_mlm": "linear"}),
    "XLMRobertaModel": ("XLMRobertaModel", {"pad_token_id": 3}, {}),
}


def saved(name, folder):
    """Their model with random weights, saved to a folder."""
    class_name, config, _ = CASES[name]
    cls = getattr(transformers, class_name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**SIZES, **config)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model


def batch(config, left=False):
    """Token ids with padding, segments and the padding mask."""
    rng = np.random.default_rng(0)
    ids = rng.integers(8, config.vocab_size, (4, 12)).astype("int32")
    for row, length in enumerate((12, 7, 3, 10)):
        ids[row, slice(0, 12 - length) if left else slice(length, None)] = config.pad_token_id
    segments = rng.integers(0, config.type_vocab_size, ids.shape).astype("int32")
    return ids, segments, ids != config.pad_token_id


def their_outputs(model, ids, segments, mask):
    """Their outputs in our order: pooled or NSP probabilities, then the rest."""
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(ids).long(),
            attention_mask=torch.tensor(mask).long(),
            token_type_ids=torch.tensor(segments).long(),
        )
    kind = type(model).__name__
    if kind.endswith("Model") and not kind.endswith("HeadModel"):
        return {"hidden": out.last_hidden_state.numpy(), "pool": _get(out, "pooler_output")}
    nsp = _get(out, "seq_relationship_logits" if "PreTraining" in kind else "logits")
    if kind == "BertForPreTraining":
        return {"nsp": _softmax(nsp), "tokens": out.prediction_logits.numpy()}
    return {"nsp": _softmax(nsp)} if "NextSentence" in kind else {"tokens": nsp}


def _get(out, name):
    value = getattr(out, name, None)
    return None if value is None else value.numpy()


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_equal(name, left, tmp_path):
    theirs = saved(name, tmp_path)
    arguments = CASES[name][2]
    ours = build_transformer_model(tmp_path, **arguments)
    ids, segments, mask = batch(theirs.config, left)
    expected = their_outputs(theirs, ids, segments, mask)
    wanted = {"with_pool": "pool", "with_nsp": "nsp", "with_mlm": "tokens"}
    keys = [key for argument, key in wanted.items() if argument in arguments] or ["hidden"]
    for key, found in zip(keys, predict(ours, [ids, segments]), strict=True):
        reference = expected[key]
        if found.ndim == 3:
            found, reference = found[mask], reference[mask]
        elif left:
            continue  # the first token is padding
        assert_close(found, reference)


@pytest.mark.parametrize("name", [n for n in CASES if n != "BertForNextSentencePrediction"])
def test_export_is_what_was_loaded(name, tmp_path):
    theirs = saved(name, tmp_path / "theirs")
    arguments = dict(CASES[name][2])
    if name in ("BertModel-tanh", "BertModel-relu", "BertModel-silu"):
        arguments["with_pool"] = True
    ours = build_transformer_model(tmp_path / "theirs", return_keras_model=False, **arguments)
    ours.save_pretrained(tmp_path / "ours", max_shard_size=20_000)
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    pooler = {key for key in info["missing_keys"] if ".pooler." in key or key.startswith("pooler.")}
    assert not info["missing_keys"] - pooler
    state, expected = again.state_dict(), theirs.state_dict()
    for key in expected:
        if key not in pooler:
            assert torch.equal(state[key], expected[key]), key
    ids, segments, mask = batch(theirs.config)
    for key, value in their_outputs(again, ids, segments, mask).items():
        if key != "pool":
            np.testing.assert_array_equal(value, their_outputs(theirs, ids, segments, mask)[key])
    reread = build_transformer_model(tmp_path / "ours", return_keras_model=False, **arguments)
    for a, b in zip(ours.model.weights, reread.model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_pytorch_bin(tmp_path):
    theirs = saved("BertModel", tmp_path)
    expected = build_transformer_model(tmp_path).get_weights()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    for a, b in zip(build_transformer_model(tmp_path).get_weights(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_untied_output_is_refused(tmp_path):
    theirs = saved("BertForMaskedLM", tmp_path)
    state = {name: value.clone() for name, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    build_transformer_model(tmp_path, with_mlm=True)
    state["cls.predictions.decoder.weight"] += 1
    torch.save(state, tmp_path / "pytorch_model.bin")
    build_transformer_model(tmp_path)
    with pytest.raises(CheckpointError, match="decoder.weight.*expected a copy of"):
        build_transformer_model(tmp_path, with_mlm=True)


def test_a_partial_mapping_fits_these_files_too(tmp_path):
    saved("BertModel", tmp_path)
    arguments = {"segment_vocab_size": 5, "return_keras_model": False}
    ours = build_transformer_model(tmp_path / "config.json", **arguments)
    mapping = ours.variable_mapping()
    mapping.pop("Embedding-Segment")
    ours.load_weights_from_checkpoint(tmp_path, mapping)
    assert ours.load_report.complete
    np.testing.assert_array_equal(
        ours.layers["Embedding-Token"].get_weights()[0],
        build_transformer_model(tmp_path).get_layer("Embedding-Token").get_weights()[0],
    )


def test_old_names_of_norms(tmp_path):
    theirs = saved("BertModel", tmp_path)
    expected = build_transformer_model(tmp_path).get_weights()
    old = {
        "bert."
        + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for key, value in theirs.state_dict().items()
    }
    torch.save(old, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    for a, b in zip(build_transformer_model(tmp_path).get_weights(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_json_file_and_a_safetensors_file(tmp_path):
    saved("BertModel", tmp_path)
    expected = build_transformer_model(tmp_path).get_weights()
    found = build_transformer_model(tmp_path / "config.json", tmp_path / "model.safetensors")
    for a, b in zip(found.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_model_argument_and_folder(tmp_path):
    saved("RobertaModel", tmp_path)
    found = build_transformer_model(tmp_path, model="roberta", return_keras_model=False)
    assert type(found) is RoBERTa

    class Mine(RoBERTa):
        pass

    assert type(build_transformer_model(tmp_path, model=Mine, return_keras_model=False)) is Mine


def test_unsupported_configurations_say_so(tmp_path):
    saved("BertModel", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"model_type": "perceiver"}, "model_type: expected one of .*found 'perceiver'"),
        ({"position_embedding_type": "relative_key"}, "expected 'absolute', found 'relative_key'"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"hidden_act": "mish2"}, "hidden_act: expected one of .*found 'mish2'"),
        ({"vocab_size": 98}, r"Embedding-Token.*expected \(98, 32\), found \(99, 32\)"),
        ({"num_hidden_layers": 3}, "Transformer-2-.*missing|missing"),
    ):
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message) as error:
            build_transformer_model(tmp_path)
        assert (
            "config.json" in str(error.value)
            or "hidden_act" in change
            or str(tmp_path) in str(error.value)
        )
    del config["hidden_size"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json: needs the keys .'hidden_size'"):
        build_transformer_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bert_small_embedding", {}, "embedding_size"),
        ("bert", {"hierarchical_position": True}, "hierarchical_position"),
        ("bert_unilm", {}, "UniLM"),
        ("bert_realformer", {}, "residual_attention_scores"),
        ("bert_no_segments", {}, "no segments"),
        ("bert_wide_keys", {}, "head sizes"),
        ("roberta", {"with_nsp": True, "pad_token_id": 1}, "class for"),
        ("roberta", {}, "position_offset=2"),
        ("bert", {"hidden_act": "leaky_relu"}, "no activation 'leaky_relu'"),
        ("bert", {"query_head": 4}, "query heads"),
        ("bert", {"o_bias": False}, "no output bias"),
        ("distilbert_lm", {}, "a causal mask"),
        ("distilbert", {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon=0.001"),
    ],
)
def test_what_hugging_face_has_not_cannot_be_exported(name, arguments, message, tmp_path):
    transformer = build(name, **arguments)
    with pytest.raises(CheckpointError, match=message):
        transformer.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
