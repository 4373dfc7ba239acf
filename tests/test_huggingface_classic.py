"""The classic families beside random tiny models of transformers.  Needs torch and transformers."""

import json
import warnings

import numpy as np
import pytest
from tiny import assert_close, predict

from bert4keras3.models import build_transformer_model
from bert4keras3.weights import CheckpointError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

SIZES = {"vocab_size": 99, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
INNER = {"intermediate_size": 48, "max_position_embeddings": 40}
DEBERTA = {
    **INNER,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_biased_input": False,
    "norm_rel_ebd": "layer_norm",
    "position_buckets": 6,
}
# model_type: its class prefix, its configuration, the classes with heads
KINDS = {
    "bert": ("Bert", INNER, ["Sequence", "Token", "Question"]),
    "roberta": ("Roberta", {**INNER, "type_vocab_size": 1}, ["Sequence", "Token", "Question"]),
    "xlm-roberta": ("XLMRoberta", INNER, ["MaskedLM", "Sequence"]),
    "camembert": ("Camembert", INNER, ["Token", "Question"]),
    "distilbert": (
        "DistilBert",
        {"hidden_dim": 48, "max_position_embeddings": 40},
        ["Model", "MaskedLM", "Sequence", "Token", "Question"],
    ),
    "albert": (
        "Albert",
        {**INNER, "embedding_size": 16, "layer_norm_eps": 1e-6},
        ["Model", "MaskedLM", "PreTraining", "Sequence", "Token", "Question"],
    ),
    "electra": (
        "Electra",
        {**INNER, "embedding_size": 16},
        ["Model", "PreTraining", "MaskedLM", "Sequence", "Token", "Question"],
    ),
    "roformer": (
        "RoFormer",
        {**INNER, "embedding_size": 24},
        ["Model", "MaskedLM", "CausalLM", "Sequence", "Token", "Question"],
    ),
    "deberta-v2": ("DebertaV2", DEBERTA, ["Model", "MaskedLM", "Sequence", "Token", "Question"]),
    "openai-gpt": ("OpenAIGPT", {"n_positions": 40}, ["Model", "LMHead", "Sequence"]),
    "gpt2": (
        "GPT2",
        {"n_positions": 40, "n_inner": 48},
        ["Model", "LMHead", "Sequence", "Token", "Question"],
    ),
}
ENDS = {
    "Model": "Model",
    "LMHead": "LMHeadModel",
    "Sequence": "ForSequenceClassification",
    "Token": "ForTokenClassification",
    "Question": "ForQuestionAnswering",
}
CASES = [(kind, end) for kind, (_, _, ends) in KINDS.items() for end in ends]
IDS = [f"{kind}-{end}" for kind, end in CASES]


def saved(kind, end, folder, **changes):
    """Their model with random weights, saved to a folder."""
    prefix, config, _ = KINDS[kind]
    cls = getattr(transformers, prefix + ENDS.get(end, f"For{end}"))
    config = {**SIZES, **config, **changes}
    if end in ("Sequence", "Token"):
        config["num_labels"] = 5
    if end == "CausalLM":
        config["is_decoder"] = True
    if kind in ("openai-gpt", "gpt2"):
        config["pad_token_id"] = 1
    torch.manual_seed(0)
    model = cls(cls.config_class(**config)).eval()
    for name, parameter in model.named_parameters():
        if "embed_positions" not in name:  # a constant of RoFormer
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model


def batch(config, left):
    """Token ids padded at one side, and the padding mask."""
    rng = np.random.default_rng(0)
    ids = rng.integers(8, 99, (4, 12)).astype("int32")
    for row, length in enumerate((12, 7, 3, 10)):
        ids[row, slice(0, 12 - length) if left else slice(length, None)] = config.pad_token_id
    return ids, ids != config.pad_token_id


def their_outputs(model, ids, mask, positions=None):
    """Their outputs in our order and form."""
    extra = {} if positions is None else {"position_ids": torch.tensor(positions).long()}
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long(), **extra
        )
    if "start_logits" in out:
        return [torch.stack([out.start_logits, out.end_logits], -1).numpy()]
    if "prediction_logits" in out:
        return [torch.softmax(out.sop_logits, -1).numpy(), out.prediction_logits.numpy()]
    found = out.logits if "logits" in out else out.last_hidden_state
    return [
        (found[..., None] if type(model).__name__ == "ElectraForPreTraining" else found).numpy()
    ]


def our_inputs(model, ids):
    return [ids, np.zeros_like(ids)][: len(model.inputs)]


@pytest.mark.slow
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(("kind", "end"), CASES, ids=IDS)
def test_outputs_are_equal(kind, end, left, tmp_path):
    theirs = saved(kind, end, tmp_path)
    ours = build_transformer_model(tmp_path, head="auto")
    ids, mask = batch(theirs.config, left)
    expected = their_outputs(theirs, ids, mask)
    for found, reference in zip(predict(ours, our_inputs(ours, ids)), expected, strict=True):
        if found.ndim == 3:
            found, reference = found[mask], reference[mask]
        elif left and end != "LMHead" and kind not in ("openai-gpt", "gpt2"):
            continue  # the first token is padding
        assert_close(found, reference)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "end"), CASES, ids=IDS)
def test_export_is_what_was_loaded(kind, end, tmp_path):
    theirs = saved(kind, end, tmp_path / "theirs")
    ours = build_transformer_model(tmp_path / "theirs", head="auto", return_keras_model=False)
    ours.save_pretrained(tmp_path / "ours", max_shard_size=20_000)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    cls = getattr(transformers, config["architectures"][0])
    again, info = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    constants = ("pooler.", "embed_positions.")
    assert not [key for key in info["missing_keys"] if not any(c in key for c in constants)]
    ids, mask = batch(theirs.config, False)
    found, expected = their_outputs(again.eval(), ids, mask), their_outputs(theirs, ids, mask)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    reread = build_transformer_model(tmp_path / "ours", head="auto", return_keras_model=False)
    assert reread.head == ours.head and reread.labels == ours.labels
    for a, b in zip(ours.model.weights, reread.model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_labels_are_kept(tmp_path):
    saved("bert", "Sequence", tmp_path, id2label={i: f"class {i}" for i in range(5)})
    ours = build_transformer_model(tmp_path, head="auto", return_keras_model=False)
    assert ours.labels == [f"class {i}" for i in range(5)]
    assert ours.head == "sequence_classification" and ours.outputs[0].shape == (None, 5)
    again = build_transformer_model(
        tmp_path, head="sequence_classification", return_keras_model=False
    )
    assert again.labels == ours.labels
    encoder = build_transformer_model(tmp_path)
    assert encoder.outputs[0].shape == (None, None, 32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "openai-gpt"])
def test_greedy_generation_is_theirs(kind, tmp_path):
    theirs = saved(kind, "LMHead", tmp_path)
    ours = build_transformer_model(tmp_path, return_keras_model=False)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(8, 99, n).tolist() for n in (9, 4, 1)]
    found = ours.generate(prompts, 12, end_token=None)
    for prompt, ids in zip(prompts, found, strict=True):
        whole = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
        )
        assert ids == whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups: expected 1, found 2"),
        ("roformer", {"rotary_value": True}, "rotary_value: expected False"),
        ("deberta-v2", {"pos_att_type": ["c2p"]}, "pos_att_type"),
        ("deberta-v2", {"relative_attention": False}, "relative_attention: expected True"),
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("distilbert", {"dim": None}, "dim"),
    ],
)
def test_unsupported_configurations_say_so(kind, change, message, tmp_path):
    saved(kind, "Model", tmp_path)
    path = tmp_path / "config.json"
    config = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(ValueError, match=message):
        build_transformer_model(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nezha"}, "no Hugging Face form"),
        ({"model": "gpt2_ml"}, "no Hugging Face form"),
        ({"model": "gpt2", "embedding_size": 8, "final_activation": False}, "embedding_size"),
        ({"model": "gpt"}, "inner size"),
        ({"model": "electra", "application": "encoder", "segment_vocab_size": 0}, "no segments"),
    ],
)
def test_what_hugging_face_has_not_cannot_be_exported(arguments, message, tmp_path):
    from tiny import SIZES as OURS

    transformer = build_transformer_model(**OURS, **arguments, return_keras_model=False)
    with pytest.raises(CheckpointError, match=message):
        transformer.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------- what a review once found


def test_albert_with_token_vectors_of_the_hidden_size(tmp_path):
    theirs = saved("albert", "Model", tmp_path / "theirs", embedding_size=32)
    ours = build_transformer_model(tmp_path / "theirs", return_keras_model=False)
    ids, mask = batch(theirs.config, False)
    found = predict(ours.model, our_inputs(ours, ids))[0]
    assert_close(found[mask], their_outputs(theirs, ids, mask)[0][mask])
    ours.save_pretrained(tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours").eval()
    assert_close(their_outputs(again, ids, mask)[0][mask], found[mask])


@pytest.mark.parametrize("key", ["relative_attention", "pos_att_type", "share_att_key"])
def test_what_a_deberta_does_not_say_it_has_not(key, tmp_path):
    saved("deberta-v2", "Model", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config.pop(key)
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"config.json: {key}: expected .*, found"):
        build_transformer_model(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["albert", "roformer", "deberta"])
def test_our_own_models_are_exported(name, tmp_path):
    from tiny import build, inputs_for

    ours = build(name) if name == "deberta" else build(name, with_pool=False)
    with warnings.catch_warnings(record=True):
        ours.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    theirs = getattr(transformers, config["architectures"][0]).from_pretrained(tmp_path).eval()
    arrays = inputs_for(ours)
    if len(arrays) > 1:
        arrays[1][:] = 0
    mask = np.ones_like(arrays[0], bool)
    expected = their_outputs(theirs, arrays[0], mask)[0]
    assert_close(predict(ours.model, arrays)[-1], expected, 1e-3 if name == "deberta" else 1e-5)


def test_one_epsilon_for_all_norms_is_said(tmp_path):
    from tiny import build

    with pytest.warns(UserWarning, match="one epsilon for all norms: {'MLM_Head': 1e-05}"):
        build("deberta").save_pretrained(tmp_path)


def test_gelu_of_gpt_is_the_tanh_form(tmp_path):
    from tiny import build

    arguments = {"segment_vocab_size": 0, "intermediate_size": 64}
    with pytest.raises(CheckpointError, match="no activation 'gelu'"):
        build("gpt", **arguments).save_pretrained(tmp_path)
    build("gpt", **arguments, hidden_act="gelu_tanh").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["afn"] == "gelu"


@pytest.mark.parametrize("model", ["gpt2", "roformer", "albert", "llama"])
def test_another_family_than_the_folder_s(model, tmp_path):
    saved("bert", "Sequence", tmp_path)
    with pytest.raises(ValueError, match=f"expected a checkpoint of '{model}', found .* 'bert'"):
        build_transformer_model(tmp_path, model=model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "roformer"])
def test_a_bare_decoder_is_causal_and_has_no_head(kind, tmp_path):
    theirs = saved(kind, "Model", tmp_path, is_decoder=True)
    ours = build_transformer_model(tmp_path, return_keras_model=False)
    assert ours.attention_kind == "causal"
    ids, mask = batch(theirs.config, False)
    found = predict(ours.model, our_inputs(ours, ids))[0]
    assert_close(found[mask], their_outputs(theirs, ids, mask)[0][mask])


@pytest.mark.parametrize("kind", ["gpt2", "openai-gpt"])
def test_a_folder_that_does_not_name_its_class(kind, tmp_path):
    saved(kind, "LMHead", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config.pop("architectures")
    path.write_text(json.dumps(config))
    assert build_transformer_model(tmp_path).output_shape == (None, None, 99)


def test_outputs_we_do_not_have(tmp_path):
    model = transformers.BertForMultipleChoice(transformers.BertConfig(**SIZES, **INNER))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="head: expected one of .*got 'BertForMultipleChoice'"):
        build_transformer_model(tmp_path, head="auto")
    assert build_transformer_model(tmp_path).output_shape == (None, None, 32)
