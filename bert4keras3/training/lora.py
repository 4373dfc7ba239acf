"""LoRA and DoRA: fine-tuning by small matrices beside the kernels of a frozen model.

model = build_transformer_model(folder)
enable_lora(model, rank=8)
model.compile(...)
model.fit(...)
save_lora(model, "my-adapter")    # a folder that PEFT loads
merge_lora(model)                 # a plain model again
"""

import re

from bert4keras3.layers import BLOCK_LAYERS, DecomposerDense
from bert4keras3.layers.adapters import Adaptable, LowRank, is_low_rank
from bert4keras3.layers.quantized import check_unquantized
from bert4keras3.ops import keras, seam


def enable_lora(
    model,
    rank=8,
    alpha=None,
    targets=None,
    dropout=0.0,
    use_dora=False,
    use_rslora=False,
    train_also=(),
    name="default",
):
    """Put low-rank matrices beside kernels, and train them and nothing else.

    The model computes what it did before: the matrices' product starts at 0. Load a
    checkpoint before or after. Call `compile` afterwards.

    Args:
        model: a Keras model of this library's layers, or a transformer object.
        rank: rank of the matrices.
        alpha: their product is scaled by alpha / rank; rank by default, for a scale of 1.
        targets: which layers get them, a list of endings of names such as
            'Transformer-0-MultiHeadSelfAttention/q_dense', 'q_dense', 'FeedForward' or
            'Embedding-Token', or one regular expression for whole names; `lora_targets`
            lists what there is. By default all projections of attention and feed-forward
            layers.
        dropout: dropout rate of the inputs of the matrices.
        use_dora: also train the lengths of the columns of the sum (DoRA).
        use_rslora: scale by alpha / sqrt(rank) instead.
        train_also: layers that are trained whole, such as a new head: endings of names.
        name: the adapter's name; one of that name is replaced.

    Returns:
        The names of the layers that got matrices.

    Raises:
        ValueError: nothing has such a name, a rank below 1, or a model that cannot.
        NotImplementedError: under TF_KERAS=1.

    Source: https://arxiv.org/abs/2106.09685; DoRA: https://arxiv.org/abs/2402.09353
    """
    seam.only_keras3("LoRA")
    if rank < 1:
        raise ValueError(f"rank: expected 1 or more, got {rank}")
    found = select_targets(model, targets)
    others = _select_layers(model, train_also)
    for path, layer in found.items():
        check_adaptable(path, layer)
    drop_adapter(model, name)
    for layer in found.values():
        layer.attach(LowRank(layer, rank, alpha, dropout, use_rslora, use_dora, name))
    set_adapter(model, name, trainable=True)
    freeze_base(model, others)
    return list(found)


def follow_environment(transformer):
    """What `ENABLE_LORA=1` asks for: matrices everywhere, and trained norms.

    The rank is the size of a head, for tables of embeddings twice that.
    """
    seam.only_keras3("LoRA (ENABLE_LORA)")
    found = lora_targets(transformer)
    rank = transformer.attention_head_size
    for layer in found.values():
        is_table = isinstance(layer, keras.layers.Embedding)
        layer.attach(LowRank(layer, 2 * rank if is_table else rank))
    set_adapter(transformer, "default", trainable=True)
    layers = keras_model(transformer).layers
    freeze_base(transformer, [layer for layer in layers if "norm" in layer.name.lower()])


# ------------------------------------------------------------------ what to adapt


def keras_model(model):
    """The Keras model of a transformer object, or the model itself."""
    return model if isinstance(model, keras.Model) else model.model


def lora_targets(model):
    """`{name: layer}` of all layers that can have low-rank matrices, each once."""
    found, seen = {}, set()

    def collect(layer, path):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if isinstance(layer, Adaptable) and layer.built:
            found[path] = layer
        elif not isinstance(layer, LowRank):
            for part in layer._flatten_layers(recursive=False, include_self=False):
                collect(part, f"{path}/{part.name}")

    for layer in keras_model(model).layers:
        collect(layer, layer.name)
    return found


def select_targets(model, targets=None):
    """Those of `lora_targets` that `enable_lora` takes for its argument of that name."""
    found = lora_targets(model)
    if targets is not None:
        return select_named(found, targets, "targets")
    names = {
        f"{layer.name}/{part.name}"
        for layer in keras_model(model).layers
        if isinstance(layer, BLOCK_LAYERS) and hasattr(layer, "origin")
        for part in layer._flatten_layers(recursive=False, include_self=False)
        if not isinstance(part, DecomposerDense)  # of low rank as it is
    }
    chosen = {path: layer for path, layer in found.items() if path in names}
    if not chosen:
        raise ValueError(f"targets: the model has no blocks of this library; give {list(found)}")
    return chosen


def _select_layers(model, names):
    layers = {layer.name: layer for layer in keras_model(model).layers if layer.weights}
    return list(select_named(layers, names, "train_also").values()) if names else []


def select_named(found, wanted, argument):
    """Of `{name: layer}` those that end so, or with a string match it."""
    chosen = {}
    for one in [wanted] if isinstance(wanted, str) else wanted:
        ending = one if isinstance(wanted, str) else rf"(.*[/-])?{re.escape(one)}(/.*)?"
        matches = {path: layer for path, layer in found.items() if re.fullmatch(ending, path)}
        if not matches:
            raise ValueError(f"{argument}: no layer is called {one!r}, but {sorted(found)}")
        chosen |= matches
    return chosen


def check_adaptable(path, layer):
    """Refuse a layer that can have no low-rank matrices, or not now."""
    if layer.quantization_mode or layer.lora_enabled:
        what = "quantised" if layer.quantization_mode else "adapted by Keras' own enable_lora"
        raise ValueError(f"layer {path!r} is {what}: it can have no low-rank matrices")
    if layer.merged_adapter is not None:
        raise ValueError(
            f"layer {path!r} has the adapter {layer.merged_adapter!r} merged into it: "
            "unmerge_lora or remove_lora first"
        )


def freeze_base(model, others=()):
    """Train the adapters as they are set, the layers given, tuned states, and nothing else."""
    kept = {id(variable) for layer in others for variable in _parameters(layer)}
    for variable in keras_model(model).variables:
        if not is_low_rank(variable) and not variable.name.startswith("tuned_"):
            variable.trainable = id(variable) in kept


def _parameters(layer):
    """A layer's own weights, those that were made to be trained."""
    parts = [x for x in layer._flatten_layers() if x.trainable and not isinstance(x, LowRank)]
    return [variable for part in parts for variable in part._trainable_variables]


# ------------------------------------------------------------------ several adapters


def adapters_of(model, name):
    """`{name of a layer: its LowRank}` of the adapter of a name.

    Raises:
        ValueError: the model has no such adapter.
    """
    layers = lora_targets(model)
    found = {path: layer.adapter(name) for path, layer in layers.items() if layer.adapter(name)}
    if not found:
        raise ValueError(f"the model has no adapter {name!r}, but {lora_adapters(model)}")
    return found


def lora_adapters(model):
    """The names of the model's adapters, in the order they came."""
    layers = lora_targets(model).values()
    return list(dict.fromkeys(name for layer in layers for name in layer.adapter_names))


def active_lora(model):
    """The name of the adapter that takes part, merged or not; None for none."""
    for layer in lora_targets(model).values():
        if layer.active_adapter or layer.merged_adapter:
            return layer.active_adapter or layer.merged_adapter
    return None


def set_adapter(model, name, trainable=False):
    """Let one adapter take part and no other; None for the model without any.

    It is a change of values: programs that are compiled already go on with it.

    Args:
        model: a Keras model or a transformer object.
        name: the adapter's name, or None.
        trainable: whether it is trained; call `compile` then.

    Raises:
        ValueError: there is no such adapter, or one is merged.
    """
    if name is not None:
        adapters_of(model, name)
    for path, layer in lora_targets(model).items():
        if layer.merged_adapter is not None:
            raise ValueError(f"{path} has {layer.merged_adapter!r} merged: unmerge_lora first")
        for adapter in layer.adapters:
            adapter.switch(adapter.name == name, trainable and adapter.name == name)
    forget_programs(model)


def merge_lora(model):
    """Fold the active adapter into the kernels: a plain model, as fast and saved as one.

    The adapters stay known, for `unmerge_lora`.

    Raises:
        ValueError: no adapter takes part.
    """
    if all(layer.active_adapter is None for layer in lora_targets(model).values()):
        raise ValueError(f"no adapter takes part; the model has {lora_adapters(model)}")
    for layer in lora_targets(model).values():
        if layer.active_adapter is not None:
            check_unquantized(layer, "an adapter cannot be folded into")
    for layer in lora_targets(model).values():
        layer.merge()
    forget_programs(model)


def unmerge_lora(model):
    """Take the merged adapter out of the kernels again; they are as before, to rounding."""
    for layer in lora_targets(model).values():
        layer.unmerge()
    forget_programs(model)


def remove_lora(model, name=None):
    """Forget an adapter, all of them by default; one that is merged stays in the kernels."""
    for other in lora_adapters(model) if name is None else [name]:
        drop_adapter(model, other)
    forget_programs(model)


def drop_adapter(model, name):
    """Forget the adapter of a name, where there is one."""
    for layer in lora_targets(model).values():
        layer.detach(name)


def forget_programs(model):
    """Keras compiles anew at the next call: it knows nothing of changes in a layer."""
    model = keras_model(model)
    model.train_function = model.test_function = model.predict_function = None
