"""What recomputing saves and costs: a training step with `remat` and without.

    KERAS_BACKEND=jax python benchmarks/remat.py
    KERAS_BACKEND=torch python benchmarks/remat.py --layers 12 --hidden 768

Peak memory is what a step needs beyond weights and optimizer: on JAX the temporary memory of the
compiled program, else the growth of the process' memory, each in a process of its own (Linux).
Times are medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time

os.environ.setdefault("KERAS_BACKEND", "jax")


def anonymous():
    """MiB of the process' own memory, mapped files left out."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


class Watch:
    """The highest `anonymous()` within the block."""

    def __enter__(self):
        self.peak, self.running = anonymous(), True
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self):
        while self.running:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.001)

    def __exit__(self, *_):
        self.running = False
        self.thread.join()


def build(args, remat):
    import keras

    from bert4keras3.models import build_transformer_model

    bert = build_transformer_model(
        vocab_size=1000,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        intermediate_size=4 * args.hidden,
        hidden_act="gelu",
        max_position=args.length,
        dropout_rate=0.1,
        attention_dropout_rate=0.1,
        remat=remat,
        return_keras_model=False,
    )
    first = keras.ops.take(bert.output, 0, axis=1)
    model = keras.Model(bert.inputs, keras.layers.Dense(2)(first))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-4), loss)
    return model


def compiled_memory(model, data):
    """MiB of temporary memory of JAX's program for a step."""
    import jax

    model._symbolic_build(data_batch=data)
    model.optimizer.build(model.trainable_variables)
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
        purge_model_variables=False,
    )
    program = jax.jit(model.train_step, donate_argnums=0).lower(state, data).compile()
    return program.memory_analysis().temp_size_in_bytes / 2**20


def measure(args, remat):
    """MiB and seconds of a step."""
    import keras
    import numpy as np

    model = build(args, remat)
    tokens = np.random.default_rng(0).integers(1, 1000, (args.rows, args.length)).astype("int32")
    data = ((tokens, np.zeros_like(tokens)), np.arange(args.rows) % 2)
    memory = None
    if keras.backend.backend() == "jax":
        memory = compiled_memory(model, data)
    model.train_on_batch(*data)
    seconds, start = [], anonymous()
    with Watch() as watch:
        for _ in range(args.steps):
            before = time.perf_counter()
            model.train_on_batch(*data)
            seconds.append(time.perf_counter() - before)
    return memory or watch.peak - start, statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--layers", type=int, default=6, help="default: %(default)s")
    add("--hidden", type=int, default=256, help="default: %(default)s")
    add("--rows", type=int, default=8, help="default: %(default)s")
    add("--length", type=int, default=256, help="default: %(default)s")
    add("--steps", type=int, default=5, help="steps that are timed; default: %(default)s")
    add("--remat", choices=("0", "1"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.remat is not None:
        print(json.dumps(measure(args, args.remat == "1")))
        return
    print(f"{os.environ['KERAS_BACKEND']}: {args.layers} blocks of {args.hidden}, ", end="")
    print(f"{args.rows} x {args.length} tokens")
    results = []
    for remat in "01":
        # glibc gives freed memory back only at the top of the heap, unless told to map it.
        environment = {
            **os.environ,
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "MALLOC_TRIM_THRESHOLD_": "0",
        }
        command = [sys.executable, *sys.argv, "--remat", remat]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(
            f"remat={remat}  {results[-1][0]:8.0f} MiB  {results[-1][1]:7.3f} s a step", flush=True
        )
    (memory, seconds), (less, longer) = results
    print(f"memory x {less / memory:.2f}, time x {longer / seconds:.2f}")


if __name__ == "__main__":
    main()
