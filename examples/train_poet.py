"""Train a small Llama until it knows a book of poems by heart; save it in Hugging Face form.

    python examples/train_poet.py                    # the poems of this package: 10 minutes
    python examples/train_poet.py --texts POEMS.txt --output FOLDER
    python examples/train_poet.py --smoke            # seconds, to see that it runs

A poem is `《title》`, `作者：author` and its lines, and a blank line ends it. The model goes on
after nearly any clause, and after title and author:

    床前明月光， -> 疑是地上霜。举头望明月，低头思故乡。
    《夜思》李白： -> 床前明月光，疑是地上霜。举头望明月，低头思故乡。

It stops early once it recites every poem. What it says at the end is measured on the saved files.
"""

import argparse
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import sequence_padding
from bert4keras3.tokenizers import load_tokenizer

DATA = Path(__file__).resolve().parents[1] / "bert4keras3" / "data"
PAD, END, UNKNOWN = SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")
SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "query_head": 4,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "hidden_act": "silu",
}
# Two lengths only, as JAX compiles for each; most poems fit into the first, title and all.
SHORT, LONG = 80, 256
TOKENS = 1024  # a batch; small ones learn by heart much faster
LEARNING_RATE = 2e-3
RECITED = 100  # characters of a long poem that have to be right
CHECK_EVERY = 5  # epochs


def read_poems(path):
    """The poems of a file as (heading, body): `("《夜思》李白：", "床前明月光，…")`."""
    poems = []
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip()):
        title, author, *lines = block.splitlines()
        title = title.removeprefix("题目:")
        # The name alone, without the years of a life.
        author = re.sub(r"[（〔].*", "", author.removeprefix("作者")[1:])
        # A line `其二` begins another poem of the same title.
        parts = re.split(r"(其[一二三四五六七八九十]\n)", "\n".join(["", *lines]))
        for number, body in zip(["", *parts[1::2]], parts[::2], strict=True):
            if body.strip():
                poems.append((f"{title}{number.strip()}{author}：", body.replace("\n", "")))
    return poems


def first_clause(body):
    """The beginning of a poem, up to its first comma or full stop."""
    return re.match(r"[^，。]*[，。]?", body).group()


def clause_starts(body):
    """Where the clauses of a poem begin."""
    ends = (match.end() for match in re.finditer("[，。！？；：]", body))
    return [0, *(end for end in ends if end < len(body))]


def save_tokenizer(texts, folder, ends=False):
    """Write a tokenizer whose tokens are characters; `ends` makes it end each text, as T5 does."""
    tokens = [*SPECIAL_TOKENS, *sorted(set("".join(texts)))]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "unk_token": UNKNOWN,
        "model_max_length": LONG,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n")


class Batches(keras.utils.PyDataset):
    """Batches `(inputs, targets, weights)`, drawn anew for each epoch.

    Two rows of each poem: all of it; and, so that prompts may come from anywhere, as much as is
    short from the heading or from one of its clauses.
    """

    def __init__(self, poems, tokenizer, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)
        end = [tokenizer._token_end_id]
        self.poems = [
            (tokenizer.encode(heading)[0], tokenizer.encode(body)[0] + end, clause_starts(body))
            for heading, body in poems
        ]
        self.on_epoch_end()

    def on_epoch_end(self):
        short, long = [], []
        for heading, body, clauses in self.poems:
            (short if len(body) <= SHORT + 1 else long).append(body)
            start = self.rng.choice(clauses)
            row = heading + body if self.rng.random() < 0.5 else body[start:]
            short.append(row[: SHORT + 1])
        short, long = self._batches(short, SHORT), self._batches(long, LONG)
        # One of each comes first: TensorFlow reads the shapes off the first two.
        self.batches = short[:1] + long + short[1:]

    def _batches(self, rows, length):
        size = TOKENS // length
        rows = sequence_padding(rows, length + 1)[self.rng.permutation(len(rows))]
        # The last batch is filled up from the beginning, as it must not have a shape of its own.
        batches = np.resize(rows, (-(-len(rows) // size), size, length + 1))
        return [(x[:, :-1], x[:, 1:], (x[:, 1:] != 0).astype("float32")) for x in batches]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def build(tokenizer):
    """The untrained model."""
    return build_transformer_model(
        model="llama",
        with_lm="linear",
        share_embedding=True,
        vocab_size=tokenizer._vocab_size,
        max_position=LONG,
        pad_token_id=tokenizer._token_pad_id,
        end_token_id=tokenizer._token_end_id,
        return_keras_model=False,
        **SIZES,
    )


def train(transformer, tokenizer, poems, epochs, seed):
    """Fit the model until it knows everything, or for so many epochs."""
    data = Batches(poems, tokenizer, seed)
    steps = epochs * len(data)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.02, warmup_target=LEARNING_RATE, warmup_steps=steps // 20
    )
    transformer.model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, beta_2=0.98, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
        weighted_metrics=["accuracy"],
    )
    for epoch in range(0, epochs, CHECK_EVERY):
        until = min(epoch + CHECK_EVERY, epochs)
        transformer.model.fit(data, initial_epoch=epoch, epochs=until, shuffle=True, verbose=2)
        scores = recite(transformer, tokenizer, poems)
        print("recited", *(f"{right} of {asked} by {name}" for name, right, asked in scores))
        if all(right == asked for _, right, asked in scores):
            break


def recite(transformer, tokenizer, poems):
    """How many poems are continued without a mistake, by `generate`.

    Returns:
        For each kind of prompt: its name, poems recited, poems asked for. Not asked for are those
        that share their prompt with another one.
    """
    headings, bodies = zip(*poems, strict=True)
    clauses = [first_clause(body) for body in bodies]
    titled = [heading + body for heading, body in poems]
    scores = []
    for name, prompts, texts in (
        ("first clause", clauses, bodies),
        ("title and author", headings, titled),
    ):
        times = Counter(prompts)
        asked = [pair for pair in zip(prompts, texts, strict=True) if times[pair[0]] == 1]
        starts = [tokenizer.encode(prompt)[0] for prompt, _ in asked]
        wholes = [[*tokenizer.encode(text)[0], tokenizer._token_end_id] for _, text in asked]
        rests = [whole[len(start) :][:RECITED] for whole, start in zip(wholes, starts, strict=True)]
        most = max(map(len, rests), default=1)
        answers = transformer.generate(starts, most, batch_size=64, progress=False)
        right = sum(answer == rest for answer, rest in zip(answers, rests, strict=True))
        scores.append((name, right, len(asked)))
    return scores


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    texts = DATA / "tang_song_poems.txt"
    add("--texts", type=Path, default=texts, help="poems to learn; those of the package")
    add("--output", type=Path, help="folder to write; the package's data/poet")
    add("--epochs", type=int, default=60, help="at most; the learning rate falls until then; 60")
    add("--seed", type=int, default=0, help="the same one gives the same model; 0")
    add("--smoke", action="store_true", help="eight short poems, once, in a temporary folder")
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    poems = read_poems(args.texts)
    if args.smoke:
        poems = sorted(poems, key=lambda poem: len(poem[1]))[:8]
        args.epochs, args.output = 1, Path(tempfile.mkdtemp())
    args.output = args.output or DATA / "poet"
    save_tokenizer((heading + body for heading, body in poems), args.output)
    tokenizer = load_tokenizer(args.output)
    transformer = build(tokenizer)
    print(
        f"{len(poems)} poems, {tokenizer._vocab_size} tokens, "
        f"{transformer.model.count_params():,} parameters"
    )
    train(transformer, tokenizer, poems, args.epochs, args.seed)
    transformer.save_pretrained(args.output, dtype="float32")

    saved = build_transformer_model(args.output, return_keras_model=False)
    for name, right, asked in recite(saved, load_tokenizer(args.output), poems):
        print(
            f"{name}: {right} of {asked} poems recited ({right / asked:.1%}); "
            f"{len(poems) - asked} more share theirs with another"
        )
    size = sum(path.stat().st_size for path in args.output.iterdir())
    print(f"{args.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
