"""`bert4keras3 chat`: talk to a chat model in the terminal."""

import argparse
import sys

from bert4keras3.cli.choices import add_choice_options, choices
from bert4keras3.cli.common import add_quantize_option, check_model, keras_start, utf8_text

EPILOG = """\
examples:
  bert4keras3 chat --model FOLDER
  bert4keras3 chat --model FOLDER --system "Answer in one sentence." --temperature 0.7

The folder needs a chat template (chat_template.jinja, or chat_template in
tokenizer_config.json). Replies appear as they come; each turn computes only what
is new. In the chat:
  /reset   begin anew
  /exit    leave, as Ctrl-D does
  Ctrl-C   stops a reply; while you write, it leaves
"""
RESET, EXIT = "/reset", "/exit"


def add_command(commands):
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "chat",
        help="talk to a chat model",
        description="Talk to a chat model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", required=True, metavar="FOLDER", help="a chat model in Hugging Face form"
    )
    parser.add_argument(
        "--system", type=utf8_text, metavar="TEXT", help="what the model is told beforehand"
    )
    add_choice_options(parser)
    add_quantize_option(parser)
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    parser.set_defaults(run=run)


def run(args):
    """Talk until the input ends."""
    check_model(args.model)
    with keras_start():
        from bert4keras3.generation import Chat

        chat = Chat(args.model, system=args.system, quantization=args.quantize, **choices(args))
    while True:
        text = _ask()
        if text is None or text == EXIT:
            return
        if text == RESET:
            chat.reset()
            _say("(begun anew)\n")
        elif text:
            _reply(chat, text)


def _ask():
    """A line of the user, None at the end of the input."""
    try:
        return input("> ").strip()
    except EOFError:
        _say("\n")
        return None


def _reply(chat, text):
    """Print a reply as it comes; Ctrl-C ends it, and an error does not end the chat."""
    try:
        pieces = chat.stream(text)
    except ValueError as error:
        print(f"bert4keras3: {error}", file=sys.stderr)
        return
    try:
        for piece in pieces:
            _say(piece)
    except KeyboardInterrupt:
        pieces.close()
        _say(" (stopped)")
    _say("\n")


def _say(text):
    print(text, end="", flush=True)
