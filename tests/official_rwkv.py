"""Random models in RWKV's official form, and the packages that run them."""

import contextlib
import importlib.util
import io
import sys

import numpy as np


def rwkv6_tensors(
    vocab=40, hidden=32, layers=3, head_size=8, rank=4, decay_rank=6, inner=56, seed=0
):
    """`{name: float32 array}` of an x060 model."""
    draw = _drawer(seed)
    tensors = _common_tensors(draw, vocab, hidden, layers)
    for i in range(layers):
        block = f"blocks.{i}."
        for name in "xwkvrg":
            tensors[f"{block}att.time_maa_{name}"] = draw(1, 1, hidden)
        tensors[f"{block}att.time_maa_w1"] = draw(hidden, 5 * rank)
        tensors[f"{block}att.time_maa_w2"] = draw(5, rank, hidden)
        tensors[f"{block}att.time_decay"] = draw(1, 1, hidden) - 1
        tensors[f"{block}att.time_decay_w1"] = draw(hidden, decay_rank)
        tensors[f"{block}att.time_decay_w2"] = draw(decay_rank, hidden)
        tensors[f"{block}att.time_faaaa"] = draw(hidden // head_size, head_size)
        for name in ("receptance", "key", "value", "gate", "output"):
            tensors[f"{block}att.{name}.weight"] = draw(hidden, hidden)
        tensors[f"{block}ffn.time_maa_k"] = draw(1, 1, hidden)
        tensors[f"{block}ffn.time_maa_r"] = draw(1, 1, hidden)
        tensors[f"{block}ffn.key.weight"] = draw(inner, hidden)
        tensors[f"{block}ffn.value.weight"] = draw(hidden, inner)
        tensors[f"{block}ffn.receptance.weight"] = draw(hidden, hidden)
    return tensors


def rwkv7_tensors(vocab=40, hidden=32, layers=3, head_size=8, ranks=(6, 5, 4, 7), inner=56, seed=0):
    """`{name: float32 array}` of an x070 model; ranks of w, a, v and g."""
    draw = _drawer(seed)
    tensors = _common_tensors(draw, vocab, hidden, layers)
    for i in range(layers):
        block = f"blocks.{i}."
        for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "k_k", "k_a"):
            tensors[f"{block}att.{name}"] = draw(1, 1, hidden)
        tensors[f"{block}att.r_k"] = draw(hidden // head_size, head_size)
        for name, rank in zip("wavg", ranks, strict=True):
            if name == "v" and i == 0:
                continue
            tensors[f"{block}att.{name}1"] = draw(hidden, rank)
            tensors[f"{block}att.{name}2"] = draw(rank, hidden, scale=1.0)
            if name != "g":
                tensors[f"{block}att.{name}0"] = draw(1, 1, hidden, scale=1.0)
        for name in ("receptance", "key", "value", "output"):
            tensors[f"{block}att.{name}.weight"] = draw(hidden, hidden)
        tensors[f"{block}ffn.x_k"] = draw(1, 1, hidden)
        tensors[f"{block}ffn.key.weight"] = draw(inner, hidden)
        tensors[f"{block}ffn.value.weight"] = draw(hidden, inner)
    return tensors


def _common_tensors(draw, vocab, hidden, layers):
    """Tables and norms."""
    norms = [f"blocks.{i}.{name}" for i in range(layers) for name in ("ln1", "ln2", "att.ln_x")]
    tensors = {
        "emb.weight": draw(vocab, hidden, scale=1.0),
        "head.weight": draw(vocab, hidden),
    }
    for name in ("blocks.0.ln0", "ln_out", *norms):
        tensors[f"{name}.weight"] = 1 + draw(hidden)
        tensors[f"{name}.bias"] = draw(hidden)
    return tensors


def _drawer(seed):
    rng = np.random.default_rng(seed)
    return lambda *shape, scale=0.3: rng.normal(0, scale, shape).astype("float32")


def save(path, tensors):
    """Write a `.pth` file as official ones are."""
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)


def load_peer(path, version, monkeypatch):
    """A model of the package `rwkv`, float32; what it runs hangs on variables at its import."""
    for name, value in (("JIT_ON", 0), ("CUDA_ON", 0), ("V7_ON", int(version == 7))):
        monkeypatch.setenv(f"RWKV_{name}", str(value))
    found = importlib.util.find_spec("rwkv.model")
    spec = importlib.util.spec_from_file_location(f"rwkv_model_{version}", found.origin)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    with contextlib.redirect_stdout(io.StringIO()):
        return module.RWKV(model=str(path).removesuffix(".pth"), strategy="cpu fp32")
