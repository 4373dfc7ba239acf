"""What is converted: a model's arguments and its open weights."""

from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bert4keras3.converting.outputs import find_outputs
from bert4keras3.models.config import read_config
from bert4keras3.models.huggingface import from_huggingface
from bert4keras3.models.keras_hub import is_preset, read_preset
from bert4keras3.models.registry import find_family
from bert4keras3.weights import Source, open_source
from bert4keras3.weights.h5 import KerasWeights


class Origin(NamedTuple):
    """What is converted.

    Args:
        model: the model key.
        source: the open weights.
        arguments: of `build_transformer_model`.
    """

    model: str
    source: Source
    arguments: dict


@contextmanager
def open_folder(folder, head, options):
    """A Hugging Face folder, or a preset of keras-hub.

    Args:
        folder: its path.
        head: 'auto' for whatever outputs the folder has, 'none', or a task.
        options: arguments of `build_transformer_model`.

    Yields:
        The `Origin`.

    Raises:
        FileNotFoundError: there is no such configuration, or no weights.
        ValueError: the configuration is of no known family.
    """
    config, path = read_config(folder), Path(folder) / "config.json"
    if is_preset(config):
        key, arguments, source = read_preset(folder, config)
        with source:
            yield Origin(key, source, {**arguments, **_task(head), **options})
        return
    key, described = from_huggingface(config, path)
    cls = find_family(key)
    with open_source(folder) as source:
        arguments = {"config_path": folder, **_task(head)}
        task = described["outputs"].get("head")
        if head == "auto":
            if task is not None and task not in cls.heads:
                raise ValueError(
                    f"{path}: architectures: expected a class whose head is known, found "
                    f"{task!r}: --head none converts the model without its head"
                )
            arguments["head"] = "auto"
            if task is None:
                arguments |= find_outputs(cls, source)
        yield Origin(key, source, arguments | options)


@contextmanager
def open_files(config_path, weights_path, model, head, options):
    """A configuration file and a checkpoint of any form.

    Args:
        config_path: the configuration.
        weights_path: whatever `open_source` opens, or a `.weights.h5` file.
        model: the model key; None where the configuration says 'model'.
        head, options: as for `open_folder`.

    Yields:
        The `Origin`.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: no or an unknown model key.
    """
    config = read_config(config_path)
    model = model or config.get("model")
    if model is None:
        raise ValueError(f"{config_path}: has no 'model': say the family, --model KEY")
    cls = find_family(model)
    arguments = {"config_path": config_path, **_task(head)}
    if str(weights_path).endswith((".h5", ".hdf5")):
        with KerasWeights(weights_path) as source:
            arguments["keras_weights_path"] = weights_path
            yield Origin(model, source, arguments | options)
        return
    with open_source(weights_path) as source:
        if head == "auto" and config.get("head") is None:
            found = find_outputs(cls, source).items()
            arguments |= {name: value for name, value in found if name not in config}
        yield Origin(model, source, arguments | options)


def _task(head):
    return {} if head in ("auto", "none") else {"head": head}
