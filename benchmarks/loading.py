"""Opening a 2 GB sharded folder of a Llama beside transformers, in one run.

    python benchmarks/loading.py                  # bfloat16 and float32 files
    python benchmarks/loading.py float32          # one of them

Both open the same folder, made here by transformers from random weights, in the
dtype it is stored in, and take turns. transformers maps the files and reads a
page when it is first used, so that the time of opening and one forward is given
too. Peak memory is that of a process of its own, files that are mapped not
counted (Linux). Ratios above 1 mean that we are faster.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
import torch
import transformers

from bert4keras3.models import build_transformer_model

SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 5632,
    "tie_word_embeddings": False,
}
# So many blocks that the files have 2 GB.
BLOCKS = {"bfloat16": 20, "float32": 9}
IDS = np.arange(1, 33, dtype="int32")[None]


def make_folder(folder, dtype):
    """Save a random model in shards of 500 MB; the size of the files in bytes."""
    config = transformers.LlamaConfig(**SHAPE, num_hidden_layers=BLOCKS[dtype])
    torch.set_default_dtype(getattr(torch, dtype))
    model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="500MB")
    return sum(p.numel() * p.element_size() for p in model.parameters())


def open_ours(folder, dtype):
    return build_transformer_model(folder, dtype=dtype, with_lm="linear")


def open_theirs(folder, dtype):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def use_ours(model):
    return model.predict_on_batch(IDS)


def use_theirs(model):
    with torch.inference_mode():
        return model(torch.tensor(IDS).long()).logits


def turn(open_model, use, folder, dtype):
    """Seconds to open the folder, and to open it and run once."""
    gc.collect()
    start = time.perf_counter()
    model = open_model(folder, dtype)
    opened = time.perf_counter() - start
    use(model)
    return opened, time.perf_counter() - start


def compare(folder, dtype, turns):
    """Time both in turns and print medians and their ratios."""
    pairs = {"ours": (open_ours, use_ours), "theirs": (open_theirs, use_theirs)}
    seconds = {name: [] for name in pairs}
    for count in range(turns + 1):
        for name, pair in pairs.items():
            taken = turn(*pair, folder, dtype)
            if count:  # the first turn warms up
                seconds[name].append(taken)
    for i, what in enumerate(("open", "open and one forward")):
        ours, theirs = (statistics.median(t[i] for t in seconds[name]) for name in pairs)
        print(f"{what + ', ' + dtype:32} {ours:9.2f} {theirs:13.2f} {theirs / ours:9.2f}")


MEMORY = """
import sys, threading, time
sys.path[:0] = {path!r}
import loading

def anonymous():
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)

loading.build_transformer_model(  # the backend's own start
    model="llama", vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
    intermediate_size=8, hidden_act="silu",
)
start, peak = anonymous(), [0]
threading.Thread(target=watch, daemon=True).start()
model = loading.{opener}({folder!r}, {dtype!r})
print(peak[0] - start)
"""


def peak_memory(opener, folder, dtype):
    """MiB that a process of its own takes at most, mapped files not counted."""
    code = MEMORY.format(path=sys.path[:1], opener=opener, folder=folder, dtype=dtype)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dtypes", nargs="*", metavar="DTYPE", help=f"any of {', '.join(BLOCKS)}")
    parser.add_argument("--turns", type=int, default=3, help="turns of each (default: 3)")
    arguments = parser.parse_args()
    for dtype in arguments.dtypes or BLOCKS:
        if dtype not in BLOCKS:
            parser.error(f"no dtype {dtype!r}: choose from {', '.join(BLOCKS)}")
    transformers.utils.logging.disable_progress_bar()
    print(f"{'median seconds':32} {'ours':>9} {'transformers':>13} {'ratio':>9}")
    for dtype in arguments.dtypes or BLOCKS:
        with tempfile.TemporaryDirectory() as folder:
            size = make_folder(folder, dtype) / 2**20
            largest = SHAPE["vocab_size"] * SHAPE["hidden_size"] * np.dtype("float32").itemsize
            largest /= 2**20 * (2 if dtype == "bfloat16" else 1)
            compare(folder, dtype, arguments.turns)
            peaks = [peak_memory(name, folder, dtype) for name in ("open_ours", "open_theirs")]
            limit = 1.1 * size + largest
            print(
                f"peak memory, {dtype}: ours {peaks[0]:.0f} MiB, transformers {peaks[1]:.0f} MiB; "
                f"model + largest tensor + 10 % = {limit:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
