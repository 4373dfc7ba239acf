"""The code blocks of our own documents, and how they are run."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(name, language="python"):
    """The fenced blocks of a language in a file, named from the root of the repository."""
    text = (ROOT / name).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)
    return [block for kind, block in fenced if kind == language]


def run(name):
    """Run the Python blocks one after the other; the names they have defined."""
    scope = {}
    for block in blocks(name):
        exec(compile(block, name, "exec"), scope)
    return scope
