"""The options that say how tokens are chosen, of every command that generates."""

import argparse
import math

from bert4keras3.cli.common import positive

NAMES = (
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "no_repeat_ngram",
    "seed",
)


def add_choice_options(parser):
    """Add them to a parser."""
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        metavar="N",
        help="tokens to add at most (default: 128, or what the model has room for)",
    )
    parser.add_argument(
        "--temperature",
        type=number("a number from 0 on", lambda x: 0 <= x < math.inf),
        metavar="T",
        help="draw tokens; below 1 likelier ones, above 1 more surprising ones, 0 the likeliest",
    )
    parser.add_argument(
        "--top-k", type=positive, metavar="K", help="draw from the K likeliest tokens"
    )
    share = number("a number above 0 and up to 1", lambda x: 0 < x <= 1)
    parser.add_argument(
        "--top-p",
        type=share,
        metavar="P",
        help="draw from the likeliest tokens that have the probability P together",
    )
    parser.add_argument(
        "--min-p",
        type=share,
        metavar="P",
        help="draw from the tokens at least P times as likely as the likeliest",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=number("a number above 0", lambda x: 0 < x < math.inf),
        metavar="X",
        help="above 1: tokens that are there already become less likely",
    )
    parser.add_argument(
        "--no-repeat-ngram", type=positive, metavar="N", help="never the same N tokens twice"
    )
    parser.add_argument(
        "--seed",
        type=number("a whole number from 0 on", lambda x: x >= 0, int),
        metavar="N",
        help="draw the same again",
    )


def choices(args):
    """The options of `generate` that were given."""
    return {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}


def number(expected, fits, kind=float):
    """The type of an option that is a number for which `fits(number)` holds."""

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not fits(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
        return value

    return read
