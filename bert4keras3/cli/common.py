"""What the subcommands share: options, checks, writing of results."""

import argparse
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

# Said by TensorFlow's libraries when they are loaded, whatever log level is set.
START_NOISE = (b"messages before absl::InitializeLog()", b"oneDNN custom operations are on")
# Keras imports them where they are installed, which takes half of its start.
UNUSED = ("matplotlib", "sklearn")


def add_model_options(parser):
    """The options of everything that embeds texts."""
    parser.add_argument(
        "--model", required=True, metavar="FOLDER", help="a model in Hugging Face form"
    )
    parser.add_argument(
        "--input",
        default="-",
        metavar="FILE",
        help="UTF-8 text, one text a line; - or nothing for stdin",
    )
    parser.add_argument(
        "--pooling",
        choices=("mean", "cls"),
        help="mean of the tokens, or the first one's vector (default: as the model was trained)",
    )
    parser.add_argument(
        "--maxlen",
        type=positive,
        metavar="N",
        help="tokens of a text that count (default: as the model was trained)",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )


def add_quantize_option(parser):
    """The option of what generates texts."""
    parser.add_argument(
        "--quantize",
        choices=("int8", "int4"),
        help="keep the weights in 8 or 4 bits: less memory; 4 bits are less exact",
    )


def positive(text):
    """The type of an option that is a number from 1 on."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text!r}")
    return number


def utf8_text(text):
    """The type of an option that is any text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not UTF-8") from None
    return text


def query_text(text):
    """The type of an option that is a text to embed."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a text, found a blank one")
    return utf8_text(text)


def load_embedder(args, normalize=True):
    """The `SentenceEmbedder` of the options; imports Keras."""
    with keras_start():
        from bert4keras3.embedding import SentenceEmbedder

    return SentenceEmbedder(args.model, args.pooling, normalize, args.maxlen)


@contextmanager
def keras_start():
    """Where a command imports Keras: quietly, and without what no command has a use for."""
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None means: is not installed
    try:
        with without_start_noise():
            yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def without_start_noise():
    """Hold back what is written to stderr, and pass it on without the lines of `START_NOISE`."""
    try:
        stderr = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            lines = [line for line in held if not any(noise in line for noise in START_NOISE)]
            with open(2, "wb", closefd=False) as file:
                file.writelines(lines)


def check_model(folder):
    """Raise where there is no model folder, before anything slow is done."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no model folder at {folder}")


def check_output(path):
    """Raise where a file cannot be written at `path`, before anything slow is done."""
    folder = Path(path).parent
    if path == "-" or is_device(path):
        return
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: no folder {folder} to write it to")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path}: is a folder, expected a file name")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path}: no permission to write to {folder}")


def is_device(path):
    """Whether this is a pipe or a device such as /dev/null, which no file may replace."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


@contextmanager
def open_output(path):
    """A binary file to write: stdout for `-`, else one that appears whole or not at all."""
    if path == "-":
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if is_device(path):
        with open(path, "wb") as file:
            yield file
        return
    from bert4keras3.weights.atomic import atomic_path

    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


def json_line(record):
    """A dictionary as one line of JSON, in UTF-8."""
    import json

    return (json.dumps(record, ensure_ascii=False) + "\n").encode()
