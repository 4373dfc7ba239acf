"""Writes docs/models.md from the registry of families and docs/checkpoints.csv.

python docs/make_models.py            # write the file
python docs/make_models.py --check    # fail where it is not up to date
"""

import argparse
import csv
import inspect
import sys
from pathlib import Path

from bert4keras3.models import build_transformer_model
from bert4keras3.models.registry import FAMILIES, HUGGING_FACE

FOLDER = Path(__file__).parent
TARGET = FOLDER / "models.md"
TINY = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "hidden_act": "gelu",
    "max_position": 8,
}
# Arguments of single families.
OPTIONS = {"bucket_size": 4, "decomposer_size": 4}
HEADER = """# Models

<!-- Written by docs/make_models.py from the registry and docs/checkpoints.csv. -->

## Families

`model=` is the argument of `build_transformer_model`. Every family reads and writes `.weights.h5`
files. *Hugging Face*: folders of these model types are read, and written by `save_pretrained`;
`head='auto'` gives them the outputs they were saved with.

"""
CHECKPOINTS = """
## Checkpoints

TensorFlow checkpoints are read without TensorFlow: `build_transformer_model(config_path,
checkpoint_path, model=...)`; `.weights.h5` files by `keras_weights_path=`. A model in *italics*
is not built yet.

"""


def families():
    """One row a class: its keys, file forms, applications, heads."""
    classes = {}
    for key, cls in FAMILIES.items():
        classes.setdefault(cls, []).append(key)
    for cls, keys in sorted(classes.items(), key=lambda item: item[1]):
        needed = inspect.signature(cls.__init__).parameters
        sizes = {**TINY, **{k: v for k, v in OPTIONS.items() if k in needed}}
        model = build_transformer_model(**sizes, model=keys[0], return_keras_model=False)
        types = sorted(name for name, key in HUGGING_FACE.items() if key in keys)
        yield [
            ", ".join(f"`{key}`" for key in keys),
            f"`{cls.__name__}`",
            "yes" if "tf" in model.tables else "–",
            ", ".join(f"`{name}`" for name in types) or "–",
            _applications(model),
            _generation(model),
            ", ".join(f"`{head}`" for head in sorted(cls.heads)),
        ]


def _applications(model):
    if model.source_inputs:
        return "seq2seq"
    if model.attention_kind == "causal":
        return "causal" + (", `unilm`" if "segment_vocab_size" not in model.lacks else "")
    return ", ".join(f"`{name}`" for name in model.applications)


def _generation(model):
    if model.attention_kind == "causal":
        return "yes"
    return "as `lm`, `unilm`" if "lm" in model.applications else "–"


def checkpoints():
    """One row a released checkpoint."""
    with open(FOLDER / "checkpoints.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cls = FAMILIES.get(row["model"])
            key = f"`{row['model']}`" if cls else f"*`{row['model']}`*"
            options = f"`{row['options']}`" if row["options"] else ""
            yield [
                f"[{row['checkpoint']}]({row['link']})",
                key,
                row["form"],
                options,
                _generation(cls) if cls else "",
            ]


def table(titles, rows):
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text():
    """The whole document."""
    family_titles = [
        "model=",
        "class",
        "TensorFlow",
        "Hugging Face",
        "application",
        "generation",
        "head=",
    ]
    checkpoint_titles = ["checkpoint", "model=", "form", "options", "generation"]
    return (
        HEADER
        + table(family_titles, families())
        + CHECKPOINTS
        + table(checkpoint_titles, checkpoints())
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    args = parser.parse_args()
    if not args.check:
        TARGET.write_text(text(), encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != text():
        sys.exit(f"{TARGET} is not up to date: run python docs/make_models.py")


if __name__ == "__main__":
    main()
