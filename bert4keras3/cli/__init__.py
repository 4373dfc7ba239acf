"""The command `bert4keras3`: `main` and what holds for every subcommand.

A subcommand is a module with `add_command(commands)`. Nothing here imports Keras
before the arguments are known to be right, so that `--help` is instant.
"""

import argparse
import os
import sys
import traceback

from bert4keras3 import __version__
from bert4keras3.cli import chat, convert, embed, generate, migrate, similar

COMMANDS = (embed, similar, generate, chat, convert, migrate)

EXAMPLES = """\
examples:
  bert4keras3 embed --model FOLDER --input texts.txt --output vectors.npy
  bert4keras3 similar --model FOLDER --query "How do I boil an egg?" --input texts.txt
  bert4keras3 generate --prompt 床前明月光，
  bert4keras3 chat --model FOLDER
  bert4keras3 convert FOLDER OTHER/bert.weights.h5
  bert4keras3 migrate train.py

FOLDER is a model in Hugging Face form: config.json, model.safetensors and
tokenizer.json or vocab.txt. The environment variable KERAS_BACKEND (jax,
tensorflow, torch) says what computes; else it is the first that is installed. On JAX,
compiled programs are kept for the next command in the user's cache folder, unless
BERT4KERAS3_COMPILATION_CACHE is 0; or a folder of your own, if it names one.
"""

# For those who have not set them: no information and warnings of TensorFlow's start, and
# programs that are compiled once.
DEFAULTS = {"TF_CPP_MIN_LOG_LEVEL": "2", "BERT4KERAS3_COMPILATION_CACHE": "1"}

FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


class Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message):
        self.exit(USAGE, f"bert4keras3: error: {message} (see {self.prog} --help)\n")

    def format_help(self):
        # The examples have Chinese, and not every terminal has.
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        return super().format_help().encode(encoding, "replace").decode(encoding)


def build_parser():
    """The parser of the whole command line."""
    parser = Parser(
        prog="bert4keras3",
        description="Text transformers: embeddings, similarity, generation, chats, conversion.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bert4keras3 {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands"
    )
    for command in COMMANDS:
        command.add_command(commands)
    return parser


def main(argv=None):
    """Run the command line.

    Args:
        argv: its arguments, those of the process by default.

    Returns:
        The exit status: 0, or what the subcommand says; 1 after a failure, 130 after Ctrl-C,
        141 when the reader of the output has gone. Wrong usage exits with 2.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        status = args.run(args)
        sys.stdout.flush()
    except argparse.ArgumentError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _abandon_stdout()
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        print(f"bert4keras3: error: {_in_one_line(error)}", file=sys.stderr)
        return FAILED
    return status or 0


def _abandon_stdout():
    # Otherwise Python complains when it flushes stdout at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _in_one_line(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    message = " ".join(str(error).split())
    if isinstance(error, (OSError, ValueError, TypeError, ImportError)) and message:
        return message
    return f"{type(error).__name__}: {message} (--debug shows where)"
