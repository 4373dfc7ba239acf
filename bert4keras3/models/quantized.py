"""Models of few bits: how they come to be as files are read, and their own files."""

from pathlib import Path

from bert4keras3.models.config import write_json
from bert4keras3.models.huggingface import to_huggingface
from bert4keras3.weights.errors import CheckpointError
from bert4keras3.weights.load import Item
from bert4keras3.weights.opening import open_source

KEY, METHOD = "quantization_config", "bert4keras3"
BESIDE = "/quantized/vars/0"  # in .weights.h5 files, after the layer's group


def find_quantization(asked, config, path):
    """What is to be quantised, and what a folder says that it has.

    Args:
        asked: the argument of `build_transformer_model`; None for none.
        config: the folder's `config.json`; an entry of our own is taken out.
        path: of the folder, for messages.

    Returns:
        Two `Quantization`s, or None: of the argument, and of the folder.

    Raises:
        ValueError: they differ, or are out of range.
    """
    from bert4keras3.quantization import Quantization

    asked = None if asked is None else Quantization.of(asked)
    entry = config.get(KEY)
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        return asked, None
    config.pop(KEY)
    try:
        stored = Quantization(entry.get("bits"), entry.get("group_size"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {KEY}: {error}") from None
    if asked is not None and (asked.bits, asked.group_size) != (stored.bits, stored.group_size):
        raise ValueError(f"{path} holds {stored}: expected {asked}, or quantization=None")
    return None, stored


class Quantized:
    """Mixin of `Transformer`: files of quantised models, and quantising while loading.

    Attributes:
        quantizer: the `Quantizer` at work while a file is loaded; None for none.
    """

    quantizer = None

    def prepare_quantization(self, asked):
        """Have every layer quantised as soon as a file has filled it."""
        if asked is not None:
            from bert4keras3.quantization import Quantizer

            self.quantizer = Quantizer(self, asked)

    def finish_quantization(self):
        """Quantise what no file has filled."""
        if self.quantizer is not None:
            self.quantizer.finish()
            self.quantizer = None

    def places_of_bits(self, source, groups):
        """The model's `variable_paths`, with as many bits as a `.weights.h5` file has.

        Raises:
            CheckpointError: the file is quantised and the model is not, or the reverse.
        """
        from bert4keras3.weights.h5 import variable_paths

        in_file = {name.removesuffix(BESIDE) for name in source if name.endswith(BESIDE)}
        if in_file and self.quantizer is not None:
            self.quantizer.make_room()
        places = variable_paths(self.model, groups)
        in_model = {name.removesuffix(BESIDE) for name in places if name.endswith(BESIDE)}
        for group in sorted(in_file ^ in_model):
            owner = next((o for name, (o, _) in places.items() if name.startswith(group)), group)
            if group in in_file:
                what = "has few bits in the file, but not in the model: build it with quantization="
            else:
                what = "is quantised in the model, but not in the file: load before quantising"
            raise CheckpointError(f"layer {owner!r} {what}", source.path, group)
        for group in in_file:
            _, variable = places[group + BESIDE]
            found = str(source.dtype(group + BESIDE))
            if found != variable.dtype:
                raise CheckpointError(
                    f"expected numbers of {variable.dtype}, found {found}: another number of bits",
                    source.path,
                    group,
                )
        return places

    def save_quantized(self, folder, max_shard_size="5GB"):
        """Write a folder that `build_transformer_model(folder)` reads, and nobody else.

        `config.json` is Hugging Face's with our entry 'quantization_config'; the safetensors
        are named after our layers and their attributes.

        Args:
            folder: the folder, made where it does not exist.
            max_shard_size: as `save_pretrained`.

        Raises:
            CheckpointError: the model is not quantised, or no configuration says what it is.
        """
        from bert4keras3.quantization import quantization_of
        from bert4keras3.weights.h5 import named_variables
        from bert4keras3.weights.safetensors import write_safetensors

        kind = quantization_of(self.model)
        if kind is None:
            raise CheckpointError("the model is not quantised: quantize(model) first")
        entry = {"quant_method": METHOD, "bits": kind.bits, "group_size": kind.group_size}
        config = {**to_huggingface(self), KEY: entry}
        tensors = [
            (name, tuple(variable.shape), variable.numpy().dtype, variable.numpy)
            for name, (_, variable) in named_variables(self.model).items()
        ]
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "model.safetensors", tensors, None, max_shard_size)
        write_json(folder / "config.json", config)

    def load_quantized(self, folder, kind):
        """Fill the model from a folder of `save_quantized`.

        Args:
            folder: the folder.
            kind: its `Quantization`.

        Raises:
            FileNotFoundError: it has no weights.
            CheckpointError: they are damaged, or do not fit the model.
        """
        from bert4keras3.quantization import settle
        from bert4keras3.weights.h5 import named_variables, quantizable_layers

        with open_source(folder) as source:
            for name, layer in quantizable_layers(self.model).items():
                if f"{name}/quantized/values" in source:
                    layer.quantize_kernel(kind.bits, kind.group_size, fill=False)
            known = named_variables(self.model)
            items = [
                Item(self.model.get_layer(owner), variable, name, lambda name=name: source[name])
                for name, (owner, variable) in known.items()
            ]
            self.load_report = self._fill(items, source, set(source) - set(known))
        settle(self)
