"""The forms a model is written in, told by the name of the target. Imports no Keras."""

import re
from pathlib import Path
from typing import NamedTuple

HF, H5, TF = FORMS = ("hf", "h5", "tf")
FOLDER_FILES = re.compile(r"config\.json|(model|pytorch_model).*\.(safetensors|bin|index\.json)")
FILE_SUFFIXES = (".safetensors", ".bin", ".h5", ".hdf5", ".keras", ".json", ".index", ".pt", ".pth")


class Target(NamedTuple):
    """Where a model is written to.

    Args:
        form: 'hf', 'h5' or 'tf'.
        path: the folder, the `.weights.h5` file, or the checkpoint's prefix.
    """

    form: str
    path: Path

    @property
    def folder(self):
        """Where configuration and tokenizer go."""
        return self.path if self.form == HF else self.path.parent

    @property
    def config_path(self):
        return self.folder / "config.json"


def find_target(path, form=None):
    """The `Target` of a path.

    Args:
        path: a folder, a name that ends with `.weights.h5`, or one that ends with `.ckpt`.
        form: 'hf', 'h5' or 'tf', told by the name by default.

    Raises:
        ValueError: the name does not fit the form.
    """
    if form is None:
        form = TF if path.endswith(".ckpt") else H5 if path.endswith(".weights.h5") else HF
        if form == HF and path.endswith(FILE_SUFFIXES):
            raise ValueError(
                f"{path}: expected a folder (Hugging Face), a name that ends with .weights.h5 "
                "(Keras) or .ckpt (TensorFlow), or --to"
            )
    if form == H5 and not path.endswith(".weights.h5"):
        raise ValueError(f"{path}: expected a name that ends with .weights.h5")
    return Target(form, Path(path))


def check_free(target, force):
    """Raise where something is in the way.

    Raises:
        FileExistsError: a model is there already, and `force` is False.
        NotADirectoryError: a file is where a folder must be.
    """
    path = target.path
    if target.form == HF:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"{path}: is a file, expected a folder")
        names = [file.name for file in path.iterdir()] if path.is_dir() else []
        found = [path / name for name in sorted(names) if FOLDER_FILES.fullmatch(name)]
    else:
        file = path.with_name(path.name + ".index") if target.form == TF else path
        found = [file] if file.exists() else []
    if found and not force:
        raise FileExistsError(f"{found[0]}: exists already, --force replaces it")
