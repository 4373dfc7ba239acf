"""Signatures and code blocks of the documents that define the product."""

import inspect
import json

import numpy as np
import pytest
from tiny import SIZES, build, predict, randomize

from bert4keras3 import backend, layers, models, ops, snippets, tokenizers
from bert4keras3.backend import K
from bert4keras3.ops import keras

SIGNATURES = {
    tokenizers.Tokenizer: "token_dict do_lower_case word_maxlen",
    tokenizers.Tokenizer.encode: "first_text second_text maxlen pattern truncate_from",
    tokenizers.Tokenizer.decode: "ids",
    tokenizers.load_vocab: "dict_path encoding simplified startswith",
    tokenizers.save_vocab: "dict_path token_dict encoding",
    snippets.sequence_padding: "inputs length value seq_dims mode show_tqdm",
    snippets.DataGenerator: "data batch_size buffer_size",
    snippets.DataGenerator.to_dataset: "types shapes names padded_batch",
    snippets.ViterbiDecoder: "trans starts ends",
    snippets.open: "name mode encoding errors indexable",
    snippets.parallel_apply: (
        "func iterable workers max_queue_size callback dummy random_seeds unordered"
    ),
    snippets.parallel_apply_generator: ("func iterable workers max_queue_size dummy random_seeds"),
    snippets.text_segmentate: "text maxlen seps strips",
    snippets.truncate_sequences: "maxlen indices",
    snippets.orthogonally_resize: "a new_shape window",
    snippets.WebServing: "host port server",
    snippets.WebServing.route: "path func arguments method",
    layers.ScaleOffset: "scale offset conditional hidden_units hidden_activation",
    layers.LayerNormalization: "zero_mean unit_variance epsilon",
    layers.RMSNormalization: "epsilon",
    layers.LlamaLayerNorm: "epsilon",
    layers.FeedForward: "units activation use_bias kernel_initializer",
    layers.GemmaFeedForward: "units use_bias kernel_initializer",
    layers.LLamaFeedForward: "units activation use_bias kernel_initializer",
    layers.PositionEmbedding: (
        "input_dim output_dim merge_mode hierarchical embeddings_initializer custom_position_ids"
    ),
    layers.SinusoidalPositionEmbedding: "output_dim merge_mode custom_position_ids",
    layers.RelativePositionEmbedding: "input_dim output_dim embeddings_initializer",
    layers.RelativePositionEmbeddingT5: (
        "input_dim output_dim max_distance bidirectional embeddings_initializer"
    ),
    layers.RotaryEmbedding: "max_wavelength scaling_factor sequence_axis feature_axis",
    layers.RotaryEmbedding.call: "inputs start_index",
    layers.Embedding.call: "inputs mode",
    layers.MultiHeadAttention: (
        "heads head_size out_dim key_size use_bias normalization attention_scale attention_dropout "
        "return_attention_scores kernel_initializer o_bias query_head use_EinsumDense rope_mode "
        "max_wavelength scaling_factor"
    ),
    layers.MultiHeadAttention.call: "inputs mask a_bias p_bias use_cache is_cache_update_index",
    layers.GlobalPointer: "heads head_size RoPE use_bias tril_mask kernel_initializer",
    layers.EfficientGlobalPointer: ("heads head_size RoPE use_bias tril_mask kernel_initializer"),
    layers.ConditionalRandomField: "lr_multiplier",
    layers.MaximumEntropyMarkovModel: "lr_multiplier hidden_dim",
    layers.BatchSplit: "parts",
    layers.Loss: "output_axis",
    layers.DecomposerDense: "hidden_size decomposer_size use_bias name",
    layers.TimeShift: "name",
    layers.TimeShift.call: "inputs cache_x",
    layers.ChannelMix: "hidden_size expand_size",
    layers.ChannelMix.call: "inputs rnn_mode",
    layers.TimeMix: "rwkv_kernel hidden_size decomposer_size head_size time_decay_size",
    models.RWKV6: "decomposer_size with_lm time_decay_size",
    models.RWKV6.enable_state_tunig: "time_shitf_tuning",
    models.RWKV6.build_cache_model: (
        "input_lengths end_token search_mode k progress_print index_bias input_state output_state"
    ),
    backend.flatten: "tensor start end",
    backend.sequence_masking: "x mask value axis bias return_mask",
    backend.divisible_temporal_padding: "x n",
    backend.root_mean_square: "x axis keepdims",
    backend.sinusoidal_embeddings: "pos dim base",
    backend.align: "tensor axes ndim",
    backend.apply_rotary_position_embeddings: "sinusoidal",
    backend.multilabel_categorical_crossentropy: "y_true y_pred",
    backend.msparse_multilabel_categorical_crossentropy: "y_true y_pred mask_zero",
    models.extend_with_language_model: "BaseModel",
    models.extend_with_unified_language_model: "BaseModel",
    models.build_transformer_model: (
        "config_path checkpoint_path model application return_keras_model keras_weights_path "
        "version"
    ),
    models.Transformer: (
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
        "dropout_rate attention_dropout_rate embedding_size attention_head_size attention_key_size "
        "sequence_length keep_tokens compound_tokens residual_attention_scores "
        "ignore_invalid_weights autoresize_weights layers prefix name o_bias penalty "
        "penalty_window max_penalty_range temperature mask_output"
    ),
    models.Transformer.build_cache_model: (
        "input_lengths end_token search_mode k progress_print index_bias"
    ),
    models.Gemma: (
        "with_lm max_wavelength scaling_factor use_EinsumDense use_bias use_dense_bias input_scale "
        "share_embedding rope_mode"
    ),
    models.T5_Decoder: "with_lm cross_position_bias logit_scale decoder_sequence_length",
    tokenizers.SpTokenizer: "sp_model_path",
    models.Llama: "input_scale use_EinsumDense share_embedding",
    models.Transformer.build: (
        "attention_caches layer_norm_cond layer_norm_cond_hidden_size layer_norm_cond_hidden_act "
        "additional_input_layers"
    ),
    models.BERT: (
        "max_position segment_vocab_size with_pool with_nsp with_mlm hierarchical_position "
        "custom_position_ids shared_segment_embeddings"
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_documented_arguments_in_their_order(function):
    names = [n for n in inspect.signature(function).parameters if n != "self"]
    documented = SIGNATURES[function].split()
    assert [name for name in names if name in documented] == documented


def test_tokenizer_with_pre_tokenize():
    """The chapter on WoBERT's tokenizer, without jieba."""
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "今天": 3, "天": 4, "气": 5, "不错": 6}
    tokenizer = tokenizers.Tokenizer(
        words, do_lower_case=True, pre_tokenize=lambda s: [s[:2], s[2:4], s[4:]]
    )
    assert tokenizer.encode("今天天气不错") == ([1, 3, 4, 5, 6, 2], [0] * 6)


@pytest.mark.once
@pytest.mark.slow
def test_data_generator_example():
    """The chapter on DataGenerator: a classifier trained from `forfit()`."""
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "好": 4, "坏": 5, "很": 6}
    tokenizer = tokenizers.Tokenizer(words)

    def load_data(texts, labels):
        datas = []
        for i, t in enumerate(texts):
            token, segment = tokenizer.encode(t)
            datas.append([token, segment, labels[i]])
        return datas

    class data_generator(snippets.DataGenerator):
        def __iter__(self, random=False):
            batch_token_ids, batch_segment_ids, batch_labels = [], [], []
            for is_end, (token_ids, segment_ids, label) in self.sample(random):
                batch_token_ids.append(token_ids)
                batch_segment_ids.append(segment_ids)
                batch_labels.append([label])
                if len(batch_token_ids) == self.batch_size or is_end:
                    batch_token_ids = snippets.sequence_padding(batch_token_ids)
                    batch_segment_ids = snippets.sequence_padding(batch_segment_ids)
                    batch_labels = snippets.sequence_padding(batch_labels)
                    yield [batch_token_ids, batch_segment_ids], batch_labels
                    batch_token_ids, batch_segment_ids, batch_labels = [], [], []

    datas = load_data(["好", "很好", "坏", "很坏", "很很好"], [1, 1, 0, 0, 1])
    generator = data_generator(datas, 2)
    bert = models.build_transformer_model(
        **{**SIZES, "vocab_size": 7}, with_pool=True, return_keras_model=False
    )
    output = keras.layers.Dense(2, activation="softmax")(bert.model.output)
    model = keras.Model(bert.model.input, output)
    model.compile("adam", "sparse_categorical_crossentropy")
    history = model.fit(generator.forfit(), steps_per_epoch=len(generator), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    found = model.predict(generator.fortest(), steps=len(generator), verbose=0)
    assert found.shape == (len(datas), 2)


def test_global_pointer_and_its_loss():
    """The chapters on GlobalPointer and the multi-label losses, as GPLinker uses them."""
    from bert4keras3.layers.GP import EfficientGlobalPointer

    inputs = keras.Input((None, 8))
    scores = EfficientGlobalPointer(heads=2, head_size=4)(inputs)
    model = keras.Model(inputs, scores)

    def crossentropy(y_true, y_pred):
        rows, heads, length, _ = keras.ops.shape(y_pred)
        y_true = y_true[..., 0] * length + y_true[..., 1]
        y_pred = keras.ops.reshape(y_pred, (rows, heads, length * length))
        loss = backend.sparse_multilabel_categorical_crossentropy(y_true, y_pred, mask_zero=True)
        return keras.ops.mean(keras.ops.sum(loss, axis=1))

    model.compile("adam", crossentropy)
    x = np.random.default_rng(0).normal(size=(2, 5, 8))
    spans = snippets.sequence_padding([[[[1, 2]], [[0, 0]]], [[[3, 3]], [[2, 4]]]], seq_dims=3)
    history = model.fit(x, spans, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]


def test_gemma_style_alias_of_feed_forward():
    """FeedForward(['gelu', 'linear']) is the gated unit of the documents."""
    layer = layers.FeedForward(units=8, activation=["gelu", "linear"], use_bias=False)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    found = keras.ops.convert_to_numpy(layer(keras.ops.convert_to_tensor(x)))
    gate, up, down = layer.get_weights()
    gelu = keras.ops.convert_to_numpy(backend.gelu_erf(x @ gate))
    np.testing.assert_allclose(found, (gelu * (x @ up)) @ down, atol=1e-5)


def test_float_ids_are_decoded():
    """The chapter on SpTokenizer: ids that are not ints."""
    words = dict(zip(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"床前明月光，"], range(10), strict=True))
    tokenizer = tokenizers.Tokenizer(words)
    ids = np.arange(10) * 1.0
    assert tokenizer.decode([int(t) for t in ids]) == "床前明月光，"


def test_time_shift_is_that_of_the_document():
    """The chapter on TimeShift, whose code is the whole layer."""

    def call(inputs, cache_x=None):
        x = ops.pad(inputs, [[0, 0], [1, 0], [0, 0]], constant_values=0.0)[:, :-1, :]
        if cache_x is not None:
            x = ops.slice_update(x, [0, 0, 0], cache_x)
        return x - inputs

    rng = np.random.default_rng(0)
    x, cache_x = (ops.convert_to_tensor(rng.normal(size=(2, n, 4)), "float32") for n in (5, 1))
    for arguments in ((x,), (x, cache_x)):
        found = ops.convert_to_numpy(layers.TimeShift()(*arguments))
        np.testing.assert_allclose(found, ops.convert_to_numpy(call(*arguments)), atol=1e-6)


def test_cache_model_with_a_length_for_each_input():
    """The chapter on build_cache_model: a BERT has two inputs."""
    maxlen = 16
    input_lengths = [maxlen, maxlen]
    transformer = build("bert_unilm")
    cache_model = transformer.build_cache_model(input_lengths, end_token=-1)
    prompt = [3, 4, 5]
    tokens = snippets.sequence_padding([prompt], maxlen)
    segments = np.array([[0] * 3 + [1] * (maxlen - 3)])
    found = cache_model.predict([tokens, segments], verbose=0)
    assert found[0].tolist() == prompt + transformer.generate(prompt, maxlen - 3)


def test_t5_gives_its_halves(tmp_path):
    """The chapter on T5: the two models within one."""
    saved = build("t5_1_1")
    config_path, keras_weights_path = tmp_path / "config.json", tmp_path / "t5.weights.h5"
    sizes = {**SIZES, "hidden_act": ["gelu", "linear"], "num_decoder_layers": 1}
    config_path.write_text(json.dumps({**sizes, "attention_head_size": 6}))
    saved.save_weights(keras_weights_path)
    t5 = models.build_transformer_model(
        config_path=config_path,
        model="mt5.1.1",
        return_keras_model=False,
        keras_weights_path=keras_weights_path,
        cross_position_bias=False,
        logit_scale=False,
    )
    encoder = t5.encoder
    decoder = t5.decoder
    x, y = np.array([[5, 6, 7, 8]]), np.array([[0, 9, 10]])
    expected = predict(saved.model, [x, y])[0]
    np.testing.assert_allclose(
        predict(decoder, [*predict(encoder, [x]), y])[0], expected, atol=1e-5
    )


class Guide(models.BERT):
    """A BERT whose methods are those of the guide to models, with `ops` where it has `K`."""

    def call(self, inputs):
        # Embedding
        outputs = self.apply_embeddings(inputs)
        # Main
        for i in range(self.num_hidden_layers):
            outputs = self.apply_main_layers(outputs, i)
        # Final
        outputs = self.apply_final_layers(outputs)
        return outputs

    def set_inputs(self, inputs, additional_input_layers=None):
        if inputs is None:
            inputs = []
        elif not isinstance(inputs, list):
            inputs = [inputs]

        inputs = inputs[:]
        if additional_input_layers is not None:
            if not isinstance(additional_input_layers, list):
                additional_input_layers = [additional_input_layers]
            inputs.extend(additional_input_layers)

        self.inputs = inputs
        if len(inputs) > 1:
            self.input = inputs
        else:
            self.input = inputs[0]

    def load_embeddings(self, embeddings):
        embeddings = embeddings.astype(K.floatx())

        if self.keep_tokens is not None:
            embeddings = embeddings[self.keep_tokens]

        if self.compound_tokens is not None:
            ext_embeddings = []
            for item in self.compound_tokens:
                if isinstance(item, list):
                    item = (item, [1] * len(item))
                ext_embeddings.append(np.average(embeddings[item[0]], 0, item[1]))
            embeddings = np.concatenate([embeddings, ext_embeddings], 0)

        return embeddings


class GuideLM(Guide):
    """With the guide's mask of language models."""

    def compute_attention_bias(self, inputs=None):
        if self.attention_bias is None:

            def lm_mask(s):
                seq_len = ops.shape(s)[1]
                idxs = ops.arange(0, seq_len)
                mask = idxs[None, :] <= idxs[:, None]
                mask = ops.cast(mask, K.floatx())
                return -(1 - mask[None, None]) * 1e12

            self.attention_bias = self.apply(
                inputs=self.inputs[0],
                layer=layers.Lambda,
                function=lm_mask,
                name="Attention-LM-Mask",
            )

        return self.attention_bias


class GuideUniLM(Guide):
    """With the mask that the guide describes for UniLM; its code there is the other mask's."""

    def compute_attention_bias(self, inputs=None):
        if self.attention_bias is None:

            def unilm_mask(s):
                idxs = ops.cumsum(s, axis=1)
                mask = idxs[:, None, :] <= idxs[:, :, None]
                mask = ops.cast(mask, K.floatx())
                return -(1 - mask[:, None]) * 1e12

            self.attention_bias = self.apply(
                inputs=self.inputs[1],
                layer=layers.Lambda,
                function=unilm_mask,
                name="Attention-UniLM-Mask",
            )

        return self.attention_bias


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """(config_path, checkpoint_path) of a tiny BERT."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "config.json").write_text(json.dumps(SIZES))
    transformer = build("bert", with_mlm=True)
    randomize(transformer.model)
    transformer.save_weights_as_checkpoint(folder / "bert_model.ckpt")
    return folder / "config.json", folder / "bert_model.ckpt"


@pytest.mark.parametrize("application, cls", [("lm", GuideLM), ("unilm", GuideUniLM)])
def test_methods_as_the_guide_to_models_has_them(checkpoint, application, cls):
    """They do what ours do, and what `application` does."""
    config_path, checkpoint_path = checkpoint
    keep = [0, 1, 2, 3, 10, 11, 12]
    options = {"keep_tokens": keep, "compound_tokens": [[4, 5], ([5, 6], [1, 3])]}
    model = models.build_transformer_model(
        config_path=config_path,
        checkpoint_path=checkpoint_path,
        model="bert",
        application=application,
        **options,
    )
    own = models.build_transformer_model(
        config_path, checkpoint_path, model=cls, with_mlm=True, **options
    )
    tokens, segments = np.array([[2, 5, 7, 8, 3, 6]]), np.array([[0, 0, 0, 1, 1, 1]])
    (expected,), (found,) = (predict(m, [tokens, segments]) for m in (model, own))
    assert found.shape == (1, 6, len(keep) + 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    changed = tokens.copy()
    changed[0, -1] = 4
    np.testing.assert_allclose(
        predict(own, [changed, segments])[0][:, :-1], found[:, :-1], atol=1e-5
    )


def test_nsp_needs_the_pooled_token():
    assert build("bert", with_nsp=True, with_pool=False).with_pool


def test_ops_is_keras_ops():
    assert ops.softmax is keras.ops.softmax
