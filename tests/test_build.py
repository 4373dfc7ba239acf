"""build_transformer_model: arguments, files, token selection, errors."""

import json
import logging

import h5py
import numpy as np
import pytest
from tiny import SIZES, assert_close, build, inputs_for, predict, randomize

from bert4keras3.models import BERT, RoFormer, build_transformer_model
from bert4keras3.weights import CheckpointError


@pytest.fixture
def files(tmp_path):
    """A BERT with MLM head in every file form, and its transformer."""
    transformer = build("bert", with_mlm="linear", with_pool=True, segment_vocab_size=2)
    transformer.save_weights(tmp_path / "bert.weights.h5")
    transformer.save_weights_as_checkpoint(tmp_path / "bert.ckpt")
    transformer.save_pretrained(tmp_path / "hf")
    config = {
        **{k: v for k, v in SIZES.items() if k != "max_position"},
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
        "hidden_dropout_prob": 0.2,
        "attention_probs_dropout_prob": 0.3,
        "directionality": "bidi",
    }
    (tmp_path / "bert_config.json").write_text(json.dumps(config))
    paths = {
        "h5": tmp_path / "bert.weights.h5",
        "tf": tmp_path / "bert.ckpt",
        "hf": tmp_path / "hf" / "model.safetensors",
    }
    return transformer, tmp_path / "bert_config.json", paths


def load(config, path, **kwargs):
    return build_transformer_model(
        config, path, with_mlm="linear", with_pool=True, return_keras_model=False, **kwargs
    )


@pytest.mark.parametrize("form", ["h5", "tf", "hf"])
def test_every_form_loads(files, form):
    transformer, config, paths = files
    found = load(config, paths[form])
    assert found.dropout_rate == 0.2 and found.attention_dropout_rate == 0.3
    assert found.max_position == 32 and found.segment_vocab_size == 2
    for a, b in zip(found.model.weights, transformer.model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert "loaded 44 tensors" in str(found.load_report)


@pytest.mark.parametrize("form", ["h5", "tf", "hf"])
def test_keep_and_compound_tokens(files, form, tmp_path):
    transformer, config, paths = files
    keep, compound = [0, 7, 3, 9, 40], [[1, 2], ([0, 3], [3.0, 1.0])]
    found = load(config, paths[form], keep_tokens=keep, compound_tokens=compound)
    assert found.vocab_size == 7
    table = transformer.layers["Embedding-Token"].get_weights()[0][keep]
    bias = transformer.layers["MLM-Bias"].get_weights()[0][keep]
    for layer, rows in (("Embedding-Token", table), ("MLM-Bias", bias)):
        expected = [*rows, (rows[1] + rows[2]) / 2, (3 * rows[0] + rows[3]) / 4]
        assert_close(found.layers[layer].get_weights()[0], np.array(expected))
    # A file that has the selected rows already loads as it is.
    if form == "h5":
        found.save_weights(tmp_path / "small.weights.h5")
        again = load(
            config, tmp_path / "small.weights.h5", keep_tokens=keep, compound_tokens=compound
        )
        for a, b in zip(again.model.weights, found.model.weights, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("form", ["h5", "tf", "hf"])
def test_ignore_invalid_weights(files, form):
    transformer, config, paths = files
    arguments = {"num_hidden_layers": 3, "intermediate_size": 32}
    with pytest.raises(CheckpointError) as error:
        load(config, paths[form], **arguments)
    text = str(error.value)
    assert "missing (" in text and "mismatched (" in text and str(paths[form].name) in text
    assert "Transformer-0-FeedForward" in text and "expected (16, 32), found (16, 24)" in text
    with pytest.warns(UserWarning, match="keep their initial values"):
        found = load(config, paths[form], ignore_invalid_weights=True, **arguments)
    assert not found.load_report.complete
    assert all(np.isfinite(w).all() for w in found.model.get_weights())
    assert found.layers["Transformer-2-FeedForward"].get_weights()[0].std() > 0.005
    np.testing.assert_array_equal(
        found.layers["Embedding-Token"].get_weights()[0],
        transformer.layers["Embedding-Token"].get_weights()[0],
    )


@pytest.mark.parametrize("form", ["h5", "tf", "hf"])
def test_autoresize_weights(files, form):
    _, config, paths = files
    found = load(config, paths[form], autoresize_weights=True, hidden_size=32, intermediate_size=40)
    assert found.load_report.complete and found.load_report.resized
    assert all(np.isfinite(w).all() for w in found.model.get_weights())


def test_mapping_can_be_partial(files):
    transformer, config, paths = files
    found = load(config, None)
    before = found.layers["Embedding-Segment"].get_weights()[0]
    mapping = found.variable_mapping()
    mapping.pop("Embedding-Segment")
    mapping["Layer-Of-Nobody"] = ["no/such/variable"]
    found.load_weights_from_checkpoint(paths["tf"], mapping)
    np.testing.assert_array_equal(found.layers["Embedding-Segment"].get_weights()[0], before)
    np.testing.assert_array_equal(
        found.layers["Pooler-Dense"].get_weights()[0],
        transformer.layers["Pooler-Dense"].get_weights()[0],
    )


def test_a_dict_of_arrays_is_a_checkpoint(files):
    transformer, config, _ = files
    arrays = {}
    for layer, names in transformer.variable_mapping().items():
        if layer in transformer.layers:
            weights = transformer.layers[layer].weights
            arrays |= {name: w.numpy() for name, w in zip(names, weights, strict=False)}
    found = load(config, None)
    found.load_weights_from_checkpoint(arrays)
    for a, b in zip(found.model.weights, transformer.model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_load_and_create_variable_are_inverse(files):
    transformer, _, paths = files
    nsp = build("bert", with_nsp=True)
    name = "cls/seq_relationship/output_weights"
    value = nsp.layers["NSP-Proba"].get_weights()[0]
    stored = nsp.create_variable(name, value, "float16")
    assert stored.shape == (2, 16) and stored.dtype == np.float16
    assert_close(nsp.load_variable({name: stored}, name), value, 1e-3)
    table = transformer.load_variable(paths["tf"], "bert/embeddings/word_embeddings")
    assert table.shape == (50, 16)
    with pytest.raises(CheckpointError, match="'no/such/variable'"):
        transformer.load_variable(paths["tf"], "no/such/variable")


def test_overridden_hooks_are_used(files):
    _, config, paths = files

    class Doubled(BERT):
        def load_variable(self, checkpoint, name):
            value = super().load_variable(checkpoint, name)
            return value * 2 if name.endswith("pooler/dense/kernel") else value

        def variable_mapping(self):
            return {"Pooler-Dense": super().variable_mapping()["Pooler-Dense"]}

    transformer, _, _ = files
    found = load(config, paths["tf"], model=Doubled)
    assert_close(
        found.layers["Pooler-Dense"].get_weights()[0],
        2 * transformer.layers["Pooler-Dense"].get_weights()[0],
    )


def test_arguments_override_the_file_and_aliases_work(files):
    _, config, _ = files
    found = build_transformer_model(
        config,
        num_hidden_layers=1,
        hidden_dropout_prob=0.5,
        dropout_rate=None,
        initial=False,
        return_keras_model=False,
    )
    assert found.num_hidden_layers == 1 and found.dropout_rate == 0.5
    bare = {k: v for k, v in SIZES.items() if k != "max_position"}
    found = build_transformer_model(**bare, return_keras_model=False)
    assert found.max_position == 512 and found.segment_vocab_size == 2


def test_keywords_nobody_takes():
    with pytest.raises(TypeError, match="BERT takes no 'with_mln'; did you mean 'with_mlm'"):
        build_transformer_model(**SIZES, with_mln=True)
    with pytest.raises(TypeError, match="got unknown arguments: colour"):
        BERT(**SIZES, colour=1)
    with pytest.raises(ValueError, match="unknown model 'bret': expected .*bert"):
        build_transformer_model(**SIZES, model="bret")
    with pytest.raises(ValueError, match="unknown application 'seq2seq': expected"):
        build_transformer_model(**SIZES, application="seq2seq")
    with pytest.raises(TypeError, match="expected a subclass of Transformer, got int"):
        build_transformer_model(**SIZES, model=int)
    with pytest.raises(ValueError, match="needs segment ids"):
        build_transformer_model(**SIZES, application="unilm", segment_vocab_size=0)


def test_configurations_that_lack_something(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(FileNotFoundError, match="config.json"):
        build_transformer_model(path)
    with pytest.raises(FileNotFoundError, match="config.json"):
        build_transformer_model(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="config.json: expected a JSON object"):
        build_transformer_model(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object, found a list"):
        build_transformer_model(path)
    path.write_text(json.dumps({k: v for k, v in SIZES.items() if k != "vocab_size"}))
    with pytest.raises(ValueError, match="config.json: BERT needs vocab_size"):
        build_transformer_model(path)
    path.write_text(json.dumps({**SIZES, "hidden_size": 17}))
    with pytest.raises(ValueError, match="hidden_size 17 .*num_attention_heads 2"):
        build_transformer_model(path)


def test_missing_and_broken_files(files, tmp_path):
    _, config, paths = files
    for path in (tmp_path / "no.ckpt", tmp_path / "no.weights.h5", tmp_path / "no.safetensors"):
        with pytest.raises(FileNotFoundError, match=path.name):
            load(config, path)
    data = paths["h5"].read_bytes()
    for broken in (data[: len(data) // 2], b"", b"not a file of weights"):
        paths["h5"].write_bytes(broken)
        with pytest.raises(CheckpointError, match="bert.weights.h5"):
            load(config, paths["h5"])


def test_another_family_s_checkpoint(files, golden):
    _, config, _ = files
    for name in ("albert", "t5", "gpt2_ml"):
        with pytest.raises(CheckpointError, match="missing"):
            load(config, golden / "tf" / name / "bert_model.ckpt")
    with pytest.raises(CheckpointError, match="missing|mismatched"):
        load(config, golden / "h5" / "llama.weights.h5")


def test_keep_tokens_beyond_the_table(files):
    _, config, paths = files
    for form in paths:
        with pytest.raises(CheckpointError, match="token 77, the table has 50 rows"):
            load(config, paths[form], keep_tokens=[1, 77])


def test_a_failed_save_leaves_the_old_file(files, monkeypatch):
    transformer, config, paths = files
    before = paths["h5"].read_bytes()

    def fail(path, **kwargs):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(transformer.model, "save_weights", fail)
    with pytest.raises(OSError, match="disk full"):
        transformer.save_weights(paths["h5"])
    assert paths["h5"].read_bytes() == before
    assert not list(paths["h5"].parent.glob(".*"))


def test_report_tells_what_was_not_used(files, caplog):
    _, config, paths = files
    with caplog.at_level(logging.INFO, "bert4keras3"):
        found = build_transformer_model(config, paths["tf"], return_keras_model=False)
    assert "cls/predictions/output_bias" in found.load_report.unused
    assert "unused (" in caplog.text


def test_h5_of_another_keras_era(files, tmp_path):
    """Early files call the group of layers otherwise."""
    transformer, config, paths = files
    old = tmp_path / "old.weights.h5"
    with h5py.File(paths["h5"]) as new, h5py.File(old, "w") as file:
        new.copy("layers", file, name="_layer_checkpoint_dependencies")
    found = load(config, old)
    for a, b in zip(found.model.weights, transformer.model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_keras_model_on_top_saves_and_loads(files, tmp_path):
    """Users put their own heads on a model; Keras writes, we can read the same paths."""
    from bert4keras3.ops import keras
    from bert4keras3.weights.h5 import variable_paths

    transformer, _, _ = files
    first = keras.layers.Lambda(lambda x: x[:, 0])(transformer.outputs[1])
    hidden = keras.layers.Dense(3, activation="relu")(first)
    model = keras.Model(transformer.inputs, keras.layers.Dense(2)(hidden))
    model.save_weights(tmp_path / "all.weights.h5")
    with h5py.File(tmp_path / "all.weights.h5") as file:
        for path, (_, variable) in variable_paths(model).items():
            np.testing.assert_array_equal(file[path][()], variable.numpy())


def test_pad_token_of_the_configuration():
    transformer = build("bert", pad_token_id=5)
    arrays = inputs_for(transformer)
    arrays[0][arrays[0] == 5] = 6
    arrays[0][0, 4:] = 5
    together = predict(transformer.model, arrays)[0]
    alone = predict(transformer.model, [a[:1, :4] for a in arrays])[0]
    assert_close(together[:1, :4], alone)
    none = build("bert", pad_token_id=None)
    randomize(none.model)
    assert np.abs(predict(none.model, arrays)[0][:1, :4] - alone).max() > 1e-3


def test_a_file_may_say_the_family_and_the_application(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**SIZES, "model": "roformer", "application": "lm"}))
    found = build_transformer_model(path, return_keras_model=False)
    assert isinstance(found, RoFormer) and found.attention_kind == "causal"
    found = build_transformer_model(
        path, model="bert", application="unilm", return_keras_model=False
    )
    assert not isinstance(found, RoFormer) and found.attention_kind == "unilm"
