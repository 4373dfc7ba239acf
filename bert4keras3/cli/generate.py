"""`bert4keras3 generate`: a text goes on, or is answered."""

import argparse
from itertools import chain

from bert4keras3.cli.choices import add_choice_options, choices
from bert4keras3.cli.common import (
    add_quantize_option,
    check_model,
    check_output,
    json_line,
    open_output,
    positive,
    read_lines,
    utf8_text,
    without_start_noise,
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
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_text_options(parser)
    _add_search_options(parser)
    add_choice_options(parser)
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
    check_output(args.output)
    prompts = [args.prompt] if args.input is None else _read_prompts(args.input)
    generator = _load_generator(folder, args.dtype, args.quantize)

    def shown(prompt):
        return prompt if generator.continues and not args.no_echo else ""

    single = args.input is None and args.samples == args.beams == 1
    if single and args.format == "plain":
        pieces = generator.stream(args.prompt, **_options(args))
        # Before anything is written: an error leaves no half of an output.
        first = next(pieces, "")
        with open_output(args.output) as file:
            _write_pieces(file, chain([shown(args.prompt), first], pieces, "\n"))
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
                file.write(_record(args.format, prompt, text, shown))


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


def _load_generator(folder, dtype, quantization):
    """The `TextGenerator` of the options; imports Keras."""
    with without_start_noise():
        import keras

        from bert4keras3.generation import TextGenerator

    keras.config.set_dtype_policy(dtype)
    return TextGenerator(folder, quantization=quantization)


def _options(args):
    """What the options say about the choice of tokens; what is not given is left out."""
    given = choices(args)
    draws = {"temperature", "top_k", "top_p", "min_p"} & set(given)
    if args.samples > 1 and args.beams == 1 and not draws:
        given["sampler"] = "random"
    return {**given, "stop": args.stop}


def _write_pieces(file, pieces):
    for piece in pieces:
        file.write(piece.encode())
        file.flush()


def _record(form, prompt, text, shown):
    if form == "jsonl":
        return json_line({"prompt": prompt, "text": text})
    return f"{shown(prompt)}{text}\n".encode()
