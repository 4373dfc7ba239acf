"""`bert4keras3 similar`: the lines of a file, ranked by their nearness to a query."""

import argparse

from bert4keras3.cli.common import (
    add_model_options,
    check_model,
    json_line,
    load_embedder,
    open_output,
    positive,
    query_text,
)
from bert4keras3.cli.lines import read_lines

EPILOG = """\
examples:
  bert4keras3 similar --model FOLDER --query "How do I boil an egg?" --input texts.txt
  cat *.txt | bert4keras3 similar --model FOLDER --query bread --query money --top 3

Prints rank, cosine (1 means the same) and text. jsonl is one {"query": ...,
"rank": ..., "score": ..., "line": ..., "text": ...} a line; "line" is the
number of the text's line in the input. Blank lines are skipped.
"""


def add_command(commands):
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "similar",
        help="rank the lines of a text by nearness to a query",
        description="Rank the lines of a text by how near their meaning is to a query's.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    parser.add_argument(
        "--query",
        required=True,
        action="append",
        type=query_text,
        metavar="TEXT",
        help="what to look for; may be given repeatedly",
    )
    parser.add_argument(
        "--top", type=positive, default=10, metavar="N", help="lines to show, default: %(default)s"
    )
    parser.add_argument(
        "--format", choices=("text", "jsonl"), default="text", help="default: %(default)s"
    )
    parser.set_defaults(run=run)


def run(args):
    """Rank the input for each query and print the nearest lines."""
    check_model(args.model)
    lines = {n: line for n, line in enumerate(read_lines(args.input), 1) if line.strip()}
    if not lines:
        name = "stdin" if args.input == "-" else args.input
        raise ValueError(f"{name}: no text to rank, all lines are blank")
    with open_output("-") as file:
        for query, hits in zip(args.query, _rank(args, lines), strict=True):
            if args.format == "jsonl":
                file.writelines(json_line({"query": query, **hit}) for hit in hits)
            else:
                file.write(_table(query, hits).encode())


def _rank(args, lines):
    """For each query a list of hits: dictionaries with rank, score, line and text."""
    embedder = load_embedder(args)
    numbers, texts = list(lines), list(lines.values())
    embeddings = embedder.encode([*args.query, *texts], args.batch_size)
    queries, known = embeddings[: len(args.query)], embeddings[len(args.query) :]
    from bert4keras3.embedding import similar

    for indices, scores in zip(*similar(queries, known, args.top), strict=True):
        yield [
            {"rank": rank, "score": float(str(score)), "line": numbers[i], "text": texts[i]}
            for rank, (i, score) in enumerate(zip(indices, scores, strict=True), 1)
        ]


def _table(query, hits):
    width = len(str(len(hits)))
    rows = [f"{hit['rank']:>{width}}  {hit['score']:7.4f}  {hit['text']}" for hit in hits]
    return "\n".join([query, *rows, "", ""])
