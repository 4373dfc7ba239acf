"""What runs with TF_KERAS=1 only; `test_tf_keras.py` starts it, in a process of its own."""

import os
from pathlib import Path

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tiny import SIZES, assert_close, build, inputs_for, predict

from bert4keras3 import backend, ops, training
from bert4keras3.backend import K, keras
from bert4keras3.cli import main
from bert4keras3.distribution import memory_per_device, model_parallel
from bert4keras3.layers import ConditionalRandomField as CRF
from bert4keras3.layers import Dropout, Lambda, Layer, Loss
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import BatchLoader, DataGenerator

# Where the test that starts this one has put files of Keras 3, and reads files of Keras 2.
FOLDER = Path(os.environ.get("BERT4KERAS3_TEST_FOLDER", "."))


def test_the_keras_in_use():
    assert backend.is_tf_keras and keras.Model is tf_keras.Model
    assert tf.keras.layers.Dense is tf_keras.layers.Dense is keras.layers.Dense
    assert Dropout is tf_keras.layers.Dropout and Lambda is tf_keras.layers.Lambda
    assert_close(K.sum(K.constant([1.0, 2.0])), 3)
    missing = {name for name in dir(keras3.ops) if not name.startswith("_")} - set(dir(ops))
    assert not missing
    with pytest.raises(AttributeError, match="under TF_KERAS=1"):
        keras.Quantizer  # noqa: B018


class Texts(DataGenerator):
    def __iter__(self, random=False):
        for _, (tokens, label) in self.sample(random):
            segments = np.zeros_like(tokens)
            yield [np.array([tokens]), np.array([segments])], np.array([[label]])


def _classifier():
    keras.utils.set_random_seed(0)
    bert = build("bert", dropout_rate=0.1)
    output = keras.layers.Lambda(lambda x: x[:, 0])(bert.output)
    output = keras.layers.Dense(2, activation="softmax")(output)
    model = keras.Model(bert.inputs, output)
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", ["accuracy"])
    return model


def _samples():
    rng = np.random.default_rng(0)
    for label in [0, 1] * 8:
        tokens = rng.integers(3, 50, rng.integers(4, 9))
        tokens[0] = 5 + label
        yield tokens, label


def test_fit_on_generators():
    model, data = _classifier(), Texts(list(_samples()))
    before = model.evaluate(data.forfit(), steps=16, verbose=0)[0]
    model.fit(data.forfit(), steps_per_epoch=16, epochs=4, verbose=0)
    assert model.evaluate(data.forfit(), steps=16, verbose=0)[0] < before
    assert model.predict(data.fortest(), steps=3, verbose=0).shape == (3, 2)


def test_fit_on_loaders():
    loader = BatchLoader(
        [((tokens, np.zeros_like(tokens)), label) for tokens, label in _samples()],
        batch_size=4,
        lengths=[6, 9],
        seed=0,
    )
    history = _classifier().fit(loader, epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]


class Shifted(Loss):
    def compute_loss(self, inputs, mask=None):
        targets, scores = inputs
        loss = keras.losses.sparse_categorical_crossentropy(targets[:, 1:], scores[:, :-1], True)
        return K.sum(loss * K.cast(mask[1][:, 1:], K.floatx())) / 20


def test_losses_of_layers():
    transformer = build("bert_unilm")
    arrays = inputs_for(transformer, rows=4)
    outputs = Shifted(1)([transformer.inputs[0], transformer.output])
    model = keras.Model(transformer.inputs, outputs)
    model.compile(keras.optimizers.Adam(1e-3))
    losses = model.fit(arrays, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_labels_in_a_chain():
    bert, crf = build("bert"), CRF(lr_multiplier=10)
    output = crf(keras.layers.Dense(3)(bert.output))
    model = keras.Model(bert.inputs, output)
    model.compile(keras.optimizers.Adam(1e-2), crf.sparse_loss, [crf.sparse_accuracy])
    arrays = inputs_for(bert, rows=4)
    labels = arrays[0] % 3
    arrays[0][:, 7:] = 0
    losses = model.fit(arrays, labels, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()


class Twice(Layer):
    """As users write their own layers for both Keras."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="kernel")

    def call(self, inputs, mask=None):
        assert mask is not None
        return 2 * inputs * self.kernel


def test_own_layers():
    bert = build("bert")
    model = keras.Model(bert.inputs, Twice(name="Twice")(bert.output))
    arrays = inputs_for(bert)
    assert_close(predict(model, arrays)[0], 2 * predict(bert.model, arrays)[0])


def test_files_of_the_other_keras():
    """Each Keras reads what the other has written, by itself and by us."""
    model, arrays = build("bert_heads"), inputs_for(build("bert_heads"))
    expected = np.load(FOLDER / "outputs.npz")
    for load in (model.load_weights, model.model.load_weights):
        for variable in model.model.weights:
            variable.assign(np.zeros(variable.shape))
        load(FOLDER / "keras3.weights.h5")
        for i, found in enumerate(predict(model.model, arrays)):
            assert_close(found, expected[f"arr_{i}"])
    model.model.save_weights(FOLDER / "keras2.weights.h5")


def test_generation_of_texts_of_any_length():
    transformer = build("bert_unilm")
    prompts = [[4, 5, 6], [7, 8]]
    found = transformer.generate(prompts, 5)
    assert found == [transformer.generate(prompt, 5) for prompt in prompts]
    assert list(transformer.stream(prompts[0], 5)) == found[0]
    assert len(transformer.generate(prompts[0], 5, num_beams=2)) == 5


def test_what_needs_keras_3_says_so(tmp_path, monkeypatch):
    bert = build("bert")
    for use in (
        lambda: training.enable_lora(bert),
        lambda: training.load_lora(bert, tmp_path),
        lambda: build("bert", remat=True),
        lambda: build("bert", quantization="int8"),
        lambda: bert.layers["Embedding-Token"].quantize("int8"),
        lambda: training.adversarial_training(bert.model),
        lambda: training.AdamW(1e-3),
    ):
        with pytest.raises(NotImplementedError, match="needs Keras 3, and TF_KERAS=1"):
            use()
    monkeypatch.setenv("ENABLE_LORA", "1")
    with pytest.raises(NotImplementedError, match="LoRA .* needs Keras 3"):
        build("bert")


def test_what_tensorflow_has_not_says_so():
    with pytest.raises(ValueError, match="flash attention"):
        build("bert", flash_attention=True)
    for use in (model_parallel, lambda: memory_per_device(None)):
        with pytest.raises(ValueError, match="works on JAX only"):
            use()


def test_folders_of_transformers(tmp_path):
    bert = build("bert")
    bert.save_pretrained(tmp_path / "written")
    assert main(["convert", str(tmp_path / "written"), str(tmp_path / "copy")]) == 0
    copy, arrays = build_transformer_model(tmp_path / "copy"), inputs_for(bert)
    assert_close(predict(copy, arrays)[0], predict(bert.model, arrays)[0])


def test_dtypes():
    model = build_transformer_model(model="bert", dtype="mixed_float16", **SIZES)
    assert model.output.dtype == "float16" and model.weights[0].dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
