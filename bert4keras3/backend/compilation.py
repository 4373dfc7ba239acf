"""Compiled programs that outlive the process."""

import contextlib
import hashlib
import os
import platform
import warnings
from pathlib import Path

from bert4keras3.ops import keras

VARIABLE = "BERT4KERAS3_COMPILATION_CACHE"
# Of the default folder; the oldest programs go first.
MOST_BYTES = 1 << 30


def enable_compilation_cache(folder=None):
    """Keep what JAX compiles in a folder, so that the next process starts without compiling.

    The environment variable `BERT4KERAS3_COMPILATION_CACHE` does the same: the
    folder, or 1 for the default one. The commands of `bert4keras3` do so unless it is 0.

    Args:
        folder: by default one for this kind of processor, at most 1 GiB, in
            `bert4keras3/programs` in the user's cache folder.

    Returns:
        The folder; None, with a warning, where it cannot be made, and on backends that have
        no such thing.
    """
    if keras.backend.backend() != "jax":
        return _warn(f"is JAX's; on {keras.backend.backend()} it has no effect")
    import jax

    is_default = folder is None
    folder = _default_folder() if is_default else Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _warn(f"is off: {folder}: {error.strerror}")
    if is_default:
        with contextlib.suppress(OSError):  # another process does the same
            _prune(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX leaves out what compiles within a second: most programs of a small model.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    return str(folder)


def follow_environment():
    """Switch the cache on where the environment asks for it."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0") and keras.backend.backend() == "jax":
        enable_compilation_cache(None if value == "1" else value)


def _warn(what):
    warnings.warn(f"the compilation cache {what}", stacklevel=3)


def _default_folder():
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "bert4keras3" / "programs" / _processor()


def _processor():
    """A name for this kind of processor: one user's machines may share a home, not programs."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            features = next(line for line in file if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.blake2b(features.encode(), digest_size=4).hexdigest()}"


def _prune(folder):
    """Remove the oldest files beyond `MOST_BYTES`."""
    files = sorted(
        (entry.stat().st_mtime, entry.stat().st_size, entry.path)
        for entry in os.scandir(folder)
        if entry.is_file()
    )
    left = sum(size for _, size, _ in files) - MOST_BYTES
    for _, size, path in files:
        if left <= 0:
            return
        os.unlink(path)
        left -= size
