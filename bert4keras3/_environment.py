"""What the environment says: the Keras backend, chosen before Keras is imported, and switches."""

import importlib.util
import json
import os
import sys

BACKENDS = ("jax", "tensorflow", "torch")


def select_backend():
    """Set `KERAS_BACKEND` unless the user or an earlier `import keras` has chosen.

    With TF_KERAS=1 it is TensorFlow, and `tf.keras` is Keras 2. Else the order: the
    environment variable, the user's `keras.json` (where that
    backend is installed: Keras writes the file itself and names TensorFlow),
    else the first installed of jax, tensorflow and torch.

    Raises:
        ImportError: no backend is installed, or not what TF_KERAS=1 asks for.
        ValueError: TF_KERAS=1 with another backend.
    """
    if uses_tf_keras():
        _select_tf_keras()
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
        return
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if not installed:
        raise ImportError(
            "bert4keras3 needs a backend and none is installed: "
            "pip install 'bert4keras3[jax]' (or [tensorflow], [torch])"
        )
    configured = _configured_backend()
    if configured in BACKENDS and configured not in installed:
        configured = None
    os.environ["KERAS_BACKEND"] = configured or installed[0]


def uses_tf_keras():
    """Whether TF_KERAS=1 asks for Keras 2, the package `tf-keras`, instead of Keras 3."""
    return is_switched_on("TF_KERAS")


def _select_tf_keras():
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise ValueError(
            f"TF_KERAS=1 runs on TensorFlow, but KERAS_BACKEND={backend}: unset one of the two"
        )
    missing = [name for name in ("tensorflow", "tf_keras") if not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(
            f"TF_KERAS=1 needs {' and '.join(missing)}: pip install 'bert4keras3[tensorflow]' and "
            "pip install --no-deps tf-keras"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # what `tf.keras` is


def is_switched_on(name):
    """Whether an environment variable is set to something that means yes.

    Raises:
        ValueError: it is neither yes nor no.
    """
    value = os.environ.get(name, "").strip().lower()
    if value in ("", "0", "n", "no", "f", "false", "off"):
        return False
    if value in ("1", "y", "yes", "t", "true", "on"):
        return True
    raise ValueError(f"environment variable {name}: expected 1 or 0, got {os.environ[name]!r}")


def _configured_backend():
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            return json.load(file).get("backend")
    except (OSError, ValueError, AttributeError):
        return None
