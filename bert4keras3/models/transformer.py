"""The base of every model: four verbs, one way to call layers, one forward."""

import contextlib
import inspect
from collections import Counter

from bert4keras3 import sharding
from bert4keras3._environment import is_switched_on
from bert4keras3.layers import (
    BLOCK_LAYERS,
    Add,
    AttentionBias,
    Concatenate1D,
    Dropout,
    FeedForward,
    Lambda,
    LayerNormalization,
    MultiHeadAttention,
)
from bert4keras3.layers.flash import is_flash_wanted, say_once
from bert4keras3.layers.masks import is_causal
from bert4keras3.models.checkpoints import Checkpoints
from bert4keras3.models.decoding import Stepwise, as_list, call_parameters
from bert4keras3.models.generating import Generating
from bert4keras3.models.heads import Headed
from bert4keras3.ops import keras
from bert4keras3.weights.deferred import defer

# Where a residual block has its norms: names of the norm layers after the block's own name.
POST = {"after": "Norm"}
PRE = {"before": "Norm"}
SANDWICH = {"before": "Norm", "inner": "Norm-post"}


class Transformer(Stepwise, Generating, Headed, Checkpoints):
    """Base class of all models.

    A family says what comes in (`get_inputs`), how it is embedded
    (`apply_embeddings`), what a block does (`apply_main_layers`) and what comes
    out (`apply_final_layers`). Each calls layers by `self.apply(...)`, and that is
    all that is needed to train, to load checkpoints and to generate.

    Args:
        vocab_size: number of tokens.
        hidden_size: size of the hidden states.
        num_hidden_layers: number of blocks.
        num_attention_heads: number of attention heads (of key/value heads where
            `query_head` is given).
        intermediate_size: inner size of the feed-forward layers.
        hidden_act: their activation, or a list of them.
        dropout_rate: dropout of hidden states.
        attention_dropout_rate: dropout of attention weights.
        embedding_size: size of the token vectors, hidden_size by default.
        attention_head_size: size of a value head, hidden_size / heads by default.
        attention_key_size: size of a query or key head, as the value head by default.
        sequence_length: a fixed length of the inputs, any by default.
        keep_tokens: ids of the tokens to keep, in their new order.
        compound_tokens: tokens to add, each the mean of a list of ids, or of
            `(ids, weights)`.
        residual_attention_scores: add each block's attention scores to the next
            block's (https://arxiv.org/abs/2012.11747).
        ignore_invalid_weights: keep the initial value, with a warning, of layers
            the checkpoint does not have or has in another shape.
        autoresize_weights: resize weights whose shape differs.
        layers: `{name: layer}` to share with another model.
        prefix: put before every layer's name.
        name: name of the Keras model.
        segment_attention: UniLM masks compare segment ids as they are.
        o_bias: bias of the attention's output layer.
        query_head: number of query heads.
        penalty, penalty_window, max_penalty_range, temperature, mask_output:
            of the generation, see `build_cache_model`.
        pad_token_id: the id that is padding; None for none.
        first_is_token: the first position is never padding, whatever its id.
        layer_norm_epsilon: epsilon of the family's norms, its own by default.
        end_token_id: id, or list of ids, that ends a text; the default of `generate`.
        start_token_id: id that begins a text, kept for exports.
        head: a task instead of the family's own output: 'sequence_classification',
            'token_classification' or 'question_answering' (start and end); logits.
        num_labels: number of classes, that of `labels` or 2 by default.
        labels: their names, kept for exports.
        classifier_dropout: dropout before the classifier, dropout_rate by default.
        remat: in training, compute again what attention, feed-forward layers and norms
            computed inside, for their gradients, instead of keeping it; None for what the
            environment variable RECOMPUTE says.
        flash_attention: attend by a fused kernel where there is one for the case at hand
            (JAX and torch on a GPU); None for what the environment variable FLASH_ATTN says.

    Raises:
        TypeError: a keyword no class of the family takes, or an option of a base class
            that the family cannot have.
        ValueError: heads that do not divide the hidden size, without a head size; flash
            attention on TensorFlow.

    Attributes, to be set by a family:
        attention_class, feed_forward_class: the classes of its layers.
        norms: where its blocks have norms: POST, PRE or SANDWICH; feed_forward_norms
            where it is otherwise about the feed-forward layer.
        norm_class, norm_options, norm_epsilon: the norms' class, constructor arguments
            and epsilon; norm_epsilons has those of single norms, by name.
        has_conditional_norms: whether a condition can steer them.
        has_flash_attention: whether its attention can be that of a fused kernel.
        position_bias_kind: what attention does with `compute_position_bias`.
        attention_kind: 'full', 'causal' or 'unilm'.
        applications: what it can be built as.
        lacks: options of its base classes that it cannot have.
        parts: families that are halves of it.
        config_advice: `{argument: advice}` where a configuration file leaves it out.
    """

    norms = POST
    feed_forward_norms = None
    norm_class = LayerNormalization
    norm_options = {}
    norm_epsilon = None
    norm_epsilons = {}
    attention_class = MultiHeadAttention
    feed_forward_class = FeedForward
    has_conditional_norms = True
    has_flash_attention = True
    position_bias_kind = None
    attention_kind = "full"
    applications = ("encoder", "lm", "unilm")
    lacks = ()
    parts = ()
    config_advice = {}

    def __init__(
        self,
        vocab_size,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        intermediate_size,
        hidden_act=None,
        dropout_rate=None,
        attention_dropout_rate=None,
        embedding_size=None,
        attention_head_size=None,
        attention_key_size=None,
        sequence_length=None,
        keep_tokens=None,
        compound_tokens=None,
        residual_attention_scores=False,
        ignore_invalid_weights=False,
        autoresize_weights=False,
        layers=None,
        prefix=None,
        name=None,
        segment_attention=False,
        o_bias=None,
        query_head=None,
        penalty=1.0,
        penalty_window=None,
        max_penalty_range=None,
        temperature=1.0,
        mask_output=None,
        pad_token_id=0,
        first_is_token=True,
        layer_norm_epsilon=None,
        end_token_id=None,
        start_token_id=None,
        head=None,
        num_labels=None,
        labels=None,
        classifier_dropout=None,
        remat=None,
        flash_attention=None,
        **kwargs,
    ):
        if kwargs:
            raise TypeError(
                f"{type(self).__name__} got unknown arguments: {', '.join(sorted(kwargs))}"
            )
        if num_attention_heads < 1:
            raise ValueError(f"num_attention_heads: expected 1 or more, got {num_attention_heads}")
        if attention_head_size is None and hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size {hidden_size} is no multiple of num_attention_heads "
                f"{num_attention_heads}: give attention_head_size"
            )
        self.keep_tokens = keep_tokens
        self.compound_tokens = compound_tokens
        self.full_vocab_size = vocab_size
        self.vocab_size = len(keep_tokens) if keep_tokens is not None else vocab_size
        self.vocab_size += len(compound_tokens or [])
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.attention_head_size = attention_head_size or hidden_size // num_attention_heads
        self.attention_key_size = attention_key_size or self.attention_head_size
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.dropout_rate = dropout_rate or 0
        self.attention_dropout_rate = attention_dropout_rate or 0
        self.embedding_size = embedding_size or hidden_size
        self.sequence_length = sequence_length
        self.residual_attention_scores = residual_attention_scores
        self.ignore_invalid_weights = ignore_invalid_weights
        self.autoresize_weights = autoresize_weights
        self.layers = {} if layers is None else layers
        self.prefix = prefix or ""
        self.name = name
        self.segment_attention = segment_attention
        self.o_bias = o_bias
        self.query_head = query_head
        self.penalty = penalty
        self.penalty_window = penalty_window
        self.max_penalty_range = max_penalty_range
        self.temperature = temperature
        self.mask_output = mask_output
        self.pad_token_id = pad_token_id
        self.first_is_token = first_is_token
        self.end_token_id = end_token_id
        self.start_token_id = start_token_id
        if layer_norm_epsilon is not None:
            self.norm_epsilon, self.norm_epsilons = layer_norm_epsilon, {}
        self.set_head(head, num_labels, labels, classifier_dropout)
        self.remat = is_switched_on("RECOMPUTE") if remat is None else remat
        self.flash_attention = is_flash_wanted(flash_attention)
        if self.flash_attention and not self.has_flash_attention:
            say_once(f"{type(self).__name__} has another kind of attention, or none")
        self.defers_weights = False
        self._stateful_calls = {}
        self._ends_stateful = False  # whether a final layer has memory
        self.programs = {}
        self.attention_caches = {}
        self._cached_layers = set()
        self.layer_norm_conds = [None, None, "linear"]
        self.inputs = self.outputs = self.input = self.output = self.model = None
        self._reset()

    # ------------------------------------------------------------------ build

    def build(
        self,
        attention_caches=None,
        layer_norm_cond=None,
        layer_norm_cond_hidden_size=None,
        layer_norm_cond_hidden_act=None,
        additional_input_layers=None,
    ):
        """Build the Keras model `self.model`.

        Args:
            attention_caches: `{attention layer: [key, value]}`, tensors put before
                that layer's own keys and values.
            layer_norm_cond: a tensor `(batch, size)` that steers every layer norm.
            layer_norm_cond_hidden_size: units between it and the norms' gamma, beta.
            layer_norm_cond_hidden_act: activation of these units.
            additional_input_layers: further inputs of the Keras model.
        """
        if self.model is not None:
            return
        if layer_norm_cond is not None and not self.has_conditional_norms:
            raise ValueError(f"layer_norm_cond: {type(self).__name__} has no conditional norms")
        self.attention_caches = attention_caches or {}
        self.layer_norm_conds = [
            layer_norm_cond,
            layer_norm_cond_hidden_size,
            layer_norm_cond_hidden_act or "linear",
        ]
        if layer_norm_cond is not None:
            self.condition_inputs = as_list(additional_input_layers)
        inputs = self.get_inputs()
        self.set_inputs(inputs, additional_input_layers)
        self.set_outputs(self._forward(inputs))
        unused = sorted(set(self.attention_caches) - self._cached_layers)
        if unused:
            raise ValueError(
                f"attention_caches: {unused} are no attention layers with such a cache"
            )
        self.make_model()

    def make_model(self):
        """Make `self.model`; its layers know whose they are, for adapters and their files."""
        self.model = keras.Model(self.input, self.output, name=self.name)
        sharding.built.add(self)
        for layer in self.model.layers:
            layer.origin = self

    def set_inputs(self, inputs, additional_input_layers=None):
        """Set `self.inputs` (a list) and `self.input` (the tensor, where it is one)."""
        inputs = as_list(inputs) + as_list(additional_input_layers)
        self.inputs = inputs
        self.input = inputs if len(inputs) > 1 else inputs[0]

    def set_outputs(self, outputs):
        """Set `self.outputs` (a list) and `self.output` (the tensor, where it is one)."""
        outputs = as_list(outputs)
        self.outputs = outputs
        self.output = outputs if len(outputs) > 1 else outputs[0]

    # ------------------------------------------------------------------ verbs

    def get_inputs(self):
        """The input tensor, or a list of them."""
        raise TypeError(f"{type(self).__name__} does not define get_inputs()")

    def apply_embeddings(self, inputs):
        """Inputs -> hidden states `(batch, length, hidden)`."""
        raise TypeError(f"{type(self).__name__} does not define apply_embeddings(inputs)")

    def apply_main_layers(self, inputs, index):
        """Block `index`: hidden states -> hidden states."""
        raise TypeError(f"{type(self).__name__} does not define apply_main_layers(inputs, index)")

    def apply_final_layers(self, inputs):
        """Hidden states -> the output, or a list of outputs."""
        raise TypeError(f"{type(self).__name__} does not define apply_final_layers(inputs)")

    def call(self, inputs):
        """The whole forward; a function of its inputs."""
        outputs = self.apply_embeddings(inputs)
        for index in range(self.num_hidden_layers):
            outputs = self.apply_main_layers(outputs, index)
        calls = len(self._stateful_calls)
        outputs = self.apply_final_layers(self.cut_to_last(outputs))
        self._ends_stateful = self._ends_stateful or len(self._stateful_calls) > calls
        return outputs

    def compute_attention_bias(self, inputs=None):
        """The attention bias of every block: bool hides, float adds; None for none."""
        return self.attention_bias

    def compute_position_bias(self, inputs=None):
        """The position bias of every block, of the kind `position_bias_kind`."""
        return self.position_bias

    def _forward(self, inputs):
        self._reset()
        return self.call(inputs)

    def _reset(self):
        """Forget what belongs to one forward."""
        self.attention_bias = None
        self.position_bias = None
        self.attention_scores = None
        self._calls = Counter()

    # ----------------------------------------------------------------- layers

    def prefixed(self, name):
        """The name with the model's prefix; None stays None."""
        return None if name is None else self.prefix + name

    @property
    def initializer(self):
        """A new initializer for kernels and embeddings."""
        return keras.initializers.TruncatedNormal(stddev=0.02)

    def simplify(self, inputs):
        """Drop None from a list; a list of one becomes its element."""
        inputs = [x for x in inputs if x is not None]
        return inputs[0] if len(inputs) == 1 else inputs

    def apply(self, inputs=None, layer=None, arguments=None, **kwargs):
        """Call a layer by name: it is made on first use and shared afterwards.

        Args:
            inputs: its inputs; None to get the layer itself.
            layer: its class.
            arguments: keyword arguments of the call (of the constructor for Lambda).
            **kwargs: arguments of the constructor, `name` among them.

        Returns:
            The layer's output; Dropout at rate 0 is left out.
        """
        if layer is Dropout and not kwargs.get("rate", self.dropout_rate):
            return inputs
        arguments = dict(arguments or {})
        attends = inspect.isclass(layer) and issubclass(layer, MultiHeadAttention)
        if attends and self.residual_attention_scores:
            kwargs["return_attention_scores"] = True
        if layer is Lambda:
            kwargs["arguments"], arguments = arguments, {}
        name = kwargs["name"] = self.prefixed(kwargs.get("name"))
        if name not in self.layers:
            with self._recomputing(layer):
                made = layer(**self._deferred(name, kwargs))
            name = made.name
            self.layers[name] = made
        if inputs is None:
            return self.layers[name]
        if attends:
            return self._attend(name, inputs, arguments)
        return self._run(name, inputs, arguments)

    def _deferred(self, name, kwargs):
        """A layer's arguments; what a checkpoint will fill is not drawn at random first."""
        known = self._loaded_layers if self.defers_weights else ()
        return defer(kwargs) if name in known else kwargs

    def _recomputing(self, layer):
        """What a layer is made within: Keras' scope where it is to compute things again."""
        recomputes = inspect.isclass(layer) and issubclass(layer, (*BLOCK_LAYERS, self.norm_class))
        return keras.RematScope() if self.remat and recomputes else contextlib.nullcontext()

    def _run(self, name, inputs, arguments):
        """Call the layer, within the decoding step where there is one."""
        layer, key = self.layers[name], self._call_key(name)
        if self.decoding is not None:
            return self.decoding.run(key, layer, inputs, arguments)
        if "state" in call_parameters(type(layer)):
            self._stateful_calls[key] = layer
        return layer(inputs, **arguments)

    def _call_key(self, name):
        """Names this call of the layer: a shared layer is called several times a forward."""
        count = self._calls[name]
        self._calls[name] += 1
        return f"{name}/{count}" if count else name

    def _attend(self, name, inputs, arguments):
        """Attention, with outside keys and values and with the previous block's scores."""
        inputs = list(inputs)
        cached = self.attention_caches.get(name)
        if cached is not None:
            self._cached_layers.add(name)
            inputs[1], inputs[2] = (
                self.apply([c, x], Concatenate1D, name=f"{name}-Cached-{role}")
                for c, x, role in zip(cached, inputs[1:3], ("Key", "Value"), strict=True)
            )
        if not self.residual_attention_scores:
            return self._run(name, inputs, arguments)
        if self.attention_scores is not None:
            bias = self.attention_scores
            if arguments.get("a_bias"):
                bias = self.apply([inputs[3], bias], AttentionBias, name=f"{name}-Attention-Bias")
            inputs[3 : 3 + bool(arguments.get("a_bias"))] = [bias]
            arguments["a_bias"] = True
        output, self.attention_scores = self._run(name, inputs, arguments)
        return output

    # ----------------------------------------------------------------- blocks

    def residual(self, inputs, name, sublayer, before=None, inner=None, after=None):
        """x + sublayer(x), with a norm in any of three places.

        Args:
            inputs: x, `(batch, length, hidden)`.
            name: the sublayer's name; the others are called after it.
            sublayer: a function `(x, name) -> (batch, length, hidden)`.
            before: LN --> f (pre-norm: GPT2, T5, Llama).
            inner: f --> LN --> Add (sandwich: Gemma2).
            after: Add --> LN (post-norm: BERT, RoFormer).
        """
        x = self.normalize(inputs, f"{name}-{before}") if before else inputs
        x = sublayer(x, name)
        x = self.normalize(x, f"{name}-{inner}") if inner else x
        x = self.apply(x, Dropout, rate=self.dropout_rate, name=f"{name}-Dropout")
        x = self.apply([inputs, x], Add, name=f"{name}-Add")
        return self.normalize(x, f"{name}-{after}") if after else x

    def normalize(self, inputs, name):
        """The family's norm, steered by the condition of `build` where there is one."""
        condition, hidden_units, hidden_activation = self.layer_norm_conds
        options = dict(self.norm_options)
        if condition is not None:
            options["conditional"] = True
            options["hidden_units"] = hidden_units
            options["hidden_activation"] = hidden_activation
            options["hidden_initializer"] = self.initializer
        return self.apply(
            self.simplify([inputs, condition]),
            self.norm_class,
            epsilon=self.norm_epsilons.get(name, self.norm_epsilon),
            **options,
            name=name,
        )

    def self_attention(self, inputs, name):
        """Multi-head attention of x to itself, with the model's masks and positions."""
        x, arguments = [inputs, inputs, inputs], {}
        attention_bias = self.compute_attention_bias(inputs)
        if attention_bias is not None:
            arguments["a_bias"] = True
            x.append(attention_bias)
            if self.flash_attention and is_causal(attention_bias):
                arguments["is_causal"] = True
        if self.position_bias_kind:
            arguments["p_bias"] = self.position_bias_kind
            x.append(self.compute_position_bias(inputs))
        return self.apply(x, self.attention_class, arguments, name=name, **self.attention_options())

    def attention_options(self):
        """Constructor arguments of the family's attention layers."""
        return {
            "heads": self.num_attention_heads,
            "head_size": self.attention_head_size,
            "out_dim": self.hidden_size,
            "key_size": self.attention_key_size,
            "query_head": self.query_head,
            "o_bias": self.o_bias,
            "attention_dropout": self.attention_dropout_rate,
            "kernel_initializer": self.initializer,
            "flash_attention": self.flash_attention,
        }

    def feed_forward(self, inputs, name):
        """The family's feed-forward layer."""
        return self.apply(inputs, self.feed_forward_class, name=name, **self.feed_forward_options())

    def feed_forward_options(self):
        """Constructor arguments of the family's feed-forward layers."""
        return {
            "units": self.intermediate_size,
            "activation": self.hidden_act,
            "kernel_initializer": self.initializer,
        }
