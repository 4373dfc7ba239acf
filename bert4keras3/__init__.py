"""Text transformers for Keras 3: build, load, fine-tune, generate; on JAX, TensorFlow, PyTorch.

Submodules are imported on first use, so that `import bert4keras3` is cheap and
chooses no backend by itself.
"""

import importlib

from bert4keras3._aliases import child_aliases, install_aliases

__version__ = "2.0.0.dev0"

_SUBMODULES = (
    "backend",
    "cli",
    "distribution",
    "embedding",
    "generation",
    "layers",
    "models",
    "ops",
    "quantization",
    "snippets",
    "tokenizers",
    "training",
    "weights",
)
# The documents show these two at the top level.
_MEMBERS = {"sequence_padding": "snippets", "DataGenerator": "snippets"}

install_aliases(__name__)
globals().update(child_aliases(__name__, ""))


def __getattr__(name):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MEMBERS:
        return getattr(importlib.import_module(f"{__name__}.{_MEMBERS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_SUBMODULES, *_MEMBERS})
