"""`build_transformer_model`: from a configuration and a checkpoint to a Keras model."""

import difflib
import inspect
import warnings
from pathlib import Path

from bert4keras3._environment import is_switched_on
from bert4keras3.models.config import (
    ALIASES,
    DEFAULTS,
    read_config,
    with_aliases,
    with_flags,
    without_silence,
)
from bert4keras3.models.huggingface import from_huggingface
from bert4keras3.models.masks import (
    extend_with_causal_mask,
    extend_with_language_model,
    extend_with_unified_language_model,
)
from bert4keras3.models.precision import dtype_policy, find_policy
from bert4keras3.models.quantized import find_quantization
from bert4keras3.models.registry import find_family, implied_arguments
from bert4keras3.models.transformer import Transformer

APPLICATIONS = {
    "encoder": lambda BaseModel: BaseModel,
    "lm": extend_with_language_model,
    "unilm": extend_with_unified_language_model,
}


def build_transformer_model(
    config_path=None,
    checkpoint_path=None,
    model=None,
    application=None,
    return_keras_model=True,
    keras_weights_path=None,
    initial=True,
    version=None,
    dtype=None,
    lora=None,
    quantization=None,
    **kwargs,
):
    """Build a model and fill it from a checkpoint.

    Args:
        config_path: a JSON file, or a folder in Hugging Face form; its
            `model_type` then says the family, and its weights are loaded unless
            another checkpoint is given. None: everything is in `kwargs`.
        checkpoint_path: a TensorFlow checkpoint's prefix, a `.safetensors`,
            `.bin` or `.weights.h5` file, or a Hugging Face folder.
        model: the family's key, or a subclass of `Transformer`; None for what the
            file says, or else `'bert'`. RWKV's official `.pth` files need no
            configuration beside the model's name.
        application: `'encoder'`, `'lm'` (causal mask) or `'unilm'` (UniLM mask);
            the latter two switch the LM head on. None for what the file says, or
            else `'encoder'`.
        return_keras_model: return the Keras model, else the transformer object,
            which has it as `.model`.
        keras_weights_path: a `.weights.h5` file.
        initial: accepted for older scripts; weights exist from the start.
        version: version of the family (T5); part of `model` too.
        dtype: dtype policy of the layers, e.g. 'bfloat16'; 'auto' for what a Hugging
            Face folder is stored in, but float32 on a CPU. None for Keras' current one.
        lora: the rank, True, or a dict of arguments of `training.enable_lora`: train low-rank
            matrices only. None for what the environment variable ENABLE_LORA says, where
            norms are trained too; False for never.
        quantization: 'int8' or 'int4', or a dict of arguments of `quantization.quantize`: keep
            kernels and token tables in so many bits, each as soon as it is loaded. A folder of
            `save_quantized` is so by itself.
        **kwargs: arguments of the family's classes and of `Transformer.build`;
            they override the file's. `head='auto'` gives a Hugging Face folder the
            outputs of the class it was saved from.

    Returns:
        A Keras model, or the transformer.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a configuration that lacks a key, an unknown model or
            application, or (CheckpointError) weights that do not fit.
        TypeError: a keyword that nothing takes.
    """
    from_folder = config_path is not None and Path(config_path).is_dir()
    config = {} if config_path is None else read_config(config_path)
    asked, stored = find_quantization(quantization, config, config_path)
    policy = find_policy(dtype, config)
    if from_folder:
        model, config = _describe_folder(config_path, config, model)
        kwargs = _with_outputs(kwargs, config.pop("outputs", {}))
    cls, config = _find_class(config, model, application, from_folder)
    if checkpoint_path is not None and hasattr(cls, "config_of") and "hidden_size" not in kwargs:
        config = {**cls.config_of(checkpoint_path), **config}
    if config_path is not None:
        for name, advice in cls.config_advice.items():
            if name not in config and name not in with_aliases(kwargs):
                warnings.warn(f"{config_path}: {advice}", stacklevel=2)
    if version is not None:
        kwargs["version"] = version
    _check_keywords(cls, kwargs)
    saved_dropout_rate = config.get("dropout_rate", kwargs.get("hidden_dropout_prob"))
    config = with_flags(without_silence({**config, **with_aliases(kwargs)}))
    construct, build = _split(cls, config)
    _check_required(cls, construct, config_path)
    if from_folder and checkpoint_path is None and keras_weights_path is None:
        checkpoint_path = config_path
    with dtype_policy(policy):
        transformer = cls(**construct)
        transformer.saved_dropout_rate = saved_dropout_rate
        transformer.defers_weights = (checkpoint_path or keras_weights_path) is not None
        transformer.build(**build)
    transformer.prepare_quantization(asked)
    if stored and checkpoint_path == config_path:
        transformer.load_quantized(config_path, stored)
    elif checkpoint_path is not None:
        transformer.load_weights_from_checkpoint(checkpoint_path)
    if keras_weights_path is not None:
        transformer.load_weights(keras_weights_path)
    transformer.finish_weights()
    transformer.finish_quantization()
    _adapt(transformer, lora)
    return transformer.model if return_keras_model else transformer


def _adapt(transformer, asked):
    """LoRA, where it is asked for."""
    from bert4keras3.training import lora

    if asked is None and is_switched_on("ENABLE_LORA"):
        lora.follow_environment(transformer)
    elif isinstance(asked, dict):
        lora.enable_lora(transformer, **asked)
    elif asked:
        lora.enable_lora(transformer, **({} if asked is True else {"rank": asked}))


def _find_class(config, model, application, from_folder):
    """The class to build, and the configuration with our names."""
    model = model or config.get("model", "bert")
    application = application or config.get("application", "encoder")
    config = with_aliases({**config, **implied_arguments(model)})
    cls = _extend(find_family(model), application)
    if config.pop("is_decoder", False) and from_folder:
        cls = cls if application == "unilm" else extend_with_causal_mask(cls)
    if "segment_vocab_size" in cls.lacks:
        # Files of every family have it; only an argument asks for segments.
        config.pop("segment_vocab_size", None)
    return cls, config


def _describe_folder(folder, config, model):
    """The family and arguments of a Hugging Face folder."""
    key, arguments = from_huggingface(config, Path(folder) / "config.json")
    if model is None or isinstance(model, type):
        return model or find_family(key), arguments
    asked, found = find_family(model), find_family(key)
    if asked in found.parts:
        return asked, arguments
    if asked is not found:
        raise ValueError(
            f"{folder}: expected a checkpoint of {model!r}, "
            f"found model_type {config['model_type']!r}"
        )
    return found, arguments


def _with_outputs(kwargs, outputs):
    """The arguments, with the outputs of the class a folder was saved from, where asked for."""
    if kwargs.get("head") == "auto":
        return {**outputs, **{k: v for k, v in kwargs.items() if k != "head"}}
    if kwargs.get("head") and kwargs["head"] == outputs.get("head"):
        return {**outputs, **kwargs}
    return kwargs


def _extend(cls, application):
    name = str(application).lower()
    if name not in APPLICATIONS:
        raise ValueError(
            f"unknown application {application!r}: expected one of {sorted(APPLICATIONS)}"
        )
    if not issubclass(cls, Transformer):
        raise TypeError(f"model: expected a subclass of Transformer, got {cls.__name__}")
    if name not in cls.applications:
        raise ValueError(
            f"application={application!r}: {cls.__name__} can be built as {list(cls.applications)}"
        )
    return APPLICATIONS[name](cls)


# -------------------------------------------------------------------- keywords


def _parameters(function):
    return {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name != "self"
    }


def _constructor_parameters(cls):
    """Parameters of the constructors of a class and its bases."""
    found = {}
    for base in cls.__mro__:
        if "__init__" in vars(base) and base is not object:
            for name, parameter in _parameters(base.__init__).items():
                found.setdefault(name, parameter)
    return found


def _check_keywords(cls, kwargs):
    known = {*_constructor_parameters(cls), *_parameters(cls.build), "version"}
    known |= {other for others in ALIASES.values() for other in others}
    for name in kwargs:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"build_transformer_model: {cls.__name__} takes no {name!r}{hint}")


def _split(cls, config):
    """Arguments of the constructor and of `build`; keys nobody reads are dropped."""
    ours, build = _constructor_parameters(cls), _parameters(cls.build)
    required = {name for name, p in ours.items() if p.default is p.empty}
    construct = {name: value for name, value in DEFAULTS.items() if name in required}
    construct |= {name: value for name, value in config.items() if name in ours}
    return construct, {name: value for name, value in config.items() if name in build}


def _check_required(cls, construct, config_path):
    missing = [
        name
        for name, parameter in _constructor_parameters(cls).items()
        if parameter.default is parameter.empty and construct.get(name) is None
    ]
    if missing:
        where = config_path or "the arguments of build_transformer_model"
        raise ValueError(f"{where}: {cls.__name__} needs {', '.join(missing)}")
