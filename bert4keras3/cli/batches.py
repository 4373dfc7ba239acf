"""Lines through a model, block by block: in constant memory, resumable, whole or in shards."""

import argparse
import hashlib
import os
import shutil
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bert4keras3 import __version__
from bert4keras3._environment import select_backend
from bert4keras3.cli.common import check_output, is_device, open_output, positive
from bert4keras3.cli.lines import Place, open_lines, spooled

# Arguments that change nothing about what is written, or are compared by their content.
APART = {"command", "run", "debug", "restart", "ray", "shard", "input", "output", "model", "prompt"}

# A file of weights is known by so many samples of so many bytes; smaller ones by all.
SAMPLES, SAMPLE = 256, 1 << 16

EPILOG = """\
Large files: memory is constant, and where --input and --output are files, a command that was
killed goes on where it was when it is given again. --shard 2/4 takes the second of four parts.
"""


def concatenate(paths, file):
    """Join the outputs of shards, one behind the other."""
    for path in paths:
        with open(path, "rb") as part:
            shutil.copyfileobj(part, file, 1 << 20)


@dataclass(frozen=True)
class Job:
    """What a command makes of lines.

    Attributes:
        load: function of (args, kept) that gives a worker; imports Keras. The worker has
            `header(count)`, how the output begins, and `write(texts, first)`, what becomes of
            texts, `first` of which come before: both bytes.
        model: the folder.
        kept: what a run that was killed goes on with, e.g. a seed.
        skips_blank: blank lines are no texts.
        needs_count: the header needs the number of texts.
        join: function of (paths, file) that makes one output of those of all shards.
    """

    load: object
    model: str | Path
    kept: dict = field(default_factory=dict)
    skips_blank: bool = False
    needs_count: bool = False
    join: object = concatenate


def add_batch_options(parser, block):
    """The options for files of any size."""
    group = parser.add_argument_group("large files")
    group.add_argument(
        "--block",
        type=positive,
        default=block,
        metavar="N",
        help="lines that are computed, and safe from a kill, together; default: %(default)s",
    )
    group.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="take the I-th of N parts of --input only, e.g. 2/4",
    )
    group.add_argument(
        "--ray",
        type=positive,
        metavar="N",
        help="compute N shards as tasks of ray, on this machine or a cluster, and join them",
    )
    group.add_argument(
        "--restart",
        action="store_true",
        help="begin anew, where a killed run has left an unfinished output",
    )


def _shard(text):
    """The type of --shard: (which, of how many)."""
    which, _, among = text.partition("/")
    if which.isdecimal() and among.isdecimal() and 1 <= int(which) <= int(among):
        return int(which), int(among)
    raise argparse.ArgumentTypeError(f"expected I/N, I from 1 to N, found {text!r}")


def run_batches(args, job):
    """Compute all lines, or those of a shard; by ray if asked for."""
    check_output(args.output)
    for option in ("shard", "ray", "restart"):
        if getattr(args, option) and not is_resumable(args):
            raise argparse.ArgumentError(
                None, f"--{option} needs an --input and an --output that are files, not pipes"
            )
    if args.ray and args.shard:
        raise argparse.ArgumentError(None, "--ray makes the shards itself: give no --shard")
    if args.ray:
        from bert4keras3.cli.ray import run_on_ray

        run_on_ray(args, job)
    else:
        run_shard(args, job, args.shard or (1, 1)).forget()


def is_resumable(args):
    """Whether input and output are files, so that a run that was killed can go on."""
    return _is_counted(args) and args.output != "-" and not is_device(args.output)


def _is_counted(args):
    # What is no file at all is opened, which says why.
    return args.input != "-" and not is_device(args.input)


def run_shard(args, job, shard):
    """Compute the lines of a shard; its finished output."""
    with ExitStack() as stack:
        source = stack.enter_context(open_lines(args.input, job.skips_blank))
        if job.needs_count and not _is_counted(args):
            source = stack.enter_context(spooled(source))
        if job.needs_count or _is_counted(args):
            source = source.counted(shard)
        output = stack.enter_context(_open(args, job, source, shard, stack))
        if not output.is_finished:
            _compute(args, job, source, output)
            output.finish()
    return output


def _open(args, job, source, shard, stack):
    from bert4keras3.cli.resumable import PlainFile, ResumableFile

    if is_resumable(args):
        run = describe_run(args, job.model, source, shard)
        return ResumableFile(args.output, run, job.kept, args.restart)
    return PlainFile(stack.enter_context(open_output(args.output)), job.kept)


def _compute(args, job, source, output):
    worker = job.load(args, output.kept)
    from tqdm import tqdm

    place = None if output.progress is None else Place(**output.progress)
    done = 0 if place is None else place.texts - source.start.texts
    if place is None:
        output.write(worker.header(source.count))
    else:
        print(f"going on after {done} of {source.count} texts", file=sys.stderr)
    bar = tqdm(total=source.count, initial=done, unit="text", disable=None, delay=1, leave=False)
    with bar:
        for block in source.blocks(args.block, place):
            output.write(_write(worker, block, source.name))
            output.commit(asdict(block.end))
            bar.update(len(block.texts))


def _write(worker, block, name):
    try:
        return worker.write(block.texts, block.start.texts)
    except ValueError as error:
        lines = f"lines {block.start.lines + 1} to {block.end.lines}"
        raise ValueError(f"{name}: {lines}: {error}") from error


# ------------------------------------------------------- by what a run is known


def describe_run(args, model, source, shard):
    """A run as a dictionary: two that are equal write the same."""
    options = {f"--{k.replace('_', '-')}": v for k, v in vars(args).items() if k not in APART}
    place = source.start
    return {
        "command": args.command,
        **options,
        "--shard": "{}/{}".format(*shard),
        "--input": {
            "bytes": source.end.offset - place.offset,
            "content": source.digest,
            "place": [place.offset, place.lines, place.texts],
        },
        "--model": describe_folder(model),
        "backend": _backend(),
        "version": __version__,
    }


def describe_folder(folder):
    """The files of a model's folder that may matter: name -> size and digest."""
    folder = Path(folder)
    paths = [path for path in (*folder.glob("*"), *folder.glob("*/*.json")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: _describe_file(path)
        for name, path in sorted(names.items())
        if not name.startswith(".") and path.suffix != ".md"
    }


def _describe_file(path):
    size, digest = path.stat().st_size, hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        if size <= SAMPLES * SAMPLE:
            digest.update(file.read())
        else:
            for i in range(SAMPLES):
                file.seek((size - SAMPLE) * i // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return f"{size} bytes, {digest.hexdigest()}"


def _backend():
    if "keras" in sys.modules:
        return sys.modules["keras"].backend.backend()
    select_backend()
    return os.environ["KERAS_BACKEND"]
