"""`bert4keras3 generate`: a text goes on."""

import argparse
import math
from itertools import chain

from bert4keras3.cli.common import (
    check_model,
    check_output,
    json_line,
    open_output,
    positive,
    read_lines,
    without_start_noise,
)
from bert4keras3.data import POET

EPILOG = """\
examples:
  bert4keras3 generate --prompt 床前明月光，
  bert4keras3 generate --model FOLDER --prompt "Once upon a time" --temperature 0.8 --top-p 0.95
  bert4keras3 generate --model FOLDER --prompt "To be" --samples 3 --seed 1 --stop "."
  bert4keras3 generate --model FOLDER --input prompts.txt --format jsonl --output texts.jsonl

Prints prompt and continuation; that of a single --prompt appears as it comes.
The likeliest token is taken, unless --temperature, --top-k, --top-p, --min-p or
--samples asks for drawing. Blank lines of --input are skipped. jsonl is one
{"prompt": ..., "text": ...} a line and a sample; "text" is the continuation.
"""


def add_command(commands):
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continue a text, or every line of one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_text_options(parser)
    _add_choice_options(parser)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what to compute in, whatever the folder holds; default: %(default)s",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    parser.set_defaults(run=run)


def _add_text_options(parser):
    parser.add_argument(
        "--model", metavar="FOLDER", help="a model in Hugging Face form (default: a small poet)"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", type=utf8_text, metavar="TEXT", help="the text to continue")
    source.add_argument(
        "--input", metavar="FILE", help="UTF-8 text, one prompt a line; - for stdin"
    )
    parser.add_argument("--output", default="-", metavar="FILE", help="- or nothing for stdout")
    parser.add_argument(
        "--format", choices=("plain", "jsonl"), default="plain", help="default: %(default)s"
    )
    parser.add_argument(
        "--no-echo",
        "--no-prompt",
        action="store_true",
        help="print the continuation only, without the prompt",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=32,
        metavar="N",
        help="prompts of --input at a time, default: %(default)s",
    )


def _add_choice_options(parser):
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        metavar="N",
        help="tokens to add at most (default: 128, or what the model has room for)",
    )
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        type=utf8_text,
        metavar="TEXT",
        help="end before this text; may be given repeatedly",
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
        "--samples",
        type=positive,
        default=1,
        metavar="N",
        help="continuations of each prompt, one after another, drawn unless there are --beams",
    )
    parser.add_argument(
        "--beams", type=positive, default=1, metavar="N", help="beam search with N beams"
    )
    parser.add_argument(
        "--seed",
        type=number("a whole number from 0 on", lambda x: x >= 0, int),
        metavar="N",
        help="draw the same again",
    )


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


def utf8_text(text):
    """The type of an option that is any text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not UTF-8") from None
    return text


def run(args):
    """Continue the prompt or the lines, and write the result."""
    folder = _find_model(args.model)
    check_output(args.output)
    prompts = [args.prompt] if args.input is None else _read_prompts(args.input)
    generator = _load_generator(folder, args.dtype)
    single = args.input is None and args.samples == args.beams == 1
    if single and args.format == "plain":
        pieces = generator.stream(args.prompt, **_options(args))
        # Before anything is written: an error leaves no half of an output.
        first = next(pieces, "")
        with open_output(args.output) as file:
            _write_pieces(file, chain([_shown(args, args.prompt), first], pieces, "\n"))
        return
    texts = generator.generate(
        prompts,
        num_samples=args.samples,
        num_beams=args.beams,
        batch_size=args.batch_size,
        **_options(args),
    )
    with open_output(args.output) as file:
        for prompt, samples in zip(prompts, texts, strict=True):
            for text in [samples] if args.samples == 1 else samples:
                file.write(_record(args, prompt, text))


def _find_model(model):
    if model is not None:
        check_model(model)
    elif not POET.is_dir():
        raise FileNotFoundError(f"no packaged model at {POET}: give one, --model FOLDER")
    return POET if model is None else model


def _read_prompts(path):
    prompts = [line for line in read_lines(path) if line.strip()]
    if not prompts:
        name = "stdin" if path == "-" else path
        raise ValueError(f"{name}: no text to continue, all lines are blank")
    return prompts


def _load_generator(folder, dtype):
    """The `TextGenerator` of the options; imports Keras."""
    with without_start_noise():
        import keras

        from bert4keras3.generation import TextGenerator

    keras.config.set_dtype_policy(dtype)
    return TextGenerator(folder)


def _options(args):
    """What the options say about the choice of tokens; what is not given is left out."""
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p")
    names += ("repetition_penalty", "no_repeat_ngram", "seed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    draws = {"temperature", "top_k", "top_p", "min_p"} & set(given)
    if args.samples > 1 and args.beams == 1 and not draws:
        given["sampler"] = "random"
    return {**given, "stop": args.stop}


def _write_pieces(file, pieces):
    for piece in pieces:
        file.write(piece.encode())
        file.flush()


def _shown(args, prompt):
    return "" if args.no_echo else prompt


def _record(args, prompt, text):
    if args.format == "jsonl":
        return json_line({"prompt": prompt, "text": text})
    return f"{_shown(args, prompt)}{text}\n".encode()
