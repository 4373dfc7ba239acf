"""Compiled programs that outlive the process."""

import os
import warnings
from pathlib import Path

from bert4keras3.ops import keras

VARIABLE = "BERT4KERAS3_COMPILATION_CACHE"


def enable_compilation_cache(folder=None):
    """Keep what JAX compiles in a folder, so that the next process starts without compiling.

    The environment variable `BERT4KERAS3_COMPILATION_CACHE` does the same: the
    folder, or 1 for the default one.

    Args:
        folder: by default `bert4keras3/programs` in the user's cache folder.

    Returns:
        The folder; None, with a warning, on backends that have no such thing.
    """
    if keras.backend.backend() != "jax":
        warnings.warn(
            f"the compilation cache is JAX's; on {keras.backend.backend()} it has no effect",
            stacklevel=2,
        )
        return None
    import jax

    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "bert4keras3" / "programs"
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    # JAX leaves out what compiles within a second: most programs of a small model.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return os.fspath(folder)


def follow_environment():
    """Switch the cache on where the environment asks for it."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0") and keras.backend.backend() == "jax":
        enable_compilation_cache(None if value == "1" else value)
