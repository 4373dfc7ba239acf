"""BERT-base beside transformers on torch, in one run: forward, training step, loading.

    python benchmarks/encoder.py                  # everything
    python benchmarks/encoder.py forward train    # parts of it

Ours runs on the backend KERAS_BACKEND says (jax by default), transformers on
torch; both get all cores, random weights of the same shape and the same inputs,
and take turns, so that a machine whose speed drifts does so for both. Ratios
above 1 mean that we are faster.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import torch
import transformers

from bert4keras3.models import build_transformer_model

BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
SIZES = ((1, 32), (8, 128), (32, 128))


def compare(name, ours, theirs, turns):
    """Time two functions in turns and print medians and their ratio.

    A turn is one run that is not timed, as the other library has just had the
    caches, the memory and the threads, and two that are.
    """
    times = {ours: [], theirs: []}
    for _ in range(turns):
        for function, seconds in times.items():
            function()
            for _ in range(2):
                start = time.perf_counter()
                function()
                seconds.append(time.perf_counter() - start)
    mine, peer = (statistics.median(seconds) for seconds in times.values())
    print(f"{name:24} {mine:9.4f} {peer:13.4f} {peer / mine:9.2f}", flush=True)


def batch(rows, length):
    tokens = np.random.default_rng(0).integers(1000, 30000, (rows, length)).astype("int32")
    return tokens, np.zeros_like(tokens)


def forward(turns):
    ours = build_transformer_model(**BASE)
    config = transformers.BertConfig(**BASE)
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    for rows, length in SIZES:
        tokens, segments = batch(rows, length)
        arguments = {
            "input_ids": torch.tensor(tokens).long(),
            "token_type_ids": torch.tensor(segments).long(),
            "attention_mask": torch.ones(rows, length, dtype=torch.long),
        }

        def run_theirs(arguments=arguments):
            with torch.inference_mode():
                theirs(**arguments)

        def run_ours(inputs=(tokens, segments)):
            ours.predict_on_batch(list(inputs))

        compare(f"forward {rows} x {length}", run_ours, run_theirs, turns)


def train(turns):
    """One AdamW step of a two-class classifier on the first token, 8 x 128, with dropout."""
    bert = build_transformer_model(**BASE, return_keras_model=False)
    first = keras.ops.take(bert.output, 0, axis=1)
    ours = keras.Model(bert.inputs, keras.layers.Dense(2)(first))
    ours.compile(
        keras.optimizers.AdamW(2e-5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    theirs = torch.nn.ModuleDict(
        {
            "bert": transformers.BertModel(
                transformers.BertConfig(**BASE), add_pooling_layer=False
            ),
            "head": torch.nn.Linear(768, 2),
        }
    ).train()
    optimizer = torch.optim.AdamW(theirs.parameters(), 2e-5)
    tokens, segments = batch(8, 128)
    labels = np.arange(8) % 2
    ids, types, targets = (torch.tensor(x).long() for x in (tokens, segments, labels))

    def run_ours():
        ours.train_on_batch([tokens, segments], labels)

    def run_theirs():
        optimizer.zero_grad()
        hidden = theirs["bert"](ids, torch.ones_like(ids), types).last_hidden_state
        torch.nn.functional.cross_entropy(theirs["head"](hidden[:, 0]), targets).backward()
        optimizer.step()

    compare("AdamW step 8 x 128", run_ours, run_theirs, turns)


def load(turns):
    """Filling a model that is built already from a 440 MB safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        config = transformers.BertConfig(**BASE)
        transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
        ours = build_transformer_model(**BASE, return_keras_model=False)

        def run_ours():
            ours.load_weights_from_checkpoint(folder)

        def run_theirs():
            transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)

        # transformers maps the file; its pages are read when first used.
        tokens, segments = batch(1, 32)
        ids = torch.tensor(tokens).long()

        def use_ours():
            run_ours()
            ours.model.predict_on_batch([tokens, segments])

        def use_theirs():
            model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
            with torch.inference_mode():
                model(ids)

        compare("load 440 MB", run_ours, run_theirs, turns)
        compare("load and forward 1 x 32", use_ours, use_theirs, turns)


MEMORY = """
import threading, time
import bert4keras3.models as models

def anonymous():
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)

models.build_transformer_model(**{tiny!r})  # the backend's own start
start, peak = anonymous(), [0]
threading.Thread(target=watch, daemon=True).start()
model = models.build_transformer_model({folder!r})
used = peak[0] - start
sizes = [v.numpy().nbytes / 2**20 for v in model.weights]
print(used, sum(sizes), max(sizes))
"""


def memory(turns):
    """Peak memory of building and filling a model, mapped files not counted (Linux)."""
    with tempfile.TemporaryDirectory() as folder:
        config = transformers.BertConfig(**BASE)
        transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
        tiny = {**BASE, "vocab_size": 9, "hidden_size": 24, "intermediate_size": 24}
        code = MEMORY.format(tiny=tiny, folder=folder)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    peak, model, largest = (float(x) for x in done.stdout.split())
    limit = 1.1 * model + largest
    print(f"peak memory {peak:.0f} MiB; model + largest tensor + 10 % = {limit:.0f} MiB")


def imports(turns):
    """What `import bert4keras3.models` adds to `import keras`."""
    code = (
        "import time, keras; start = time.perf_counter(); import bert4keras3.models;"
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    seconds = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(turns)
    ]
    print(f"import bert4keras3.models over import keras: {statistics.median(seconds):.3f} s")


PARTS = {"forward": forward, "train": train, "load": load, "memory": memory, "imports": imports}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}")
    parser.add_argument("--turns", type=int, default=4, help="turns of each (default: 4)")
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        if part not in PARTS:
            parser.error(f"no part {part!r}: choose from {', '.join(PARTS)}")
    transformers.utils.logging.disable_progress_bar()
    print(
        f"keras {keras.__version__} on {keras.backend.backend()}, "
        f"transformers {transformers.__version__} on torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'median seconds':24} {'ours':>9} {'transformers':>13} {'ratio':>9}")
    for part in arguments.parts or PARTS:
        PARTS[part](arguments.turns)


if __name__ == "__main__":
    main()
