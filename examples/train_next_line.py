"""Fine-tune a small T5 from text to text: a line of a poem in, the line after it out.

    python examples/train_next_line.py                       # a small T5 made for it
    python examples/train_next_line.py --model FOLDER        # any T5 in Hugging Face form
    python examples/train_next_line.py --smoke               # a few lines, to see it run

    床前明月光，疑是地上霜。 -> 举头望明月，低头思故乡。

The lines are those of the poems of this package, which a new model knows by heart after 11 minutes
on two CPU cores; a tenth of the poems is kept apart. What the script says at the end is measured by
generating from the saved folder. Afterwards:

    bert4keras3 generate --model FOLDER --prompt 床前明月光，疑是地上霜。
"""

import re
import shutil
from pathlib import Path

import numpy as np
from common import POEMS, make_optimizer, make_parser, parse
from train_poet import read_poems, save_tokenizer

from bert4keras3.backend import keras
from bert4keras3.generation import TextGenerator
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import sequence_padding
from bert4keras3.tokenizers import load_tokenizer

NEW = {  # a T5 1.1
    "model": "t5.1.1",
    "with_lm": "linear",
    "cross_position_bias": False,
    "logit_scale": False,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "attention_head_size": 32,
    "intermediate_size": 320,
    "hidden_act": ["gelu_tanh", "linear"],
    "dropout_rate": 0.0,  # the poems are to be learnt by heart
}
BATCH_SIZE = 8  # small ones learn faster, as for the poet
LENGTH = 18  # of both texts with their ends: two clauses of seven; longer lines are left out


def read_pairs(path):
    """For each poem its pairs (line, next line); a line ends at a full stop."""
    poems = []
    for _, body in read_poems(path):
        lines = re.findall(r"[^。！？；]+[。！？；]", body)
        pairs = zip(lines, lines[1:], strict=False)
        poems.append([pair for pair in pairs if max(map(len, pair)) < LENGTH])
    return [pairs for pairs in poems if pairs]


def build(model, texts, output):
    """A model and its tokenizer: those of a folder, or new ones; the tokenizer goes into output."""
    if model is None:
        save_tokenizer(texts, output, ends=True)
        tokenizer = load_tokenizer(output)
        ids = {"vocab_size": tokenizer._vocab_size, "end_token_id": tokenizer._token_end_id}
        return build_transformer_model(**NEW, **ids, return_keras_model=False), tokenizer
    output.mkdir(parents=True, exist_ok=True)
    for file in [*model.glob("tokenizer*"), *model.glob("spiece.model")]:
        shutil.copy(file, output)
    return build_transformer_model(model, return_keras_model=False), load_tokenizer(model)


def train(transformer, tokenizer, pairs, epochs, rate):
    """Fit the model by teacher forcing: the decoder reads what it is to write, a step late."""
    sources, targets = (
        sequence_padding([ids for ids, _ in tokenizer.encode_batch(list(texts))], LENGTH)
        for texts in zip(*pairs, strict=True)
    )
    beginnings = np.insert(targets[:, :-1], 0, transformer.decoder_start_id, axis=1)
    transformer.model.compile(
        make_optimizer(rate, epochs * -(-len(targets) // BATCH_SIZE), warmup=20),
        keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
        weighted_metrics=["accuracy"],
    )
    weights = (targets != 0).astype("float32")
    inputs = [sources, beginnings]
    transformer.model.fit(inputs, targets, BATCH_SIZE, epochs, sample_weight=weights, verbose=2)


def main():
    parser = make_parser(__doc__, pretrained=False)
    add = parser.add_argument
    add("--texts", type=Path, default=POEMS, help="poems; the package's")
    add("--model", type=Path, help="folder to start from; by default a small new model")
    add("--output", type=Path, default=Path("next-line"), help="folder to write; next-line")
    add("--epochs", type=int, default=80, help="default: %(default)s")
    add("--rate", type=float, help="learning rate; 1e-3 for a new model, 3e-4 for a given one")
    args = parse(parser)

    poems = read_pairs(args.texts)[: 3 if args.smoke else None]
    known = [pair for i, poem in enumerate(poems) if i % 10 for pair in poem]
    new = [pair for i, poem in enumerate(poems) if i % 10 == 0 for pair in poem]
    texts = [text for pair in known + new for text in pair]
    transformer, tokenizer = build(args.model, texts, args.output)
    count = transformer.model.count_params()
    print(f"{len(known)} pairs to learn, {len(new)} kept apart, {count:,} parameters")
    train(transformer, tokenizer, known, args.epochs, args.rate or (3e-4 if args.model else 1e-3))
    transformer.save_pretrained(args.output)

    saved = build_transformer_model(args.output, return_keras_model=False)
    generator = TextGenerator(saved, load_tokenizer(args.output))
    for name, pairs in (("learnt", known), ("kept apart", new)):
        lines = [line for line, _ in pairs]
        answers = generator.generate(lines, LENGTH, batch_size=64, progress=False)
        right = sum(ours == line for ours, (_, line) in zip(answers, pairs, strict=True))
        print(f"{name}: {right} of {len(pairs)} lines followed by the next one")
    for line, following in [*known[:2], *new[:2]]:
        print(f"{line} -> {generator.generate(line, LENGTH)} ({following})")


if __name__ == "__main__":
    main()
