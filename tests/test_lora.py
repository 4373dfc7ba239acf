"""LoRA and DoRA: what is trained, merging, switching, files.  pytest tests/test_lora.py"""

import json

import numpy as np
import pytest
import tiny
from tiny import assert_close, build, each, inputs_for, predict

from bert4keras3.models import build_transformer_model
from bert4keras3.ops import keras
from bert4keras3.training import (
    active_lora,
    enable_lora,
    load_lora,
    lora_adapters,
    lora_targets,
    merge_lora,
    remove_lora,
    save_lora,
    set_adapter,
    unmerge_lora,
)
from bert4keras3.weights import CheckpointError
from bert4keras3.weights.h5 import KerasWeights

FAMILIES = ("bert", "albert", "gemma", "llama_window", "t5", "roformer", "gau_lm", "deberta")
FEW = ("albert", "gemma")


def disturb(model, seed=1, size=0.1):
    """Give what is trained values as a training would."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        change = rng.normal(0, size, variable.shape).astype("float32")
        variable.assign(keras.ops.convert_to_numpy(variable) + change)


def everywhere(model):
    """Targets that are all layers there are, of blocks and beside them."""
    return list(lora_targets(model))


def tuned(family, targets=None, seed=1, size=0.1, **options):
    """A transformer with an adapter, inputs, and its outputs without and with it."""
    keras.utils.set_random_seed(seed)
    transformer = build(family)
    arrays = inputs_for(transformer)
    base = predict(transformer.model, arrays)[-1]
    targets = everywhere(transformer) if targets == "all" else targets
    enable_lora(transformer, rank=3, alpha=5, targets=targets, **options)
    assert_close(predict(transformer.model, arrays)[-1], base)
    disturb(transformer.model, seed, size)
    found = predict(transformer.model, arrays)[-1]
    assert np.abs(found - base).max() > 1e-2
    return transformer, arrays, base, found


def weights_of(transformer):
    """`{path: array}` of all weights."""
    return {v.path: keras.ops.convert_to_numpy(v).copy() for v in transformer.model.weights}


# ------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "name", each(("bert", "albert", "gemma", "llama", "t5", "roformer"), ("gemma",))
)
def test_only_adapters_are_trained(name):
    keras.utils.set_random_seed(0)
    transformer = build(name, dropout_rate=0.1, num_hidden_layers=1)
    use_dora = name in ("albert", "gemma")
    names = enable_lora(transformer, rank=2, dropout=0.1, use_dora=use_dora)
    model = keras.Model(transformer.inputs, transformer.outputs[-1])
    arrays, before = inputs_for(transformer, rows=4), weights_of(transformer)
    optimizer = keras.optimizers.Adam(1e-2)
    model.compile(optimizer, "mse")
    targets = np.zeros_like(predict(model, arrays)[-1])
    model.fit(arrays if len(arrays) > 1 else arrays[0], targets, epochs=2, verbose=0)
    after = weights_of(transformer)
    changed = {path for path in before if (before[path] != after[path]).any()}
    assert changed == {path for path in before if "lora_" in path and not path.endswith("gate")}
    # The optimizer keeps two numbers for each trained one, and none for the rest.
    trained = sum(int(np.prod(before[path].shape)) for path in changed)
    kept = sum(int(np.prod(v.shape)) for v in optimizer.variables if len(v.shape))
    assert kept == 2 * trained and trained < model.count_params() / 2
    assert len(changed) == (3 if use_dora else 2) * len(names)


def test_a_head_is_trained_whole():
    transformer = build("bert_classifier")
    enable_lora(transformer, targets=["q_dense", "v_dense"], train_also=["Classifier"])
    trained = {variable.path for variable in transformer.model.trainable_variables}
    assert {path for path in trained if "lora_" not in path} == {
        "Classifier/kernel",
        "Classifier/bias",
    }
    assert len(trained) == 2 + 2 * 4


@pytest.mark.parametrize("name", each(("bert", "gemma"), FEW))
def test_environment_variable(name, monkeypatch):
    """documents/000: all but LoRA and norms is frozen; Dense and Embedding, those inside too."""
    plain = build(name)
    arguments = {**tiny.SIZES, **tiny.ALL[name]}
    monkeypatch.setenv("ENABLE_LORA", "1")
    model = build_transformer_model(**arguments)
    trained = model.trainable_variables
    assert {v.path for v in trained if "lora_" not in v.path} == {
        v.path for v in plain.model.weights if "norm" in v.path.lower()
    }
    head = plain.attention_head_size
    tables = [n for n in plain.layers if n in ("Embedding-Token", "Embedding-Segment")]
    ranks = [layer.adapter("default").rank for layer in lora_targets(model).values()]
    assert ranks.count(2 * head) == len(tables) and set(ranks) == {head, 2 * head}
    assert len(ranks) == len(lora_targets(plain))
    # An argument is the better way, and False is for never.
    assert lora_adapters(build_transformer_model(**arguments, lora=False)) == []
    model = build_transformer_model(**arguments, lora={"rank": 2, "name": "mine"})
    assert lora_adapters(model) == ["mine"]
    assert all("lora_" in v.path for v in model.trainable_variables)


def test_state_tuning_goes_together_with_it():
    transformer = build("rwkv6")
    enable_lora(transformer, targets=["dense_r"])
    transformer.enable_state_tuning()
    names = {v.name for v in transformer.model.trainable_variables}
    assert names == {"lora_a", "lora_b", "tuned_wkv"}
    enable_lora(transformer, name="second")
    assert {v.name for v in transformer.model.trainable_variables} == names


# ------------------------------------------------------------------ merge and switch


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("name", each(FAMILIES, FEW))
def test_merged_equals_unmerged(name, use_dora):
    transformer, arrays, base, expected = tuned(name, "all", use_dora=use_dora)
    plain = build(name)
    merge_lora(transformer)
    assert_close(predict(transformer.model, arrays)[-1], expected, 1e-6)
    assert [v.path for v in transformer.model.weights] == [v.path for v in plain.model.weights]
    assert active_lora(transformer) == "default"
    unmerge_lora(transformer)
    assert_close(predict(transformer.model, arrays)[-1], expected, 2e-6)
    set_adapter(transformer, None)
    assert_close(predict(transformer.model, arrays)[-1], base, 2e-6)


@pytest.mark.parametrize("name", each(("gemma", "albert"), ("gemma",)))
def test_keras_files(name, tmp_path):
    """A file has the adapter within its kernels, for plain models, and beside them."""
    use_dora = name == "gemma"
    path = tmp_path / "model.weights.h5"
    transformer, arrays, base, expected = tuned(name, "all", use_dora=use_dora)
    transformer.save_weights(path)
    for own in (True, False):
        plain = build(name)
        (plain if own else plain.model).load_weights(path)
        assert_close(predict(plain.model, arrays)[-1], expected, 1e-6)
        adapted = build(name)
        enable_lora(adapted, 3, 5, everywhere(adapted), use_dora=use_dora)
        (adapted if own else adapted.model).load_weights(path)
        assert_close(predict(adapted.model, arrays)[-1], expected, 2e-6)
        set_adapter(adapted, None)
        assert_close(predict(adapted.model, arrays)[-1], base, 2e-6)
    # A merged model's file is a plain one's, and a plain one's loads beside adapters.
    merge_lora(transformer)
    transformer.save_weights(path)
    plain.save_weights(tmp_path / "plain.weights.h5")
    with KerasWeights(path) as merged, KerasWeights(tmp_path / "plain.weights.h5") as other:
        assert set(merged) == set(other)
    other, _, _, with_adapter = tuned(name, "all", use_dora=False, seed=3)
    tiny.randomize(plain.model)  # the weights of `build`
    plain.save_weights(tmp_path / "plain.weights.h5")
    for load in (other.load_weights, other.model.load_weights):
        load(tmp_path / "plain.weights.h5")
        assert_close(predict(other.model, arrays)[-1], with_adapter, 0)


def test_a_checkpoint_may_come_later(tmp_path):
    transformer, arrays, _, expected = tuned("bert")
    plain = build("bert")
    plain.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    late = build("bert")
    tiny.randomize(late.model, seed=8)
    save_lora(transformer, tmp_path / "adapter.safetensors")
    load_lora(late, tmp_path / "adapter.safetensors")
    late.load_weights_from_checkpoint(tmp_path / "model.ckpt")
    assert_close(predict(late.model, arrays)[-1], expected, 1e-6)
    for save in (late.save_pretrained, late.save_weights_as_checkpoint):
        with pytest.raises(CheckpointError, match="merge_lora"):
            save(tmp_path / "other")


def test_whole_models_are_saved_plain(tmp_path):
    transformer, arrays, _, expected = tuned("roformer")
    transformer.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(predict(loaded, arrays)[-1], expected, 1e-6)
    assert lora_adapters(loaded) == []


@pytest.mark.further
def test_adapters_are_switched_by_values():
    """One program for all adapters; what is compiled follows the switch."""
    transformer, arrays, base, first = tuned("llama", name="first", size=0.5)
    enable_lora(transformer, rank=2, name="second", use_dora=True)
    disturb(transformer.model, seed=2, size=0.5)
    second = predict(transformer.model, arrays)[-1]
    assert np.abs(second - first).max() > 1e-2
    assert {v.path for v in transformer.model.trainable_variables if "/first/" in v.path} == set()
    ways = {"first": first, "second": second, None: base}
    tokens = {}
    for name, expected in [*ways.items(), ("first", first)]:
        set_adapter(transformer, name)
        assert active_lora(transformer) == name
        assert_close(predict(transformer.model, arrays)[-1], expected, 1e-6)
        ids = transformer.generate([[3, 4, 5]], 6)
        assert tokens.setdefault(name, ids) == ids
    assert len(transformer.programs) == 1
    set_adapter(transformer, "second")
    merge_lora(transformer)
    assert transformer.generate([[3, 4, 5]], 6) == tokens["second"]
    assert len(set(map(str, tokens.values()))) > 1
    with pytest.raises(ValueError, match="unmerge_lora first"):
        set_adapter(transformer, "first")
    remove_lora(transformer)
    assert lora_adapters(transformer) == [] and active_lora(transformer) is None
    assert_close(predict(transformer.model, arrays)[-1], second, 1e-6)


@pytest.mark.parametrize("name", each(("t5", "gemma"), ()))
def test_generation_equals_the_merged_models(name):
    transformer, *_ = tuned(name, use_dora=True, size=0.5)
    before = transformer.generate([[5, 6, 7]], 6)
    merge_lora(transformer)
    assert transformer.generate([[5, 6, 7]], 6) == before


@pytest.mark.parametrize(
    "policy", each(("mixed_bfloat16", "bfloat16", "mixed_float16"), ("mixed_bfloat16",))
)
def test_adapters_are_float32(policy):
    arguments = {**tiny.SIZES, **tiny.ALL["gemma"], "return_keras_model": False}
    transformer = build_transformer_model(**arguments, dtype=policy)
    enable_lora(transformer, targets=everywhere(transformer), use_dora=True)
    trained = transformer.model.trainable_variables
    assert {str(v.dtype) for v in trained} == {"float32"}
    disturb(transformer.model)
    arrays = inputs_for(transformer)
    found = predict(transformer.model, arrays)[-1]
    merge_lora(transformer)
    assert_close(predict(transformer.model, arrays)[-1], found, 5e-2)


# ------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", each(("gemma", "rwkv6", "gau_lm"), FEW))
def test_adapter_files(name, tmp_path):
    path = tmp_path / "adapter.safetensors"
    transformer, arrays, base, expected = tuned(name, "all", use_dora=True, dropout=0.1)
    save_lora(transformer, path)
    other = build(name)
    load_lora(other, path, "other")
    assert_close(predict(other.model, arrays)[-1], expected, 1e-6)
    assert lora_adapters(other) == ["other"] and other.model.trainable_variables
    load_lora(other, path, "other", trainable=True)
    assert all("lora_" in v.path for v in other.model.trainable_variables)
    adapter = next(iter(lora_targets(other).values())).adapter("other")
    assert (adapter.rank, adapter.alpha) == (3, 5)
    set_adapter(other, None)
    assert_close(predict(other.model, arrays)[-1], base, 1e-6)


def test_a_trained_head_goes_along(tmp_path):
    """Of a model that a user made, too."""

    def make():
        bert = build("bert")
        output = keras.layers.Dense(2, name="head")(bert.model.output[:, 0])
        return keras.Model(bert.model.inputs, output), inputs_for(bert)

    model, arrays = make()
    enable_lora(model, rank=2, train_also=["head"])
    disturb(model)
    save_lora(model, tmp_path / "adapter.safetensors")
    other, _ = make()
    load_lora(other, tmp_path / "adapter.safetensors", trainable=True)
    assert_close(predict(other, arrays)[0], predict(model, arrays)[0], 1e-6)
    trained = [{v.path for v in m.trainable_variables} for m in (model, other)]
    assert trained[0] == trained[1] and "head/kernel" in trained[0]
    with pytest.raises(CheckpointError, match="no place for head/0"):
        save_lora(model, tmp_path / "folder")


@pytest.mark.once
def test_peft_form(tmp_path):
    """Names, shapes and settings, as PEFT's documentation has them."""
    targets = ["q_dense", "_feedforward_output_dense"[1:], "Embedding-Token"]
    transformer, *_ = tuned("llama", targets, use_dora=True)
    save_lora(transformer, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "embed_tokens", "q_proj"]
    expected = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 5}
    expected |= {"use_dora": True, "bias": "none", "fan_in_fan_out": False}
    assert {key: config[key] for key in expected} == expected
    from safetensors.numpy import load_file

    tensors = load_file(tmp_path / "adapter_model.safetensors")
    root = "base_model.model.model."
    shapes = {
        f"{root}layers.1.self_attn.q_proj.lora_A.weight": (3, 16),
        f"{root}layers.1.self_attn.q_proj.lora_B.weight": (32, 3),
        f"{root}layers.1.self_attn.q_proj.lora_magnitude_vector": (32,),
        f"{root}layers.0.mlp.down_proj.lora_A.weight": (3, 24),
        f"{root}embed_tokens.lora_embedding_A": (3, 50),
        f"{root}embed_tokens.lora_embedding_B": (16, 3),
    }
    assert {name: tensors[name].shape for name in shapes} == shapes
    assert len(tensors) == 3 * 5
    other = build("llama", keep_tokens=[0, 7, 9, 30])
    load_lora(other, tmp_path)
    assert lora_targets(other)["Embedding-Token"].adapter("default").a.shape == (4, 3)


@pytest.mark.once
def test_what_does_not_fit_is_refused(tmp_path):
    transformer = build("bert")
    for options, message in (
        ({"targets": ["no_dense"]}, "no layer is called 'no_dense'"),
        ({"train_also": ["Head"]}, "no layer is called 'Head'"),
        ({"rank": 0}, "rank: expected 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            enable_lora(transformer, **options)
    for act in (lambda: set_adapter(transformer, "x"), lambda: merge_lora(transformer)):
        with pytest.raises(ValueError, match="adapter"):
            act()
    with pytest.raises(FileNotFoundError, match="no adapter at"):
        load_lora(transformer, tmp_path / "none")
    enable_lora(transformer, rank=2, targets=["q_dense"])
    save_lora(transformer, tmp_path / "a.safetensors")
    save_lora(transformer, tmp_path / "peft")
    wide = build("bert", hidden_size=24)
    for path in (tmp_path / "a.safetensors", tmp_path / "peft"):
        with pytest.raises(CheckpointError, match=r"q_dense.*expected .*24, 2.*found .*16, 2"):
            load_lora(wide, path)
    assert lora_adapters(wide) == []
    with pytest.raises(CheckpointError, match="has no layers"):
        load_lora(build("albert"), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no such layer"):
        load_lora(build("llama"), tmp_path / "peft")
    with pytest.raises(CheckpointError, match="has no Hugging Face names"):
        gau = build("gau")
        enable_lora(gau)
        save_lora(gau, tmp_path / "gau")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    for change, message in (
        ({"peft_type": "LOHA"}, "peft_type: expected 'LORA', found 'LOHA'"),
        ({"target_parameters": ["x"]}, "target_parameters: .* is not supported"),
        ({"use_dora": True}, "expected two matrices"),
    ):
        (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=message):
            load_lora(transformer, tmp_path / "peft")
    other = build("bert")
    lora_targets(other)["Transformer-0-FeedForward/o_dense"].enable_lora(2)
    with pytest.raises(ValueError, match="FeedForward/o_dense' is adapted by Keras' own"):
        enable_lora(other)
    assert lora_adapters(other) == []
