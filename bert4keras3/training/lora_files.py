"""Adapters as files of their own: PEFT's folders, and safetensors files for any model."""

import json
from pathlib import Path

from bert4keras3.layers.adapters import LowRank, is_low_rank
from bert4keras3.ops import seam
from bert4keras3.training import peft_names
from bert4keras3.training.lora import (
    active_lora,
    adapters_of,
    check_adaptable,
    drop_adapter,
    freeze_base,
    keras_model,
    lora_targets,
    set_adapter,
)
from bert4keras3.weights import CheckpointError
from bert4keras3.weights.safetensors import SafetensorsFile, write_safetensors

FORMAT = "bert4keras3 lora 1"


def save_lora(model, path, name=None):
    """Write an adapter by itself, with all else that is being trained beside it.

    Args:
        model: a Keras model or a transformer object.
        path: a folder, in PEFT's form, for models that Hugging Face has too; or a file
            that ends with '.safetensors', for any model.
        name: the adapter's name, the one that takes part by default.

    Raises:
        ValueError: there is no such adapter.
        CheckpointError: Hugging Face's model has no place for what was trained.
    """
    name = name or active_lora(model)
    if name is None:
        raise ValueError("save_lora: no adapter takes part, and no name was given")
    adapters = adapters_of(model, name)
    if str(path).endswith(".safetensors"):
        _write_file(model, adapters, path)
    else:
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        config, arrays = peft_names.export(model, adapters, trained_beside(model))
        _write(folder / "adapter_model.safetensors", arrays, {"format": "pt"})
        peft_names.write_config(folder, config)


def load_lora(model, path, name="default", trainable=False):
    """Read an adapter that `save_lora` or PEFT wrote, and let it take part.

    Weights that were trained whole beside it, such as a head, are set in the model; they
    stay there when adapters are switched.

    Args:
        model: a Keras model or a transformer object, of the architecture it was trained for.
        path: PEFT's folder, or a '.safetensors' file of `save_lora`.
        name: the name it gets here; one of that name is replaced.
        trainable: train it further, and nothing else but what it was trained with.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, of a kind that is not supported, or does not fit.
        NotImplementedError: under TF_KERAS=1.
    """
    seam.only_keras3("LoRA")
    path = Path(path)
    if path.is_dir():
        layers, values = peft_names.read(model, path)
    elif path.is_file():
        layers, values = _read_file(model, path)
    else:
        raise FileNotFoundError(f"no adapter at {path}")
    targets = lora_targets(model)
    _check(path, targets, layers, values)
    drop_adapter(model, name)
    for place, (options, arrays) in layers.items():
        adapter = LowRank(targets[place], name=name, **options)
        targets[place].attach(adapter)
        for key, value in arrays.items():
            getattr(adapter, key).assign(value)
    for variable, value in values:
        variable.assign(value)
    set_adapter(model, name, trainable)
    if trainable:
        owners = {id(variable) for variable, _ in values}
        freeze_base(model, [x for x in keras_model(model).layers if owners & _ids(x.weights)])


def _ids(variables):
    return {id(variable) for variable in variables}


def trained_beside(model):
    """`{layer/index: variable}` of what is trained beside adapters, a new head for example."""
    found = {}
    for layer in keras_model(model).layers:
        own = enumerate(_own_weights(layer))
        found |= {f"{layer.name}/{i}": variable for i, variable in own if variable.trainable}
    return found


def _own_weights(layer):
    return [weight for weight in layer.weights if not is_low_rank(weight)]


def _check(path, targets, layers, values):
    """Refuse what does not fit, before anything is changed."""
    for place, (options, arrays) in layers.items():
        check_adaptable(place, targets[place])
        shapes = {key: tuple(value.shape) for key, value in arrays.items()}
        (rows, columns), rank = targets[place].matrix_shape, options["rank"]
        expected = {"a": (rows, rank), "b": (rank, columns)}
        if options["use_dora"]:
            expected["magnitude"] = (columns,)
        if shapes != expected:
            raise CheckpointError(f"layer {place!r}: expected {expected}, found {shapes}", path)
    for variable, value in values:
        if tuple(variable.shape) != tuple(value.shape):
            raise CheckpointError(
                f"{variable.path}: expected {tuple(variable.shape)}, found {value.shape}", path
            )


# ------------------------------------------------------------ safetensors files


def _write_file(model, adapters, path):
    arrays, layers = {}, {}
    for place, adapter in adapters.items():
        layers[place] = adapter.options()
        arrays |= {f"{place}/lora_{key}": value for key, value in adapter.arrays().items()}
    arrays |= {name: variable.numpy() for name, variable in trained_beside(model).items()}
    _write(path, arrays, {"format": FORMAT, "layers": json.dumps(layers)})


def _write(path, arrays, metadata):
    tensors = [(k, x.shape, x.dtype, lambda x=x: x) for k, x in arrays.items()]
    write_safetensors(path, tensors, metadata)


def _read_file(model, path):
    """`{layer: (options, arrays)}` and `[(variable, value)]` of a file."""
    targets, layers = lora_targets(model), {}
    with SafetensorsFile(path) as source:
        if source.metadata.get("format") != FORMAT:
            found = source.metadata.get("format")
            raise CheckpointError(f"expected a file of save_lora ({FORMAT}), found {found!r}", path)
        described = _described(source)
        lacking = sorted(set(described) - set(targets))
        if lacking:
            raise CheckpointError(f"the model has no layers {lacking}", path)
        used = set()
        for place, options in described.items():
            keys = ("a", "b", "magnitude") if options["use_dora"] else ("a", "b")
            names = {key: f"{place}/lora_{key}" for key in keys}
            used |= set(names.values())
            arrays = {key: source[name] for key, name in names.items()}
            layers[place] = (options, arrays)
        values = [(_variable(model, n, path), source[n]) for n in source if n not in used]
    return layers, values


def _described(source):
    """The layers' options, as the file's header says them."""
    try:
        layers = json.loads(source.metadata["layers"])
        keys = {"rank": int, "alpha": (int, float), "dropout": (int, float)}
        keys |= {"use_rslora": bool, "use_dora": bool}
        if not isinstance(layers, dict) or not all(
            isinstance(options, dict)
            and set(options) == set(keys)
            and all(isinstance(options[key], kind) for key, kind in keys.items())
            for options in layers.values()
        ):
            raise ValueError("expected for each layer " + ", ".join(keys))
        return layers
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"damaged header: {error}", source.path) from None


def _variable(model, name, path):
    place, _, index = name.rpartition("/")
    layers = {layer.name: layer for layer in keras_model(model).layers}
    own = _own_weights(layers[place]) if place in layers else []
    if not index.isdecimal() or int(index) >= len(own):
        raise CheckpointError(f"the model has no weight {name!r}", path)
    return own[int(index)]
