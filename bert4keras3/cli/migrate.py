"""`bert4keras3 migrate`: what scripts for older libraries have to change."""

import argparse
from pathlib import Path

EPILOG = """\
examples:
  bert4keras3 migrate train.py
  bert4keras3 migrate examples/*.py notebooks/

Knows the names of bert4keras, of bert4keras3 1.x and of the TensorFlow classes
that transformers had before version 5; docs/migrating.md explains them. A folder
stands for the .py files in it. Nothing of the scripts is run. Exit status 1:
something has to change.
"""


def add_command(commands):
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "migrate",
        help="list the names in scripts that are other ones here",
        description="List the names of older libraries in scripts, and what replaces them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="FILE", help="a script, or a folder of them")
    parser.add_argument(
        "--table", action="store_true", help="print all names that are known, in Markdown"
    )
    parser.set_defaults(run=run)


def run(args):
    """Print `file:line: old -> new` for every old name; 1 where there is one."""
    from bert4keras3.migration import find_old_names

    if args.table:
        print(markdown())
        return 0
    if not args.paths:
        raise argparse.ArgumentError(None, "migrate: give a FILE, or --table")
    found = False
    for path in _scripts(args.paths):
        for line, old, new in find_old_names(_read(path), path):
            print(f"{path}:{line}: {old} -> {new}")
            found = True
    return int(found)


def markdown():
    """All tables of names, as `docs/migrating.md` has them."""
    from bert4keras3.migration import TABLES

    def table(names):
        rows = [f"| `{old}` | {_code(new)} |" for old, new in names.items()]
        return "\n".join(["| old | new |", "|---|---|", *rows])

    return "\n\n".join(table(names) for names in TABLES.values())


def _code(new):
    return new if new.startswith("(") or " " in new.split("(")[0] else f"`{new}`"


def _scripts(paths):
    for path in map(Path, paths):
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _read(path):
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a script in UTF-8: {error}") from None
