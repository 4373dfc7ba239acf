"""`bert4keras3 generate`: a text goes on, or is answered."""

import argparse
import random
from itertools import chain

from bert4keras3.cli import batches
from bert4keras3.cli.choices import add_choice_options, choices
from bert4keras3.cli.common import (
    add_quantize_option,
    check_model,
    check_output,
    json_line,
    keras_start,
    open_output,
    positive,
    utf8_text,
)
from bert4keras3.data import POET

EPILOG = """\
examples:
  bert4keras3 generate --prompt 床前明月光，
  bert4keras3 generate --model FOLDER --prompt "Once upon a time" --temperature 0.8 --top-p 0.95
  bert4keras3 generate --model FOLDER --prompt "To be" --samples 3 --seed 1 --stop "."
  bert4keras3 generate --model FOLDER --input prompts.txt --format jsonl --output texts.jsonl

Prints prompt and continuation; that of a single --prompt appears as it comes. A
text-to-text model (T5) makes another text of the prompt, and only that is printed.
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
        epilog=EPILOG + batches.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_text_options(parser)
    _add_search_options(parser)
    add_choice_options(parser)
    batches.add_batch_options(parser, block=128)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what to compute in, whatever the folder holds; default: %(default)s",
    )
    add_quantize_option(parser)
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


def _add_search_options(parser):
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        type=utf8_text,
        metavar="TEXT",
        help="end before this text; may be given repeatedly",
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


def run(args):
    """Continue the prompt or the lines, and write the result."""
    folder = _find_model(args.model)
    seed = random.getrandbits(32) if args.seed is None else args.seed
    job = batches.Job(Writer, folder, kept={"seed": seed}, skips_blank=True)
    if args.input is not None:
        batches.run_batches(args, job)
        return
    if args.shard or args.ray or args.restart:
        raise argparse.ArgumentError(None, "--shard, --ray and --restart go with --input")
    check_output(args.output)
    writer = Writer(args, job.kept)
    if args.samples == args.beams == 1 and args.format == "plain":
        pieces = writer.pieces(args.prompt)
    else:
        pieces = [writer.write([args.prompt], 0)]
    with open_output(args.output) as file:
        for piece in pieces:
            file.write(piece)
            file.flush()


def _find_model(model):
    if model is not None:
        check_model(model)
    elif not POET.is_dir():
        raise FileNotFoundError(f"no packaged model at {POET}: give one, --model FOLDER")
    return POET if model is None else model


class Writer:
    """What becomes of prompts, in the form that the options ask for; imports Keras."""

    def __init__(self, args, kept):
        with keras_start():
            import keras

            from bert4keras3.generation import TextGenerator

        keras.config.set_dtype_policy(args.dtype)
        self.args = args
        self.generator = TextGenerator(args.model or POET, quantization=args.quantize)
        self.options = {**_options(args), **kept}

    def header(self, count):
        """There is none."""
        return b""

    def write(self, prompts, first):
        """The texts of some prompts."""
        texts = self.generator.generate(
            prompts,
            num_samples=self.args.samples,
            num_beams=self.args.beams,
            batch_size=self.args.batch_size,
            first_prompt=first,
            progress=False,
            **self.options,
        )
        return b"".join(
            self._record(prompt, text)
            for prompt, samples in zip(prompts, texts, strict=True)
            for text in ([samples] if self.args.samples == 1 else samples)
        )

    def pieces(self, prompt):
        """The text of one prompt in pieces, as they come."""
        pieces = self.generator.stream(prompt, **self.options)
        # Before anything is written: an error leaves no half of an output.
        first = next(pieces, "")
        return map(str.encode, chain([self._shown(prompt), first], pieces, "\n"))

    def _shown(self, prompt):
        return prompt if self.generator.continues and not self.args.no_echo else ""

    def _record(self, prompt, text):
        if self.args.format == "jsonl":
            return json_line({"prompt": prompt, "text": text})
        return f"{self._shown(prompt)}{text}\n".encode()


def _options(args):
    """What the options say about the choice of tokens; what is not given is left out."""
    given = choices(args)
    draws = {"temperature", "top_k", "top_p", "min_p"} & set(given)
    if args.samples > 1 and args.beams == 1 and not draws:
        given["sampler"] = "random"
    return {**given, "stop": args.stop}
