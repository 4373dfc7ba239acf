"""`bert4keras3 convert`: a model in one form becomes the same model in another."""

import argparse
import json
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

from bert4keras3.cli.common import check_model, check_output, keras_start
from bert4keras3.converting.forms import FORMS, H5, HF, check_free, find_target

EPILOG = """\
examples:
  bert4keras3 convert FOLDER OTHER/bert.weights.h5
  bert4keras3 convert FOLDER OTHER/bert_model.ckpt
  bert4keras3 convert FOLDER OTHER --dtype bfloat16 --max-shard-size 2GB
  bert4keras3 convert GEMMA_PRESET_OF_KERAS_HUB FOLDER
  bert4keras3 convert --config bert_config.json --checkpoint bert_model.ckpt --model bert FOLDER
  bert4keras3 convert --config config.json --weights llama.weights.h5 FOLDER

The target's name says its form: a folder is in Hugging Face form, *.weights.h5
is Keras', *.ckpt TensorFlow's. Beside the latter two goes config.json, with
which build_transformer_model(config.json, ...) makes the model; it is a source
in its turn. Tokenizer files come along. Options may not stand between SOURCE
and TARGET.
"""
# What convert itself says to build_transformer_model.
OWN = ("config_path", "checkpoint_path", "keras_weights_path", "model", "return_keras_model")
OWN += ("initial", "head")
SHOWN = 20


def add_command(commands):
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "convert",
        help="turn a model's files into another form",
        description="Turn a model's files into another form, without changing a number.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_source(parser)
    _add_target(parser)
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    parser.set_defaults(run=run)


def _add_source(parser):
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a folder in Hugging Face form, or a Gemma preset of keras-hub",
    )
    parser.add_argument("--config", metavar="FILE", help="in the place of SOURCE: a configuration")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="and its weights: the prefix of a TensorFlow checkpoint, a .safetensors or .bin file",
    )
    weights.add_argument("--weights", metavar="FILE", help="or a .weights.h5 file")
    parser.add_argument(
        "--model", metavar="KEY", help="and its family, e.g. bert, where the file does not say"
    )
    parser.add_argument(
        "--head",
        default="auto",
        metavar="HEAD",
        help="auto (default): the outputs the source has tensors for; none; or a task, "
        "e.g. sequence_classification",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=option,
        metavar="NAME=VALUE",
        help="an argument of build_transformer_model, JSON or a text; may be given repeatedly",
    )


def _add_target(parser):
    parser.add_argument("target", metavar="TARGET", help="what to write")
    parser.add_argument("--to", choices=FORMS, help="the target's form, whatever its name")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="what to store (default: as the source; float32 where it has several)",
    )
    parser.add_argument(
        "--max-shard-size", metavar="SIZE", help="of a folder's files (default: 5GB)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="fail where a tensor of the source has no place"
    )
    parser.add_argument("--force", action="store_true", help="replace what is at the target")
    parser.add_argument(
        "--no-verify", action="store_true", help="do not read back what was written"
    )


def option(text):
    """The type of an option `name=value`."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    if name in OWN:
        raise argparse.ArgumentTypeError(f"{name} is not to be given here, see --help")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def run(args):
    """Convert, and say what was done."""
    _check_source(args)
    target = _check_target(args)
    with keras_start():
        from bert4keras3.converting import building, companions, outputs, targets, verifying
        from bert4keras3.converting.progress import Progress

    # The rows of a table that was cut are not those of the tokenizer.
    cut = any(name in ("keep_tokens", "compound_tokens") for name, _ in args.option)
    files = {} if cut else companions.find_companions(args.source or Path(args.config).parent)
    companions.check_companions(files, target.folder, args.force)
    progress = Progress()
    with _warnings_in_one_line(), _open(args) as origin:
        dtype, found = building.choose_dtype(origin.source)
        transformer = building.build(origin, args.dtype or dtype, progress)
        _report_lost(outputs.find_lost(transformer, origin.source), origin.source, args.strict)
        config = targets.check_config(transformer, origin.model, target, args.force)
        targets.write(transformer, target, config, args.max_shard_size or "5GB", progress)
    companions.copy_companions(files, target.folder)
    _report_written(target, transformer, args.dtype or dtype, found)
    _report_beside(target, config, files)
    if not args.no_verify:
        count = verifying.verify(transformer, target, progress)
        print(f"verified: all {count} weights read back bit by bit")


def _check_source(args):
    by_files = args.config, args.checkpoint or args.weights
    if args.source is not None:
        if any((*by_files, args.model)):
            message = (
                "SOURCE, a folder, says all that --config, --checkpoint, --weights, --model do"
            )
            raise argparse.ArgumentError(None, message)
        check_model(args.source)
    elif not all(by_files):
        message = "expected SOURCE, or --config with --checkpoint or --weights"
        raise argparse.ArgumentError(None, message)
    elif args.weights is not None and not args.weights.endswith((".h5", ".hdf5")):
        raise ValueError(f"{args.weights}: expected a .weights.h5 file, else give --checkpoint")
    for path in (args.config, args.weights):
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"no file at {path}")


def _check_target(args):
    target = find_target(args.target, args.to)
    if args.max_shard_size is not None and target.form != HF:
        raise argparse.ArgumentError(None, "--max-shard-size is of folders in Hugging Face form")
    if args.source is not None and target.folder.resolve() == Path(args.source).resolve():
        raise ValueError(f"{target.folder}: is the source's folder, whose config.json must stay")
    if target.form != HF:
        # A folder that is missing is made, as for Hugging Face's form.
        check_output(args.target if target.folder.exists() else str(target.folder))
    check_free(target, args.force)
    return target


def _open(args):
    from bert4keras3.converting.origins import open_files, open_folder

    options = dict(args.option)
    if args.source is not None:
        return open_folder(args.source, args.head, options)
    weights = args.checkpoint or args.weights
    return open_files(args.config, weights, args.model, args.head, options)


@contextmanager
def _warnings_in_one_line():
    def show(message, category, filename, lineno, file=None, line=None):
        print(f"bert4keras3: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def _report_lost(lost, source, strict):
    if not lost:
        return
    text = f"{source.path}: {len(lost)} tensors have no place in the model"
    if strict:
        raise ValueError(f"{text}: {', '.join(lost[:SHOWN])}")
    print(f"bert4keras3: warning: {text} and are left out:", file=sys.stderr)
    for name in lost[:SHOWN]:
        print(f"  {name} {source.shape(name)}", file=sys.stderr)
    if len(lost) > SHOWN:
        print(f"  and {len(lost) - SHOWN} more", file=sys.stderr)


def _report_written(target, transformer, dtype, found):
    stored = dtype if found == [dtype] else f"{dtype} (the source: {', '.join(found)})"
    count, numbers = len(transformer.model.weights), transformer.model.count_params()
    print(f"wrote {target.path}: {count} weights, {numbers} numbers, {stored}")


def _report_beside(target, config, files):
    if config is not None:
        keyword = "keras_weights_path" if target.form == H5 else "checkpoint_path"
        arguments = {"config_path": str(target.config_path), keyword: str(target.path)}
        arguments |= {key: config[key] for key in ("model", "application") if key in config}
        call = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        print(f"wrote {target.config_path}: build_transformer_model({call})")
    if files:
        print(f"copied {', '.join(files)}")
