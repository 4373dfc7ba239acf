"""Train a small Llama until it knows a book of poems by heart, and save it in Hugging Face form.

    python examples/train_poet.py                          # the poems of this package
    python examples/train_poet.py --output FOLDER --texts POEMS.txt

A text is `《title》`, `作者：author` and lines of a poem; a blank line ends it. After its first
clause the model goes on by itself:

    床前明月光， -> 疑是地上霜。举头望明月，低头思故乡。

Ends with the share of the poems that it recites without a mistake, measured on the saved folder.
"""

import argparse
import json
import math
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[1] / "bert4keras3" / "data"
PAD, END, UNKNOWN = SPECIAL = ("<pad>", "<eos>", "<unk>")
SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "query_head": 4,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "hidden_act": "silu",
}
# Rows of two lengths only, as JAX compiles for each: most poems fit into the first. The numbers
# are rows a batch.
ROWS = {64: 32, 256: 8}
RECITED = 100  # characters that have to be right of a long poem
CHECK_EVERY = 5  # epochs
LEARNING_RATE = 3e-3


def read_poems(path):
    """The poems of a file: `(heading, body)`, e.g. `("《夜思》李白：", "床前明月光，…")`."""
    poems = []
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip()):
        title, author, *lines = block.splitlines()
        title = title.removeprefix("题目:")
        # The years of a life, and other notes in brackets, are no part of the name.
        author = re.sub(r"（.*）|〔.*〕", "", author[len("作者：") :])
        # A line like `其二` begins another poem of the same title.
        bodies = re.split(r"其[一二三四五六七八九十]+\n", "\n".join(lines))
        poems += [(f"{title}{author}：", body.replace("\n", "")) for body in bodies if body]
    return poems


def first_clause(body):
    """The beginning of a poem, up to its first comma or full stop."""
    return re.match(r"[^，。]*[，。]?", body).group()


def clause_starts(body):
    """Where the clauses of a poem begin."""
    ends = [match.end() for match in re.finditer(r"[，。！？；：]", body)]
    return [0, *(end for end in ends if end < len(body))]


def make_tokenizer(texts):
    """A tokenizer of characters: a token each, and nothing added."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens = [*SPECIAL, *sorted(set("".join(texts)))]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def save_tokenizer(tokenizer, folder):
    """Write `tokenizer.json` and the names of the special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "unk_token": UNKNOWN,
        "model_max_length": max(ROWS),
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps(configuration, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def batches(poems, tokenizer, rng):
    """Endless batches `(inputs, targets, weights)`; the poems come in a new order each time.

    Of each poem there are two rows: from its beginning, with the heading every second time, and
    from any of its clauses, as a prompt may be taken from its middle.
    """
    from bert4keras3.snippets import sequence_padding

    end = tokenizer.token_to_id(END)
    piles = {length: [] for length in ROWS}
    encoded = [
        (
            tokenizer.encode(heading).ids,
            tokenizer.encode(body).ids + [end],
            clause_starts(body),
        )
        for heading, body in poems
    ]
    while True:
        for i in rng.permutation(len(encoded)):
            heading, body, starts = encoded[i]
            for row in (
                (heading if TITLES and rng.random() < 0.5 else []) + body,
                body[rng.choice(starts) :],
            ):
                row = row[: max(ROWS) + 1]
                length = next(length for length in ROWS if len(row) <= length + 1)
                piles[length].append(row)
                if len(piles[length]) == ROWS[length]:
                    rows = sequence_padding(piles[length], length + 1)
                    piles[length] = []
                    yield rows[:, :-1], rows[:, 1:], (rows[:, 1:] != 0).astype("float32")


TITLES = False


def train(
    transformer,
    poems,
    tokenizer,
    epochs,
    seed,
):
    """Fit, with a look at what is known by heart from time to time."""
    from bert4keras3.backend import keras

    stream = batches(poems, tokenizer, np.random.default_rng(seed))
    characters = 2 * sum(len(body) for _, body in poems)
    steps = math.ceil(characters / 1400)
    total = steps * epochs
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, total, alpha=0.02, warmup_target=LEARNING_RATE, warmup_steps=total // 20
    )
    transformer.model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, beta_2=0.98, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    start = time.time()
    for epoch in range(0, epochs, CHECK_EVERY):
        until = min(epoch + CHECK_EVERY, epochs)
        transformer.model.fit(
            stream, steps_per_epoch=steps, initial_epoch=epoch, epochs=until, verbose=2
        )
        t = time.time()
        r = recited(transformer, tokenizer, poems)
        print(until, r, f"{time.time() - start:.0f}s check {time.time() - t:.1f}", flush=True)
        if r[0] == r[1]:
            break


def recited(transformer, tokenizer, poems):
    clauses = Counter(first_clause(body) for _, body in poems)
    asked = [body for _, body in poems if clauses[first_clause(body)] == 1]
    prompts = [tokenizer.encode(first_clause(body)).ids for body in asked]
    answers = transformer.generate(prompts, RECITED, batch_size=64)
    right = 0
    for body, prompt, answer in zip(asked, prompts, answers, strict=True):
        expected = tokenizer.encode(body).ids + [tokenizer.token_to_id(END)]
        expected = expected[len(prompt) :][:RECITED]
        right += answer == expected
    return right, len(asked), len(poems) - len(asked)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=DATA / "poet", metavar="FOLDER")
    parser.add_argument("--texts", type=Path, default=DATA / "tang_song_poems.txt", metavar="FILE")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", default="{}")
    args = parser.parse_args()
    from bert4keras3.backend import keras
    from bert4keras3.models import build_transformer_model

    global LEARNING_RATE, TITLES
    S = json.loads(args.set)
    LEARNING_RATE = S.pop("lr", LEARNING_RATE)
    TITLES = S.pop("titles", False)
    if "rows" in S:
        ROWS.clear()
        ROWS.update({int(k): v for k, v in S.pop("rows").items()})
    SIZES.update(S)

    keras.utils.set_random_seed(args.seed)
    poems = read_poems(args.texts)
    tokenizer = make_tokenizer(heading + body for heading, body in poems)
    transformer = build_transformer_model(
        model="llama",
        with_lm="linear",
        share_embedding=True,
        vocab_size=tokenizer.get_vocab_size(),
        max_position=max(ROWS),
        pad_token_id=tokenizer.token_to_id(PAD),
        end_token_id=tokenizer.token_to_id(END),
        return_keras_model=False,
        **SIZES,
    )
    print(len(poems), tokenizer.get_vocab_size(), transformer.model.count_params())
    train(transformer, poems, tokenizer, args.epochs, args.seed)
    save_tokenizer(tokenizer, args.output)
    transformer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
