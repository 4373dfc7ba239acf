"""Module paths of the documents and of older scripts, as aliases of today's modules."""

import importlib
import sys
from types import ModuleType

_POSITIONS = ("layers.embeddings", "layers.positions")
_RWKV = ("layers.rwkv6", "layers.recurrent", "layers.wkv6")
_ATTENTIONS = ("layers.attention", "layers.gated_attention", "layers.disentangled")

# alias: modules whose public names it offers
ALIASES = {
    "layers.LayerNorms": ("layers.norms",),
    "layers.FFN": ("layers.feed_forward",),
    "layers.Embeddings": _POSITIONS,
    "layers.GP": ("layers.global_pointer",),
    "layers.Attentions": _ATTENTIONS,
    "layers.Rwkv_layer": _RWKV,
    "Layers_add": ("layers",),
    "Layers_add.LayerNorms": ("layers.norms",),
    "Layers_add.FFN": ("layers.feed_forward",),
    "Layers_add.Embeddings": _POSITIONS,
    "Layers_add.GP": ("layers.global_pointer",),
    "Layers_add.Attentions": _ATTENTIONS,
    "Layers_add.Rwkv_layer": _RWKV,
    "transformers": ("models",),
    "Models": ("models",),
    **dict.fromkeys(
        [
            f"Models.{name}"
            for name in (
                "Berts",
                "Alberts",
                "Roformers",
                "GPTs",
                "GAUs",
                "Deberta",
                "LLamas",
                "T5models",
            )
        ],
        ("models",),
    ),
}


class _Alias(ModuleType):
    """A module that looks its names up in other modules, on first use."""

    def __init__(self, name, targets):
        super().__init__(name, f"Alias of {', '.join(targets)}.")
        self.__path__ = []
        self._targets = targets

    def __getattr__(self, name):
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        child = sys.modules.get(f"{self.__name__}.{name}")
        if child is not None:
            return child
        modules = [importlib.import_module(target) for target in self._targets]
        if name == "__all__":
            return sorted({n for module in modules for n in _public_names(module)})
        for module in modules:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _public_names(module):
    return getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])


def install_aliases(package):
    """Make every alias importable (`import package.alias`) and an attribute of its parent."""
    for alias, targets in ALIASES.items():
        name = f"{package}.{alias}"
        sys.modules[name] = _Alias(name, tuple(f"{package}.{target}" for target in targets))


def child_aliases(package, parent):
    """Aliases that are attributes of the real module `package.parent` ("" for the package)."""
    prefix = f"{parent}." if parent else ""
    names = [a for a in ALIASES if a.startswith(prefix) and "." not in a[len(prefix) :]]
    return {name[len(prefix) :]: sys.modules[f"{package}.{name}"] for name in names}
