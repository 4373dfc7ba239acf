"""Writing a model in one of three forms, with the configuration that gives it back."""

from bert4keras3.converting.forms import HF, TF
from bert4keras3.models.config import read_config, write_json
from bert4keras3.models.registry import find_family
from bert4keras3.weights import CheckpointError

# What said how to load a file, and is done.
LOADING = ("keep_tokens", "compound_tokens", "ignore_invalid_weights", "autoresize_weights")


def check_config(transformer, model, target, force):
    """The configuration that goes beside the weights; None for a folder, which has its own.

    Args:
        transformer: what `build` returned.
        model: its key.
        target: the `Target`.
        force: whether another model's configuration may be replaced.

    Raises:
        FileExistsError: another model's configuration is there.
        CheckpointError: no configuration file gives this model.
    """
    if target.form == HF:
        return None
    config = {"model": model, **_application(transformer, model)}
    config |= {k: v for k, v in transformer.constructed.items() if k not in LOADING}
    config["vocab_size"] = transformer.vocab_size
    path = target.config_path
    if path.exists() and not force and read_config(path) != config:
        raise FileExistsError(f"{path}: describes another model, --force replaces it")
    return config


def _application(transformer, model):
    kind = transformer.attention_kind
    if kind == find_family(model).attention_kind:
        return {}
    if "with_mlm" not in transformer.lacks and not transformer.with_mlm:
        raise CheckpointError(
            f"{kind} attention without an output of tokens: no configuration file says so, "
            "only a Hugging Face folder"
        )
    return {"application": {"causal": "lm"}.get(kind, kind)}


def write(transformer, target, config, max_shard_size, progress):
    """Write weights and configuration.

    Args:
        transformer: the model.
        target: the `Target`.
        config: from `check_config`.
        max_shard_size: of a Hugging Face folder's files.
        progress: a `Progress`.

    Raises:
        CheckpointError: the form has no place for the model.
    """
    with progress.stage("writing"):
        if target.form == HF:
            transformer.save_pretrained(target.path, max_shard_size=max_shard_size)
            return
        target.folder.mkdir(exist_ok=True)
        if target.form == TF:
            transformer.save_weights_as_checkpoint(target.path)
        else:
            transformer.save_weights(target.path)
    write_json(target.config_path, config)
