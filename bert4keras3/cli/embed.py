"""`bert4keras3 embed`: the lines of a file become vectors."""

import argparse
import sys

from bert4keras3.cli.common import (
    add_model_options,
    check_model,
    check_output,
    json_line,
    load_embedder,
    open_output,
    read_lines,
)

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
        epilog=EPILOG,
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
    parser.set_defaults(run=run)


def run(args):
    """Embed the input and write the result."""
    form = args.format or ("npy" if args.output.endswith(".npy") else "jsonl")
    if form == "npy" and args.output == "-" and sys.stdout.isatty():
        raise argparse.ArgumentError(None, "--format npy needs an --output, or a pipe to go to")
    check_model(args.model)
    check_output(args.output)
    texts = read_lines(args.input)
    embedder = load_embedder(args, normalize=not args.no_normalize)
    embeddings = embedder.encode(texts, args.batch_size)
    with open_output(args.output) as file:
        WRITERS[form](file, texts, embeddings)


def write_npy(file, texts, embeddings):
    """The array alone, as numpy.load reads it."""
    import numpy as np

    np.save(file, embeddings)


def write_jsonl(file, texts, embeddings):
    """A record a text; the numbers have the digits that tell float32 numbers apart."""
    for text, embedding in zip(texts, embeddings, strict=True):
        numbers = [float(str(number)) for number in embedding]
        file.write(json_line({"text": text, "embedding": numbers}))


WRITERS = {"npy": write_npy, "jsonl": write_jsonl}
