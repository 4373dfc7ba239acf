"""RWKV6 and 7: operators in chunks against plain loops, decoding against the package `rwkv`.

    python benchmarks/recurrent.py             # all parts, a few minutes
    python benchmarks/recurrent.py operator    # against a loop of `ops.scan`
    python benchmarks/recurrent.py length      # time and memory a token from 512 to 8192 tokens
    python benchmarks/recurrent.py decode      # at the shape of a 0.4B model
    python benchmarks/recurrent.py --version 7 # RWKV7 instead of RWKV6

Ours runs on KERAS_BACKEND (jax by default), the package on torch; both in one process, one after
the other. `pip install --no-deps rwkv` brings the package.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from common import median_time, seconds

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from official_rwkv import load_peer, rwkv6_tensors, rwkv7_tensors, save

from bert4keras3.layers.wkv6 import wkv6, wkv6_naive
from bert4keras3.layers.wkv7 import wkv7, wkv7_naive
from bert4keras3.models import build_transformer_model

ROWS, WIDTH, HEAD = 4, 512, 64
SIZES = {"vocab": 65536, "hidden": 1024, "layers": 24, "head_size": 64}
TOKENS = 32


def draw_wkv6(length, rows=ROWS):
    rng = np.random.default_rng(0)
    heads = WIDTH // HEAD
    shape = (rows, length, heads, HEAD)
    r, k, v = (rng.normal(size=shape) for _ in range(3))
    inputs = [r, k, v, rng.normal(size=shape) - 2]
    inputs += [rng.normal(size=(heads, HEAD)), rng.normal(size=(rows, heads, HEAD, HEAD))]
    return [x.astype("float32") for x in inputs]


def draw_wkv7(length, rows=ROWS):
    rng = np.random.default_rng(0)
    heads = WIDTH // HEAD
    r, w, k, v, unit, rates = (rng.normal(size=(rows, length, heads, HEAD)) for _ in range(6))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    w, rates = -0.6 / (1 + np.exp(-w)), 1 / (1 + np.exp(-rates))
    inputs = [r, w, k, v, -unit, unit * rates, rng.normal(size=(rows, heads, HEAD, HEAD))]
    return [x.astype("float32") for x in inputs]


def tensors_of_0_4b(version):
    """`{name: array}` of a random model of the size 0.4B."""
    if version == 6:
        return rwkv6_tensors(**SIZES, rank=32, decay_rank=64, inner=3584)
    return rwkv7_tensors(**SIZES, ranks=(64, 64, 32, 128), inner=4096)


# The operator, its plain loop, its inputs.
OPERATORS = {6: (wkv6, wkv6_naive, draw_wkv6), 7: (wkv7, wkv7_naive, draw_wkv7)}


def programs(operator, inputs):
    """The operator and its gradients, compiled where the backend compiles."""
    from keras import ops

    def loss(*tensors):
        y, state = operator(*tensors)
        return ops.sum(ops.square(y)) + ops.sum(ops.square(state))

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        forward = jax.jit(operator)
        both = jax.jit(jax.grad(loss, argnums=tuple(range(len(inputs)))))
        tensors = [jax.numpy.asarray(x) for x in inputs]
        return [lambda f=f: jax.block_until_ready(f(*tensors)) for f in (forward, both)]
    if backend == "torch":
        import torch

        def both():
            tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
            loss(*tensors).backward()

        def forward():
            with torch.no_grad():
                operator(*map(torch.tensor, inputs))

        return [forward, both]
    import tensorflow as tf

    tensors = [tf.constant(x) for x in inputs]

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(*tensors)
        return tape.gradient(value, tensors)

    forward = tf.function(lambda: operator(*tensors))
    return [forward, gradients]


def compare_operators(version, length=512):
    operator, naive, draw_inputs = OPERATORS[version]
    inputs = draw_inputs(length)
    ours, plain = programs(operator, inputs), programs(naive, inputs)
    print(f"operator of RWKV{version}, {ROWS} x {length} x {WIDTH}, {keras.backend.backend()}")
    for name, a, b in zip(("forward", "forward and backward"), ours, plain, strict=True):
        # In turns: the machine drifts.
        pairs = [(median_time(a, 1), median_time(b, 1)) for _ in range(5)]
        a, b = np.median(pairs, axis=0)
        ratio = np.median([y / x for x, y in pairs])
        print(f"  {name:22} {1e3 * a:8.1f} ms   loop {1e3 * b:8.1f} ms   ratio {ratio:.1f}")


def compare_lengths(version):
    """Each length in a process of its own: the peak of its memory is the process's."""
    print("forward and backward, one row")
    for length in (512, 2048, 8192):
        command = [sys.executable, __file__, "one-length"]
        command += ["--length", str(length), "--version", str(version)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print("  " + found.strip())


def measure_length(version, length):
    operator, _, draw_inputs = OPERATORS[version]
    inputs = draw_inputs(length, rows=1)
    before = peak_memory()
    spent = median_time(programs(operator, inputs)[1], 3)
    more = peak_memory() - before
    print(f"{length:5} tokens: {1e6 * spent / length:6.1f} us a token, {more / length:6.1f} KiB")


def peak_memory():
    """KiB that the process had at most (Linux); `getrusage` counts its parent's, too."""
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1])


class Environment:
    """What `load_peer` sets the package's variables with."""

    def setenv(self, name, value):
        # Its own compiler is on, as by default.
        os.environ[name] = "1" if name == "RWKV_JIT_ON" else str(value)


def read_bandwidth():
    """Bytes a second that memory gives at best: a sum, and a matrix-vector product."""
    import torch

    matrix, vector = torch.ones(16384, 8192), torch.ones(8192)
    runs = [seconds(torch.mv, matrix, vector) for _ in range(8)]
    runs += [seconds(torch.sum, matrix) for _ in range(8)]
    return 4 * matrix.numel() / min(runs)


def compare_decoding(version):
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        save(path, tensors_of_0_4b(version))
        ours = build_transformer_model(
            checkpoint_path=path,
            model=f"rwkv{version}",
            with_lm="linear",
            return_keras_model=False,
        )
        peer = load_peer(path, version, Environment())
    prompt = [5, 6, 7, 8]

    def our_rate():
        ours.generate(prompt, 2)
        first, whole = seconds(lambda: ours.generate(prompt, 2)), 0.0
        whole = seconds(lambda: ours.generate(prompt, 2 + TOKENS))
        return TOKENS / (whole - first)

    def peer_rate():
        logits, state = peer.forward(prompt, None)

        def run():
            nonlocal logits, state
            for _ in range(TOKENS):
                logits, state = peer.forward([int(torch.argmax(logits))], state)

        return TOKENS / seconds(run)

    ours.generate(prompt, 2 + TOKENS)
    peer_rate()
    pairs = [(our_rate(), peer_rate()) for _ in range(3)]
    a, b = np.median(pairs, axis=0)
    ratio = np.median([x / y for x, y in pairs])
    # Every weight but the token table is read once a token.
    read = 4 * (ours.model.count_params() - SIZES["vocab"] * SIZES["hidden"])
    print(f"decoding, batch 1, float32, {ours.model.count_params() / 1e6:.0f} million weights")
    print(f"  {a:.1f} tokens a second, rwkv {b:.1f}, ratio {ratio:.2f}")
    print(f"  {a * read / read_bandwidth():.2f} of the read bandwidth")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"operator": compare_operators, "length": compare_lengths, "decode": compare_decoding}
    parser.add_argument("part", nargs="?", choices=[*parts, "one-length"])
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--version", type=int, choices=list(OPERATORS), default=6)
    arguments = parser.parse_args()
    if arguments.part == "one-length":
        return measure_length(arguments.version, arguments.length)
    for name, run in parts.items():
        if arguments.part in (None, name):
            run(arguments.version)


if __name__ == "__main__":
    main()
