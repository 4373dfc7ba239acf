"""A step of LoRA against one of full fine-tuning, and against Keras' own `enable_lora`.

    python benchmarks/lora.py                       # both models, some minutes
    python benchmarks/lora.py --models llama --hidden 256 --rounds 7

Adapters at the same kernels, of the same rank, in one process and in turns; KERAS_BACKEND says the
backend (jax by default). A ratio below 1 means that ours takes less.
"""

import argparse
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

from bert4keras3.models import build_transformer_model
from bert4keras3.training import enable_lora, lora_targets

SIZES = {
    "vocab_size": 8000,
    "num_hidden_layers": 4,
    "max_position": 512,
}
MODELS = {
    "llama": {"model": "llama", "with_lm": "linear", "hidden_act": "silu", "share_embedding": True},
    "bert": {"model": "bert", "with_mlm": "linear", "hidden_act": "gelu"},
}
RANK = 8


def make(name, way, hidden):
    """A compiled model of random weights, trained in one of the ways."""
    sizes = {
        **SIZES,
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
    }
    transformer = build_transformer_model(**sizes, **MODELS[name], return_keras_model=False)
    model = transformer.model
    if way == "ours":
        enable_lora(model, RANK)
    if way == "Keras":
        paths = enable_lora(model, RANK)  # the same kernels
        layers = lora_targets(model)
        for path in paths:
            layers[path].detach("default")
            layers[path].enable_lora(RANK)
        for variable in model.trainable_variables:
            variable.trainable = variable.name.startswith("lora_")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-4), loss)
    return model, transformer


def steps(model, transformer, rows, length):
    """A function that trains on one batch, which has run twice already."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, SIZES["vocab_size"], (rows, length)).astype("int32")
    inputs = [np.zeros_like(ids) if "Segment" in x.name else ids for x in transformer.inputs]
    inputs = inputs if len(inputs) > 1 else inputs[0]

    def step():
        return float(np.asarray(model.train_on_batch(inputs, ids)))

    step(), step()
    return step


def seconds(step, times):
    start = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - start) / times


def state(model):
    """Mebibytes that the optimizer keeps."""
    variables = model.optimizer.variables
    return sum(np.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables) / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ways = ("ours", "full", "Keras")
    size = f"{arguments.rows} x {arguments.length}, {arguments.hidden} wide"
    print(f"{keras.backend.backend()}, {size}, rank {RANK}")
    for name in arguments.models:
        models = {way: make(name, way, arguments.hidden) for way in ways}
        runs = {way: steps(*made, arguments.rows, arguments.length) for way, made in models.items()}
        # In turns: the machine drifts.
        times = np.array([[seconds(runs[way], 2) for way in ways] for _ in range(arguments.rounds)])
        for i, way in enumerate(ways):
            own, ratio = np.median(times[:, i]), np.median(times[:, 0] / times[:, i])
            memory = state(models[way][0])
            print(
                f"  {name:6} {way:6} {1e3 * own:8.1f} ms a step, ours is {ratio:.2f} of it; "
                f"optimizer state {memory:7.2f} MiB"
            )


if __name__ == "__main__":
    main()
