"""From the start of a process to the first token and the first embedding, on JAX.

    python benchmarks/cold_start.py                 # two minutes
    python benchmarks/cold_start.py poet --turns 1

Each figure is of a process of its own, the first with an empty compilation cache, the others with
what it has left there; and what that time goes into: importing, opening the model, and the rest,
which is tracing and compiling the programs (or reading them from the cache), and running them.
The packaged poet has 4 layers, Llama 24 and BERT 12, 512 wide, with random weights. Medians.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from bert4keras3.data import POET

# What each process runs, as the commands `generate` and `embed` do: import, open, use.
START = "from bert4keras3.cli.common import keras_start\nwith keras_start():\n    "
GENERATE = (
    START + "from bert4keras3.generation import TextGenerator",
    "model = TextGenerator({folder!r})",
    "next(model.stream('床前明月光，', end_token=[]))",
)
EMBED = (
    START + "from bert4keras3.embedding import SentenceEmbedder",
    "model = SentenceEmbedder({folder!r})",
    "model.encode(['床前明月光，疑是地上霜。'])",
)
PROCESS = """
import json, sys, time
times = []
for line in {lines!r}:
    exec(line)
    times.append(time.time())
print(json.dumps(times))
"""
LLAMA = {
    "hidden_size": 512,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "intermediate_size": 1408,
}
BERT = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
}
MAKE = """
import json, sys
from bert4keras3.models import build_transformer_model
build_transformer_model(**json.loads(sys.argv[1]), return_keras_model=False).save_pretrained(
    sys.argv[2]
)
"""


def make_folders(root):
    """The models: {name: (folder, lines)}."""
    config = json.loads((POET / "config.json").read_text())
    shared = {"vocab_size": config["vocab_size"], "max_position": 256}
    llama = {"model": "llama", "hidden_act": "silu", "with_lm": "linear", **LLAMA, **shared}
    bert = {"model": "bert", "hidden_act": "gelu", **BERT, **shared}
    folders = {}
    for name, arguments in (("llama", llama), ("bert", bert)):
        folder = Path(root) / name
        folder.mkdir()
        subprocess.run([sys.executable, "-c", MAKE, json.dumps(arguments), folder], check=True)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(POET / file, folder)
        folders[name] = folder
    return {
        "poet": (POET, GENERATE),
        "llama": (folders["llama"], GENERATE),
        "bert": (folders["bert"], EMBED),
    }


def measure(folder, lines, cache):
    """Seconds of the parts of a process, and all together."""
    code = PROCESS.format(lines=[line.format(folder=str(folder)) for line in lines])
    environment = {**os.environ, "BERT4KERAS3_COMPILATION_CACHE": str(cache)}
    start = time.time()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    times = [start, *json.loads(done.stdout.splitlines()[-1])]
    return [b - a for a, b in zip(times, times[1:], strict=False)] + [times[-1] - start]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("poet", "llama", "bert")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"any of {', '.join(names)}")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    unknown = set(args.models) - set(names)
    if unknown:
        parser.error(f"no model {unknown.pop()!r}: choose from {', '.join(names)}")
    parts = ("import", "open", "run", "all")
    print(f"{'':16}" + "".join(f"{part:>9}" for part in parts))
    with tempfile.TemporaryDirectory() as root:
        models = make_folders(root)
        for name in args.models or names:
            cold, warm = [], []
            for turn in range(args.turns):
                cache = Path(root) / f"cache-{name}-{turn}"
                cold.append(measure(*models[name], cache))
                warm.append(measure(*models[name], cache))
            medians = [[statistics.median(x) for x in zip(*r, strict=True)] for r in (cold, warm)]
            for label, row in zip(("empty", "warm"), medians, strict=True):
                print(f"{name + ', ' + label:16}" + "".join(f"{x:9.2f}" for x in row))
            ratio = medians[1][-1] / medians[0][-1]
            print(f"{'':16}warm / empty: {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
