"""Names and paths of the documents, each where they say it is."""

import importlib
import subprocess
import sys

import keras
import pytest

import bert4keras3

LAYERS = {
    "LayerNorms": ["ScaleOffset", "LayerNormalization"],
    "FFN": ["FeedForward"],
    "Embeddings": [
        "Embedding",
        "PositionEmbedding",
        "SinusoidalPositionEmbedding",
        "RelativePositionEmbedding",
        "RelativePositionEmbeddingT5",
        "RotaryEmbedding",
    ],
    "GP": ["GlobalPointer", "EfficientGlobalPointer"],
    "Attentions": ["MultiHeadAttention"],
    "Rwkv_layer": ["DecomposerDense", "TimeShift", "ChannelMix", "TimeMix"],
}


@pytest.mark.parametrize("package", ["layers", "Layers_add"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_paths(package, name):
    module = importlib.import_module(f"bert4keras3.{package}.{name}")
    assert getattr(getattr(bert4keras3, package), name) is module
    for layer in LAYERS[name]:
        found = getattr(module, layer)
        assert found is getattr(bert4keras3.layers, layer)
        scope = {}
        exec(f"from bert4keras3.{package}.{name} import {layer}", scope)
        exec(f"from bert4keras3.{package}.{name} import *", scope)
        assert scope[layer] is found
    with pytest.raises(AttributeError):
        module.NoSuchLayer  # noqa: B018


def test_star_imports():
    scope = {}
    exec("from bert4keras3.layers import *", scope)
    for name in ("Dense", "Input", "Lambda", "initializers", "activations", "np", "ops", "K"):
        assert name in scope
    assert issubclass(scope["Dense"], keras.layers.Dense)
    assert scope["MultiHeadAttention"] is bert4keras3.layers.MultiHeadAttention
    missing = set(dir(keras.layers)) - set(scope)
    assert not {name for name in missing if not name.startswith("_")}
    scope = {}
    exec("from bert4keras3.models import *", scope)
    for name in (
        "np",
        "keras",
        "ops",
        "K",
        "Dense",
        "BERT",
        "Transformer",
        "LM_Mask",
        "UniLM_Mask",
        "T5",
        "T5_Encoder",
        "T5_Decoder",
    ):
        assert name in scope
    exec("from bert4keras3.Models.Berts import *", scope)
    exec("from bert4keras3.Models.T5models import T5", scope)
    exec("from bert4keras3.backend import keras, K, ops, search_layer, set_gelu", scope)
    exec("from bert4keras3.snippets import sequence_padding, DataGenerator", scope)
    exec("from bert4keras3.tokenizers import Tokenizer, load_vocab, save_vocab", scope)


def test_ops_has_everything_of_keras_ops():
    from bert4keras3 import ops

    public = [name for name in dir(keras.ops) if not name.startswith("_")]
    assert len(public) > 200
    for name in public:
        assert getattr(ops, name) is getattr(keras.ops, name)


def test_backend_names():
    from bert4keras3 import backend

    for name in """keras K ops flatten sequence_masking divisible_temporal_padding reshape align
        root_mean_square sinusoidal_embeddings apply_rotary_position_embeddings gelu_erf gelu_tanh
        set_gelu piecewise_linear search_layer batch_gather swish leaky_relu divide_no_nan int_shape
        attention_normalize Sinusoidal multilabel_categorical_crossentropy get_sequence_masking
        sparse_multilabel_categorical_crossentropy msparse_multilabel_categorical_crossentropy
        get_available_gpus is_tf_keras backlib dtype where""".split():
        assert hasattr(backend, name), name
    assert (
        backend.msparse_multilabel_categorical_crossentropy
        is backend.sparse_multilabel_categorical_crossentropy
    )
    assert backend.K is keras.backend


def test_training_names():
    """What the guide to training calls by name."""
    from bert4keras3 import training

    for name in """AdamW ByLayer PiecewiseLinear active_lora adversarial_training enable_lora
        gradient_penalty integrated_gradients layerwise_decay load_lora lora_adapters lora_targets
        merge_lora remove_lora save_lora set_adapter unmerge_lora
        virtual_adversarial_training""".split():
        assert hasattr(training, name), name


def test_transformer_names():
    from bert4keras3.models import BERT

    for name in """build call apply simplify prefixed initializer get_inputs apply_embeddings
        apply_main_layers apply_final_layers compute_attention_bias compute_position_bias set_inputs
        set_outputs load_embeddings load_variable create_variable variable_mapping
        load_weights_from_checkpoint save_weights_as_checkpoint""".split():
        assert hasattr(BERT, name), name


@pytest.mark.slow
def test_importing_changes_nothing_of_keras():
    """In a process of its own: Keras is the same before and after."""
    code = (
        "import keras; before = {n: getattr(keras.ops, n) for n in dir(keras.ops)};"
        "layer, names = keras.layers.Layer, set(dir(keras.layers));"
        "custom = set(keras.saving.get_custom_objects());"
        "import bert4keras3.models;"
        "assert before == {n: getattr(keras.ops, n) for n in dir(keras.ops)};"
        "assert keras.layers.Layer is layer and set(dir(keras.layers)) == names;"
        "new = set(keras.saving.get_custom_objects()) - custom;"
        "assert all(n.startswith('bert4keras3>') for n in new), new"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.once
def test_backend_is_chosen(monkeypatch, tmp_path):
    from bert4keras3 import _environment

    def chosen(installed):
        monkeypatch.delenv("KERAS_BACKEND", raising=False)
        monkeypatch.delitem(sys.modules, "keras")
        monkeypatch.setattr(
            _environment.importlib.util, "find_spec", lambda n: n if n in installed else None
        )
        _environment.select_backend()
        return _environment.os.environ["KERAS_BACKEND"]

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    modules = sys.modules["keras"]
    try:
        assert chosen(["torch"]) == "torch"
        monkeypatch.setitem(sys.modules, "keras", modules)
        assert chosen(["torch", "tensorflow", "jax"]) == "jax"
        (tmp_path / "keras.json").write_text('{"backend": "torch"}')
        monkeypatch.setitem(sys.modules, "keras", modules)
        assert chosen(["torch", "jax"]) == "torch"
        monkeypatch.setitem(sys.modules, "keras", modules)
        assert chosen(["jax"]) == "jax"
        monkeypatch.setitem(sys.modules, "keras", modules)
        with pytest.raises(ImportError, match="pip install 'bert4keras3\\[jax\\]'"):
            chosen([])
    finally:
        monkeypatch.undo()
