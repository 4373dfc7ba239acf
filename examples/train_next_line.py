"""Fine-tune a small T5 from text to text: a line of a poem in, the line after it out.

    python examples/train_next_line.py                       # a small T5 made for it
    python examples/train_next_line.py --model FOLDER        # any T5 in Hugging Face form
    python examples/train_next_line.py --smoke               # a few lines, to see it run

    床前明月光，疑是地上霜。 -> 举头望明月，低头思故乡。

The lines are those of the poems of this package; a tenth of the poems is kept apart, and what the
script says at the end is measured by generating from the saved folder. Afterwards:

    bert4keras3 generate --model FOLDER --prompt 床前明月光，疑是地上霜。
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from train_poet import DATA, read_poems

from bert4keras3.backend import keras
from bert4keras3.generation import TextGenerator
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import sequence_padding
from bert4keras3.tokenizers import load_tokenizer

PAD, END, UNKNOWN = SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "attention_head_size": 32,
    "intermediate_size": 320,
    "hidden_act": ["gelu_tanh", "linear"],
}
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
BATCH_SIZE = 32
LENGTH = 32  # of both texts; longer lines are left out
LEARNING_RATES = {"new": 2e-3, "given": 3e-4}


def read_pairs(path):
    """For each poem its pairs (line, next line); a line ends at a full stop."""
    poems = []
    for _, body in read_poems(path):
        lines = re.findall(r"[^。！？；]+[。！？；]", body)
        pairs = zip(lines, lines[1:], strict=False)
        poems.append([pair for pair in pairs if max(map(len, pair)) < LENGTH])
    return [pairs for pairs in poems if pairs]


def save_tokenizer(texts, folder):
    """Write a tokenizer whose tokens are characters; like T5's, it ends each text with </s>."""
    characters = sorted(set("".join(texts)))
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocab[END])]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    names = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n")


def build(tokenizer):
    """An untrained T5 1.1."""
    return build_transformer_model(
        model="t5.1.1",
        with_lm="linear",
        cross_position_bias=False,
        logit_scale=False,
        vocab_size=tokenizer._vocab_size,
        end_token_id=tokenizer._token_end_id,
        dropout_rate=0.1,
        return_keras_model=False,
        **SIZES,
    )


def batches(pairs, tokenizer, start_id):
    """Arrays `([sources, beginnings], targets, weights)`; the decoder reads what it is to write."""
    sources, targets = (
        sequence_padding([ids for ids, _ in tokenizer.encode_batch(list(texts))], LENGTH)
        for texts in zip(*pairs, strict=True)
    )
    beginnings = np.concatenate([np.full_like(targets[:, :1], start_id), targets[:, :-1]], axis=1)
    return [sources, beginnings], targets, (targets != 0).astype("float32")


def train(transformer, tokenizer, pairs, epochs, rate):
    """Fit the model by teacher forcing."""
    inputs, targets, weights = batches(pairs, tokenizer, transformer.decoder_start_id)
    steps = epochs * -(-len(targets) // BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.02, warmup_target=rate, warmup_steps=max(steps // 20, 1)
    )
    transformer.model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
        weighted_metrics=["accuracy"],
    )
    transformer.model.fit(
        inputs, targets, BATCH_SIZE, epochs=epochs, sample_weight=weights, verbose=2
    )


def right(generator, pairs):
    """How many lines are answered by exactly the next one."""
    sources, targets = zip(*pairs, strict=True)
    answers = generator.generate(list(sources), LENGTH, batch_size=64, progress=False)
    return sum(a == b for a, b in zip(answers, targets, strict=True))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--texts", type=Path, default=DATA / "tang_song_poems.txt", help="poems; the package's")
    add("--model", type=Path, help="folder to start from; by default a small new model")
    add("--output", type=Path, default=Path("next-line"), help="folder to write; next-line")
    add("--epochs", type=int, default=30, help="default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--smoke", action="store_true", help="three poems and two epochs")
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    poems = read_pairs(args.texts)[: 3 if args.smoke else None]
    epochs = 2 if args.smoke else args.epochs
    known = [pair for i, poem in enumerate(poems) if i % 10 for pair in poem]
    new = [pair for i, poem in enumerate(poems) if i % 10 == 0 for pair in poem]
    if args.model is None:
        save_tokenizer([text for poem in poems for pair in poem for text in pair], args.output)
        tokenizer = load_tokenizer(args.output)
        transformer, rate = build(tokenizer), LEARNING_RATES["new"]
    else:
        tokenizer = load_tokenizer(args.model)
        transformer = build_transformer_model(args.model, return_keras_model=False)
        rate = LEARNING_RATES["given"]
    count = transformer.model.count_params()
    print(f"{len(known)} pairs to learn, {len(new)} kept apart, {count:,} parameters")
    train(transformer, tokenizer, known, epochs, rate)
    transformer.save_pretrained(args.output)
    if args.model is not None:
        for name in TOKENIZER_FILES:
            if (args.model / name).is_file():
                shutil.copy(args.model / name, args.output)

    saved = build_transformer_model(args.output, return_keras_model=False)
    generator = TextGenerator(saved, load_tokenizer(args.output))
    for name, pairs in (("learnt", known), ("kept apart", new)):
        print(f"{name}: {right(generator, pairs)} of {len(pairs)} lines followed by the next one")
    for line, following in [*known[:2], *new[:2]]:
        print(f"{line} -> {generator.generate(line, LENGTH)} ({following})")


if __name__ == "__main__":
    main()
