"""The code blocks of the documents' guide to RWKV6, slips corrected, as in docs/rwkv.md."""

import json

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from bert4keras3.layers import Loss
from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import RWKV_TOKENIZER

# What they do is tested on every backend in test_rwkv.py.
pytestmark = pytest.mark.once
maxlen = 24
CONFIG = {
    "vocab_size": 260,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "decomposer_size": 4,
    "time_decay_size": 6,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the three files of a model."""
    folder = tmp_path_factory.mktemp("RWKV6")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    transformer = build_transformer_model(
        **CONFIG, model="rwkv6", with_lm="softmax", return_keras_model=False
    )
    tiny.randomize(transformer.model)
    tiny.enliven(transformer).save_weights(folder / "model.weights.h5")
    lines = [f"{i + 1} {bytes([i])!r} 1" for i in range(256)] + [r"257 '\n\n' 2", "258 '中国' 6"]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def build(files, **kwargs):
    return build_transformer_model(
        config_path=files / "config.json",
        model="rwkv6",
        keras_weights_path=files / "model.weights.h5",
        return_keras_model=False,
        sequence_length=maxlen,
        **{"with_lm": "softmax", **kwargs},
    )


def test_building(files, capsys):
    keras.config.set_floatx("bfloat16")
    try:
        keras.config.set_dtype_policy("bfloat16")
        RWKV = build(files)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    rwkv = RWKV.model
    rwkv.summary()
    assert "RWKV-1-ChannelMix" in capsys.readouterr().out
    assert [x.shape for x in rwkv.inputs] == [(None, maxlen)]
    assert [x.shape for x in rwkv.outputs] == [(None, maxlen, 260)]
    assert keras.backend.standardize_dtype(rwkv.weights[0].dtype) == "bfloat16"
    tokenizer = RWKV_TOKENIZER(files / "vocab.txt")
    ids = tokenizer.encode(["hello world", "我是中国人"])
    assert tokenizer.decode(ids) == ["hello world", "我是中国人"]
    assert np.isfinite(tiny.predict(rwkv, [np.ones((1, maxlen), "int32")])[0]).all()


class CrossEntropy(Loss):
    def compute_loss(self, inputs, mask=None):
        y_true, y_pred = inputs
        y_mask = ops.not_equal(y_true, 0)
        y_pred = ops.cast(y_pred, "float32")
        y_mask = ops.cast(y_mask, y_pred.dtype)
        y_true = y_true[:, 1:]
        y_mask = y_mask[:, 1:]
        y_pred = y_pred[:, :-1]
        loss = ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=False)
        loss = ops.sum(loss * y_mask, -1) / (ops.sum(y_mask, -1) + 1)
        return ops.mean(loss)


def train_model_of(rwkv, learning_rate=1e-2):
    output = CrossEntropy(-1, dtype="float32")(rwkv.inputs[:] + rwkv.outputs)
    train_model = keras.models.Model(rwkv.inputs, output)
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, 100)
    train_model.compile(optimizer=keras.optimizers.AdamW(decay, weight_decay=0.01, beta_2=0.95))
    return train_model


def texts():
    x = np.zeros((8, maxlen), "int32")
    x[:, 5:] = np.random.default_rng(0).integers(1, 50, (8, maxlen - 5))
    return x


@pytest.mark.slow
@pytest.mark.parametrize("tunes_state", [False, True])
def test_training(files, tunes_state):
    RWKV = build(files)
    if tunes_state:
        RWKV.enable_state_tunig(time_shitf_tuning=False)
    train_model = train_model_of(RWKV.model, 1e-1 if tunes_state else 1e-2)
    losses = train_model.fit(texts(), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_training_from_tfrecords(files, tmp_path):
    tf = pytest.importorskip("tensorflow")
    tf_files = str(tmp_path / "train.tfrecords")
    with tf.io.TFRecordWriter(tf_files) as writer:
        for row in texts():
            values = tf.train.Int64List(value=row[5 : 20 + row[6] % 4])
            feature = tf.train.Feature(int64_list=values)
            features = tf.train.Features(feature={"text": feature})
            writer.write(tf.train.Example(features=features).SerializeToString())
    feature_description = {
        "text": tf.io.FixedLenSequenceFeature(shape=[], dtype=tf.int64, allow_missing=True),
    }

    def left_padding(tokens):
        """From padding on the right to padding on the left."""
        lengths = tf.reduce_sum(tf.cast(tf.not_equal(tokens, 0), tf.int32), -1)
        places = (tf.range(maxlen)[None] - (maxlen - lengths)[:, None]) % maxlen
        return {"Input-Token": tf.gather(tokens, places, batch_dims=1)}

    def parse(example_proto):
        return tf.io.parse_single_example(example_proto, feature_description)["text"]

    dataset = tf.data.TFRecordDataset(filenames=tf_files, num_parallel_reads=tf.data.AUTOTUNE)
    dataset = dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE).cache().repeat()
    dataset = dataset.shuffle(100).padded_batch(4, padded_shapes=[maxlen], drop_remainder=True)
    dataset = dataset.map(left_padding, num_parallel_calls=tf.data.AUTOTUNE)
    batch = next(iter(dataset))["Input-Token"].numpy()
    assert (batch[:, -15:] != 0).all() and (batch[:, 0] == 0).all()
    train_model = train_model_of(build(files).model)
    losses = train_model.fit(dataset, steps_per_epoch=2, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_generation(files, penalty):
    temperature = 1.0
    RWKV = build(
        files,
        with_lm="softmax" if penalty == 1 and temperature == 1 else "linear",
        penalty=penalty,
        penalty_window=None,
        max_penalty_range=None,
        temperature=temperature,
    )
    tokenizer = RWKV_TOKENIZER(files / "vocab.txt")
    generate_model = RWKV.build_cache_model(
        [maxlen], end_token=-1, search_mode="topp", k=[0.9, 8], progress_print=False, index_bias=0
    )
    text = "下面"
    prompt = tokenizer.encode(text)[0]
    x = np.array([prompt + [0] * (maxlen - len(prompt))], dtype="int32")
    o2 = generate_model.predict([x], verbose=0)[0]
    o2 = o2[o2 != 0]
    assert tokenizer.decode([o2])[0].startswith(text)
    assert len(o2) > len(prompt)


@pytest.mark.parametrize("through", ["predict", "call"])
def test_generation_with_states(files, through):
    """The memory is handed on: every chunk has `maxlen` ids, the first of them the last one's."""
    RWKV = build(files)
    tokenizer = RWKV_TOKENIZER(files / "vocab.txt")
    generate_model = RWKV.build_cache_model(
        [maxlen], end_token=-1, input_state=True, output_state=True
    )
    x = tokenizer.encode("下面")[0]
    found = list(x)
    x = x + [0] * (maxlen - len(x))
    inputs = []
    for modelin in generate_model.inputs:
        shape = [1 if t is None else t for t in modelin.shape]
        inputs.append(ops.zeros(shape, modelin.dtype))
    inputs[0] = ops.convert_to_tensor([x], dtype="int32")
    for _ in range(2):
        if through == "predict":
            outs = generate_model.predict(inputs, verbose=0)
        else:
            outs = generate_model(inputs, tranning=False)
        out_ids = ops.convert_to_numpy(outs[0][0])
        assert isinstance(tokenizer.decode([out_ids[out_ids != 0]])[0], str)
        found += out_ids[len(found) if len(found) < maxlen else 1 :].tolist()
        ids = np.zeros([1, maxlen], "int32")
        ids[:, 0] = out_ids[-1]
        inputs = [ids, *outs[1:]]
    prompt = tokenizer.encode("下面")
    assert found == prompt[0] + RWKV.generate(prompt, len(found) - len(prompt[0]))[0]
