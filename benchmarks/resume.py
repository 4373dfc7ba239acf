"""Embeds a file of 100,000 lines with a tiny model; kills the process three times, and goes on.

    KERAS_BACKEND=jax python benchmarks/resume.py                  # two minutes
    python benchmarks/resume.py --lines 10000 --format jsonl

`bert4keras3 embed` runs once undisturbed, and once killed by SIGKILL at moments drawn at random and
given again each time. The outputs must be the same, byte by byte, and those of the file's lines in
their order. Peak memory is that of the undisturbed process (Linux), beside that of one of 1,000
lines: it must not grow with the file.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from bert4keras3.models import build_transformer_model

WORDS = (
    "a quick brown fox jumps over the lazy dog and cat sits on mat again until it is tired".split()
)
KILLS = 3


def make_model(folder):
    """A random BERT of two blocks, in Hugging Face form."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    bert = build_transformer_model(
        model="bert",
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_act="gelu",
        max_position=64,
        return_keras_model=False,
    )
    bert.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")


def make_lines(path, count, rng):
    """Lines of 0 to 30 words."""
    with open(path, "w") as file:
        for _ in range(count):
            file.write(" ".join(rng.choices(WORDS, k=rng.randrange(31))) + "\n")


def command(folder, texts, output):
    return [
        *(sys.executable, "-m", "bert4keras3", "embed", "--model", str(folder)),
        *("--input", str(texts), "--output", str(output)),
    ]


def run(arguments):
    """Seconds and peak MiB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(arguments)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def run_killed(arguments, journal, moments):
    """Start a process again and again, and kill it so many seconds after its first new block."""
    for seconds in moments:
        before = texts_done(journal)
        process = subprocess.Popen(arguments)
        while texts_done(journal) <= before and process.poll() is None:
            time.sleep(0.001)
        time.sleep(seconds)
        if process.poll() is not None:
            sys.exit("it was done before it was killed: take more --lines")
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed after {texts_done(journal)} lines", flush=True)
    run(arguments)


def texts_done(journal):
    """How far an unfinished run has come."""
    if not journal.exists():
        return 0
    progress = json.loads(journal.read_text())["progress"]
    return progress["texts"] if progress else 0


def compare(folder, texts, output, whole):
    """Exit where the output is not complete, in order and what it should be."""
    if output.read_bytes() != whole.read_bytes():
        sys.exit("the outputs differ")
    if output.suffix != ".npy":
        return
    from bert4keras3.embedding import SentenceEmbedder

    lines, vectors = texts.read_text().splitlines(), np.load(output, mmap_mode="r")
    if len(vectors) != len(lines):
        sys.exit(f"{len(lines)} lines, {len(vectors)} vectors")
    some = random.Random(1).sample(range(len(lines)), min(500, len(lines)))
    expected = SentenceEmbedder(folder).encode([lines[i] for i in some])
    np.testing.assert_allclose(vectors[some], expected, atol=1e-5)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--format", choices=("npy", "jsonl"), default="npy")
    parser.add_argument(
        "--seed", type=int, help="of lines and moments, by default another each time"
    )
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name  # for compiled programs
        folder = Path(name) / "model"
        folder.mkdir()
        make_model(folder)
        texts, few = Path(name) / "texts.txt", Path(name) / "few.txt"
        make_lines(texts, args.lines, rng)
        make_lines(few, 1000, rng)
        whole, output = (Path(name) / f"{x}.{args.format}" for x in ("whole", "killed"))
        few_vectors = Path(name) / f"few.{args.format}"
        run(command(folder, few, few_vectors))  # compiles
        start, base = run(command(folder, few, few_vectors))
        seconds, peak = run(command(folder, texts, whole))
        rate = (args.lines - 1000) / (seconds - start)
        print(
            f"{args.lines} lines in {seconds:.1f} s, {rate:.0f} lines a second after the start of "
            f"{start:.1f} s; peak memory {peak:.0f} MiB, with 1,000 lines {base:.0f} MiB",
            flush=True,
        )
        # So that the kills come before the work is done.
        work = (seconds - start) / (KILLS + 2)
        moments = [rng.uniform(0, work) for _ in range(KILLS)]
        journal = output.with_name(f"{output.name}.part.json")
        run_killed(command(folder, texts, output), journal, moments)
        compare(folder, texts, output, whole)
        print(f"{KILLS} times killed and begun again: complete, in order, the same bytes")


if __name__ == "__main__":
    main()
