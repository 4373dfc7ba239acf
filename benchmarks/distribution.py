"""A Llama over several devices: memory of each, and two processes against one.

    python benchmarks/distribution.py

The devices are virtual ones of the CPU, 8 in all. Printed are the bytes of the weights
on the fullest device for a model split over 1, 2, 4 and 8 of them, loaded from a folder,
and the largest array that loading made; then the losses of training and the tokens of
generation, in one process with 8 devices and in two, joined over loopback, with 4 each.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=" + (
    "4" if os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES") == "2" else "8"
)

import jax
import keras
import numpy as np

from bert4keras3 import sharding
from bert4keras3.distribution import memory_per_device, model_parallel
from bert4keras3.models import build_transformer_model

PROCESSES = int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", 1))
SHAPE = {
    "model": "llama",
    "vocab_size": 32000,
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "query_head": 8,
    "attention_head_size": 64,
    "intermediate_size": 1408,
    "hidden_act": "silu",
    "max_position": 256,
    "with_lm": "linear",
}
MB = 2**20


def make_folder(folder):
    """Save a random model."""
    keras.utils.set_random_seed(0)
    build_transformer_model(**SHAPE, return_keras_model=False).save_pretrained(folder)


def load(folder, model, data=1):
    """The model, split over devices."""
    keras.distribution.set_distribution(None)
    model_parallel(model=model, data=data)
    return build_transformer_model(folder, with_lm="linear", return_keras_model=False)


def memory(folder, model):
    """(bytes on the fullest device, bytes of the largest array that was read)."""
    sizes, own = [0], sharding._own
    sharding._own = lambda part, dtype: sizes.append(part.nbytes) or own(part, dtype)
    try:
        return max(memory_per_device(load(folder, model)).values()), max(sizes)
    finally:
        sharding._own = own


def job(folder):
    """Losses of training, tokens of generation."""
    if PROCESSES > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize()
    keras.utils.set_random_seed(0)
    transformer = load(folder, model=4, data=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    transformer.model.compile(keras.optimizers.AdamW(1e-4), loss)
    ids = np.random.default_rng(0).integers(3, 32000, (8, 33))
    # Batches of 4 rows, of which each of two processes has 2.
    own = ids.reshape(2, PROCESSES, -1, 33)[:, jax.process_index()].reshape(-1, 33)
    history = transformer.model.fit(
        own[:, :-1], own[:, 1:], batch_size=len(own) // 2, epochs=3, shuffle=False, verbose=0
    )
    tokens = transformer.generate([ids[0, :16].tolist(), ids[1, :9].tolist()], 16)
    return {"losses": history.history["loss"], "tokens": tokens}


def start(folder, processes, number):
    """The job in a process of its own."""
    environment = os.environ | {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{PORT}",
        "KERAS_DISTRIBUTION_NUM_PROCESSES": str(processes),
        "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
    }
    command = [sys.executable, __file__, folder]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def results(folder, processes):
    """What each of so many processes found."""
    started = [start(folder, processes, number) for number in range(processes)]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]


def main():
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder)
        print("weights of a Llama on the fullest of 8 devices, loaded from a folder")
        whole = None
        for model in (1, 2, 4, 8):
            bytes_, largest = memory(folder, model)
            whole = whole or bytes_
            print(
                f"  split over {model}: {bytes_ / MB:7.1f} MB, {bytes_ / whole:5.3f} of the whole; "
                f"largest array read {largest / MB:5.1f} MB"
            )
        keras.distribution.set_distribution(None)
        (one,), two = results(folder, 1), results(folder, 2)
    print("training and generation, model=4, data=2")
    print(f"  one process with 8 devices, losses: {one['losses']}")
    print(f"  two processes with 4 each, losses:  {two[0]['losses']}")
    difference = np.abs(np.subtract(one["losses"], two[0]["losses"])).max()
    print(f"  largest difference: {difference:.2e}; both processes agree: {two[0] == two[1]}")
    print(f"  tokens equal: {one['tokens'] == two[0]['tokens']} ({one['tokens'][0][:8]} ...)")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(job(sys.argv[1])))
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            PORT = free.getsockname()[1]
        main()
