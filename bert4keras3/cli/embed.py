"""`bert4keras3 embed`: the lines of a file become vectors."""

import argparse
import io
import sys

from bert4keras3.cli import batches
from bert4keras3.cli.common import add_model_options, check_model, json_line, load_embedder

EPILOG = """\
examples:
  bert4keras3 embed --model FOLDER --input texts.txt --output vectors.npy
  echo "Hello, world" | bert4keras3 embed --model FOLDER

A .npy file holds a float32 array (lines, hidden), to be read with numpy.load;
its row n is line n. jsonl is one {"text": ..., "embedding": [...]} a line.
Empty lines have an embedding, too.

"""


def add_command(commands):
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "embed",
        help="turn the lines of a text into vectors",
        description="Turn every line of a text into a vector.",
        epilog=EPILOG + batches.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    parser.add_argument("--output", default="-", metavar="FILE", help="- or nothing for stdout")
    parser.add_argument(
        "--format",
        choices=("npy", "jsonl"),
        help="default: npy where the output's name ends so, else jsonl",
    )
    parser.add_argument(
        "--no-normalize", action="store_true", help="leave the vectors' lengths as they are"
    )
    batches.add_batch_options(parser, block=1024)
    parser.set_defaults(run=run)


def run(args):
    """Embed the input and write the result."""
    args.format = args.format or ("npy" if args.output.endswith(".npy") else "jsonl")
    npy = args.format == "npy"
    if npy and args.output == "-" and sys.stdout.isatty():
        raise argparse.ArgumentError(None, "--format npy needs an --output, or a pipe to go to")
    check_model(args.model)
    join = join_npy if npy else batches.concatenate
    job = batches.Job(FORMS[args.format], args.model, needs_count=npy, join=join)
    batches.run_batches(args, job)


class Jsonl:
    """A record a text; the numbers have the digits that tell float32 numbers apart."""

    def __init__(self, args, kept):
        self.embedder = load_embedder(args, normalize=not args.no_normalize)
        self.batch_size = args.batch_size

    def header(self, count):
        """There is none."""
        return b""

    def write(self, texts, first):
        """The lines of some texts."""
        records = []
        embeddings = self.embedder.encode(texts, self.batch_size)
        for text, embedding in zip(texts, embeddings, strict=True):
            numbers = [float(str(number)) for number in embedding]
            records.append(json_line({"text": text, "embedding": numbers}))
        return b"".join(records)


class Npy(Jsonl):
    """The array alone, as numpy.load reads it."""

    def header(self, count):
        """What comes before so many rows."""
        return npy_header(count, self.embedder.hidden_size)

    def write(self, texts, first):
        """The rows of some texts."""
        return self.embedder.encode(texts, self.batch_size).astype("<f4").tobytes()


FORMS = {"npy": Npy, "jsonl": Jsonl}


def npy_header(rows, columns):
    """How a file with a float32 array begins."""
    from numpy.lib.format import write_array_header_1_0

    file = io.BytesIO()
    shape = (rows, columns)
    write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def join_npy(paths, file):
    """Join the arrays of shards, none of them in memory."""
    import numpy as np

    shards = [np.load(path, mmap_mode="r") for path in paths]
    file.write(npy_header(sum(map(len, shards)), shards[0].shape[1]))
    for shard in shards:
        for i in range(0, len(shard), 1024):
            file.write(shard[i : i + 1024].tobytes())
