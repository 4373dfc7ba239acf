"""What several examples share: their arguments, a tiny model for `--smoke`, labelled texts.

An example that needs a pretrained model takes `--config`, `--checkpoint` and `--vocab`: the three
files of a TensorFlow checkpoint, or `--config FOLDER` alone, a folder in Hugging Face form.
"""

import argparse
import json
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from string import ascii_lowercase

import numpy as np

from bert4keras3 import ops
from bert4keras3.backend import keras
from bert4keras3.layers import Layer
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import sequence_padding
from bert4keras3.tokenizers import save_vocab

POEMS = Path(__file__).resolve().parents[1] / "bert4keras3" / "data" / "tang_song_poems.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
}
# Of a review: what it is about, and what makes it a good or a bad one.
THINGS = "房间 早餐 服务 位置 屏幕 键盘 电池 封面 内容 故事".split()
WORDS = ("很差 难用 失望 太吵 不值".split(), "很好 好用 满意 安静 值得".split())


def make_parser(doc, pretrained=True):
    """A parser with `--smoke` and `--seed`, and the files of a model where one is needed."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    if pretrained:
        add("--config", metavar="FILE", help="bert_config.json, or a Hugging Face folder")
        add("--checkpoint", metavar="FILE", help="bert_model.ckpt, or other weights")
        add("--vocab", metavar="FILE", help="vocab.txt; by default that of the folder")
        add("--model", help="the family, where the configuration does not say it: albert, roformer")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--smoke", action="store_true", help="tiny and untrained, in seconds: to see it run")
    return parser


def add_task_arguments(parser, epochs=3, rate=2e-5):
    """`--data` and how to fine-tune on them."""
    add = parser.add_argument
    add("--data", metavar="PATH", help="folder or zip archive: files of train, valid and test")
    add("--epochs", type=int, default=epochs, help="default: %(default)s")
    add("--rate", type=float, default=rate, help="learning rate; default: %(default)s")
    add("--maxlen", type=int, default=128, help="tokens of a text; default: %(default)s")


def parse(parser, needs=()):
    """The arguments; with `--smoke` the files of a tiny model, else those named in `needs`."""
    args = parser.parse_args()
    keras.utils.set_random_seed(args.seed)
    if args.smoke:
        if "config" in args and args.config is None:
            args.config, args.checkpoint, args.vocab = tiny_checkpoint()
        if "rate" in args:
            args.rate, args.epochs = 1e-2, 2
        return args
    for name in needs:
        if getattr(args, name) is None:
            parser.error(f"give --{name} (see --help), or --smoke to see it run without")
    if "config" in args and args.config and args.vocab is None:
        args.vocab = str(Path(args.config, "vocab.txt"))
    return args


def tiny_checkpoint():
    """Write a tiny untrained BERT as a TensorFlow checkpoint: paths of its three files."""
    folder = Path(tempfile.mkdtemp())
    texts = [POEMS.read_text(encoding="utf-8"), *THINGS, *sum(WORDS, []), ascii_lowercase]
    vocabulary = character_vocabulary(texts)
    vocabulary |= {f"##{letter}": len(vocabulary) + i for i, letter in enumerate(ascii_lowercase)}
    config = {"model": "bert", **TINY, "vocab_size": len(vocabulary), "max_position": 64}
    paths = tuple(
        str(folder / name) for name in ("bert_config.json", "bert_model.ckpt", "vocab.txt")
    )
    Path(paths[0]).write_text(json.dumps(config))
    model = build_transformer_model(
        **config, with_nsp=True, with_mlm=True, return_keras_model=False
    )
    model.save_weights_as_checkpoint(paths[1])
    save_vocab(paths[2], vocabulary)
    return paths


def character_vocabulary(texts, least=1):
    """A vocabulary of the special tokens and the characters that come up so many times."""
    counts = Counter(char for text in texts for char in text.lower() if not char.isspace())
    characters = sorted(char for char, count in counts.items() if count >= least)
    return {token: i for i, token in enumerate([*SPECIAL_TOKENS, *characters])}


def read_splits(path, toy=None):
    """Labelled texts `(texts, labels)` of the parts train, valid and test.

    They are files in a folder or a zip archive with the part in their names, and lines
    `text <tab> label`, labels 0, 1, ...; a text may be a pair with a tab between. None stands for
    a few texts made by `toy`, reviews by default.
    """
    if path is None:
        rng = np.random.default_rng(0)
        return {part: (toy or toy_reviews)(64, rng) for part in ("train", "valid", "test")}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            files = {Path(n).name: archive.read(n) for n in archive.namelist() if n[-1] != "/"}
    else:
        files = {file.name: file.read_bytes() for file in Path(path).iterdir() if file.is_file()}
    splits = {}
    for part in ("train", "valid", "test"):
        name = next((name for name in sorted(files) if part in name), None)
        if name is None:
            raise FileNotFoundError(
                f"{path}: no file with {part!r} in its name, only {sorted(files)}"
            )
        rows = [line.rsplit("\t", 1) for line in files[name].decode("utf-8").splitlines() if line]
        splits[part] = [text for text, _ in rows], np.array([int(label) for _, label in rows])
    return splits


def toy_reviews(count, rng):
    """Reviews of three clauses that are all for or all against."""
    labels = np.arange(count) % 2
    texts = []
    for label in labels:
        things = rng.choice(THINGS, 3, replace=False)
        texts.append("，".join(thing + rng.choice(WORDS[label]) for thing in things))
    return texts, labels


def toy_pairs(count, rng):
    """Pairs of reviews about the same thing, which are of one opinion or not."""
    texts, labels = [], np.arange(count) % 2
    for label in labels:
        first, thing = rng.integers(2), rng.choice(THINGS)
        opinions = (first, first if label else 1 - first)
        texts.append("\t".join(thing + rng.choice(WORDS[opinion]) for opinion in opinions))
    return texts, labels


def encode_splits(splits, tokenizer, maxlen):
    """`{part: ([tokens, segments], labels)}`, int arrays `(texts, length)` and `(texts,)`."""
    encoded = {}
    for part, (texts, labels) in splits.items():
        rows = tokenizer.encode_batch(texts, maxlen=maxlen)
        encoded[part] = [sequence_padding(ids) for ids in zip(*rows, strict=True)], labels
    return encoded


def tfidf_accuracy(splits, longest):
    """Test accuracy of logistic regression on TF-IDF of up to so many characters in a row."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, longest), sublinear_tf=True)
    model = make_pipeline(vectorizer, LogisticRegression(C=10, max_iter=1000))
    return model.fit(*splits["train"]).score(*splits["test"])


def plot_curves(history, marks, path):
    """Loss and accuracy by epoch, other accuracies `{name: number}` as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(history["loss"]) + 1)
    for axes, key in ((left, "loss"), (right, "accuracy")):
        axes.plot(epochs, history[key], "o-", label="training texts")
        axes.plot(epochs, history[f"val_{key}"], "s-", label="validation texts")
        axes.set(xlabel="epoch", ylabel=key, xticks=epochs)
        axes.grid(alpha=0.3)
    for (name, accuracy), style in zip(marks.items(), (":", "--", "-."), strict=True):
        right.axhline(
            accuracy, color="black", linestyle=style, label=f"{name}, test: {accuracy:.1%}"
        )
    left.legend()
    right.legend()
    figure.savefig(path, dpi=120)


def make_optimizer(rate, steps, weight_decay=0.01, warmup=10):
    """AdamW whose rate rises for one of `warmup` parts of the steps, then falls to nothing."""
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=rate, warmup_steps=max(steps // warmup, 1)
    )
    return keras.optimizers.AdamW(schedule, weight_decay=weight_decay, global_clipnorm=1.0)


class Pool(Layer):
    """Mean and maximum of the vectors of a text: `(batch, length, n)` -> `(batch, 2 n)`."""

    def call(self, x, mask=None):
        real = ops.cast(mask, x.dtype)[:, :, None]
        mean = ops.sum(x * real, axis=1) / ops.sum(real, axis=1)
        return ops.concatenate([mean, ops.max(ops.where(real > 0, x, -1e4), axis=1)], axis=-1)

    def compute_mask(self, x, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return input_shape[0], 2 * input_shape[2]
