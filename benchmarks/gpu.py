"""What an accelerator gives: flash attention beside the usual way, decoding, RWKV kernels.

    python benchmarks/gpu.py                  # all parts, some minutes on a GPU
    python benchmarks/gpu.py flash            # logits and training steps with and without
    python benchmarks/gpu.py decode           # at the shape of Qwen2-0.5B, beside the bandwidth
    python benchmarks/gpu.py kernels          # the fused operators of RWKV, on torch

KERAS_BACKEND says the backend (jax by default). Everything is bfloat16 with random weights; of
times the medians.
"""

import argparse
import os
import warnings
from functools import partial

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from common import QWEN2, median_time

from bert4keras3.models import build_transformer_model

SIZES = {
    "vocab_size": 2000,
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "intermediate_size": 2816,
    "max_position": 4096,
}
# Each kind of mask: none but the causal one, padding too, padding alone, two segments, and biases.
FAMILIES = {
    "llama, unpadded": {"model": "llama", "with_lm": "linear", "pad_token_id": None},
    "llama": {"model": "llama", "with_lm": "linear"},
    "llama, 4 key heads": {
        "model": "llama",
        "with_lm": "linear",
        "query_head": 16,
        "num_attention_heads": 4,
        "attention_head_size": 64,
    },
    "bert": {"model": "bert", "with_mlm": "linear"},
    "bert, UniLM": {"model": "bert", "application": "unilm", "with_mlm": "linear"},
    "t5 encoder": {"model": "t5_encoder"},
}


def wait():
    """Until the device has done what it was given."""
    if keras.backend.backend() == "torch":
        import torch

        torch.cuda.synchronize()


def bandwidth():
    """Bytes a second of a copy on the device, read and written ones."""
    number = 1 << 31
    if keras.backend.backend() == "torch":
        import torch

        x, y = (torch.zeros(number, dtype=torch.int8, device="cuda") for _ in range(2))

        def copy():
            y.copy_(x)
            wait()
    else:
        import jax

        x, add = jax.numpy.zeros(number // 4, "int32"), jax.jit(lambda x: x + 1)

        def copy():
            add(x).block_until_ready()

    return 2 * number / median_time(copy, 10)


def batch(transformer, rows, length):
    """Ids with a little padding, and segments: the second half."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, SIZES["vocab_size"], (rows, length)).astype("int32")
    for row, end in zip(tokens, np.linspace(length, 0.7 * length, rows), strict=True):
        row[int(end) :] = 0
    segments = np.broadcast_to(np.arange(length) >= length // 2, (rows, length)).astype("int32")
    inputs = [segments if "Segment" in x.name else tokens for x in transformer.inputs]
    return inputs, tokens


def compare_flash(rows=8, length=2048):
    print(f"flash attention, {keras.backend.backend()}, bfloat16, {rows} x {length} tokens")
    for name, options in FAMILIES.items():
        outputs, times = [], []
        for on in (False, True):
            keras.utils.set_random_seed(0)
            arguments = {**SIZES, **options, "dtype": "bfloat16", "flash_attention": on}
            transformer = build_transformer_model(**arguments, return_keras_model=False)
            inputs, tokens = batch(transformer, rows, length)
            model = keras.Model(transformer.inputs, transformer.outputs[-1])
            few = model.predict_on_batch([x[:2] for x in inputs])
            outputs.append(np.asarray(few, "float32"))
            if name.startswith("t5"):
                targets, loss = np.zeros((rows, length, SIZES["hidden_size"]), "float32"), "mse"
            else:
                targets = tokens
                loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile("sgd", loss)
            times.append(
                median_time(lambda m=model, x=inputs, y=targets: float(m.train_on_batch(x, y)))
            )
        usual, flash = outputs
        difference = np.linalg.norm(flash - usual) / np.linalg.norm(usual)
        print(
            f"  {name:20} difference {difference:.1e}; a step {1e3 * times[0]:7.1f} ms, with flash "
            f"{1e3 * times[1]:7.1f} ms, ratio {times[0] / times[1]:.2f}",
            flush=True,
        )


def decode(prompt=128, count=256, batches=(1, 8)):
    transformer = build_transformer_model(**QWEN2, dtype="bfloat16", return_keras_model=False)
    weights = sum(2 * np.prod(w.shape) for w in transformer.model.weights)
    best = bandwidth()
    print(f"decoding, {weights / 2e9:.3f} B weights, {best / 1e12:.2f} TB/s in a copy")
    for rows in batches:
        ids = np.random.default_rng(0).integers(10, 30000, (rows, prompt)).tolist()
        runs = [partial(transformer.generate, ids, n) for n in (1 + count, 1)]
        spent = [median_time(run) for run in runs]
        rate = count / (spent[0] - spent[1])
        print(
            f"  {rows} x {prompt}: {rows * rate:8.1f} tokens a second, the first after "
            f"{1e3 * spent[1]:.1f} ms; {rate * weights / best:.2f} of the bandwidth",
            flush=True,
        )


def compare_kernels():
    """The fused operators of the package `flash-linear-attention` against ours in chunks."""
    import torch

    from bert4keras3.layers.wkv6 import RWKVKernelOperator

    if keras.backend.backend() != "torch":
        return print("kernels: on torch only, KERAS_BACKEND=torch")
    size, heads = 64, 16
    for rows, length in ((2, 100), (8, 2048)):
        rng = np.random.default_rng(0)
        shape = (rows, length, heads * size)
        r, k, v = (torch.tensor(rng.normal(size=shape), dtype=torch.bfloat16) for _ in range(3))
        w = torch.tensor(rng.normal(size=shape) - 2, dtype=torch.bfloat16)
        u = torch.tensor(rng.normal(size=(heads, size)), dtype=torch.bfloat16)
        inputs = [x.cuda().requires_grad_() for x in (r, k, v, w, u)]
        results, times = [], []
        for value in ("1", "0"):
            os.environ["OPS_KERNEL"] = value
            operator = RWKVKernelOperator(size)

            def run(operator=operator, inputs=inputs):
                for x in inputs:
                    x.grad = None
                y, state = operator(*inputs, with_state=True)
                y.float().square().sum().backward()
                wait()
                return y, state

            y, state = run()
            gradients = [x.grad.float().cpu() for x in inputs]
            results.append([y.detach().float().cpu(), state.detach().float().cpu(), *gradients])
            times.append(median_time(run))
        differences = [
            float((a - b).norm() / b.norm()) for a, b in zip(results[1], results[0], strict=True)
        ]
        print(
            f"kernel of RWKV6, {rows} x {length}: differences of y, state, gradients "
            + " ".join(f"{d:.1e}" for d in differences)
            + f"; forward and backward {1e3 * times[1]:.1f} ms, in chunks {1e3 * times[0]:.1f} ms",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"flash": compare_flash, "decode": decode, "kernels": compare_kernels}
    parser.add_argument("parts", nargs="*", choices=[*parts, []])
    warnings.filterwarnings("once", message="flash attention")
    for name in parser.parse_args().parts or parts:
        parts[name]()


if __name__ == "__main__":
    main()
