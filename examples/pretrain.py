"""Pretrain a masked language model on raw text, whole words hidden at a time.

    python examples/pretrain.py --texts TEXTS.txt --words WORDS.txt --output FOLDER
    python examples/pretrain.py --texts TEXTS.txt --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt --rate 1e-4     # goes on from a checkpoint
    python examples/pretrain.py                                        # on the poems of the package
    python examples/pretrain.py --smoke

Lines of the file are texts. A new model is a small RoFormer of characters; sizes are arguments. All
characters of a hidden word are hidden, so that a word is not guessed from its other half: the words
are those of WORDS.txt, one a line, or else pairs of characters that come up often. The folder
written is one in Hugging Face form, which the other examples take as `--config`.
"""

from collections import Counter
from pathlib import Path

import numpy as np
from common import POEMS, character_vocabulary, make_optimizer, make_parser, parse

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import BatchLoader, mask_words, word_numbers
from bert4keras3.tokenizers import Tokenizer, save_vocab


def cut(text, words, longest):
    """The text in words, the longest known one at each place, else single characters."""
    pieces, start = [], 0
    while start < len(text):
        sizes = range(min(longest, len(text) - start), 1, -1)
        size = next((n for n in sizes if text[start : start + n] in words), 1)
        pieces.append(text[start : start + size])
        start += size
    return pieces


def main():
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--texts", type=Path, default=POEMS, help="a text a line; default: the poems")
    add("--words", type=Path, help="known words, one a line")
    add("--output", type=Path, default=Path("pretrained"), help="folder; default: %(default)s")
    add("--layers", type=int, default=3, help="of a new model; default: %(default)s")
    add("--hidden", type=int, default=128, help="its width; default: %(default)s")
    add("--epochs", type=int, default=30, help="default: %(default)s")
    add("--rate", type=float, default=1e-3, help="learning rate; default: %(default)s")
    add("--maxlen", type=int, default=128, help="default: %(default)s")
    args = parse(parser)

    texts = [line for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    if args.smoke:
        texts, args.epochs = texts[:100], 1
    if args.words:
        words = set(args.words.read_text(encoding="utf-8").split())
    else:
        pairs = Counter(a + b for text in texts for a, b in zip(text, text[1:], strict=False))
        words = {pair for pair, count in pairs.items() if count > 3 and pair.isalpha()}
    vocabulary = args.vocab or character_vocabulary(texts)
    tokenizer = Tokenizer(vocabulary, do_lower_case=True)
    options = {"model": args.model, "with_mlm": "linear", "dropout_rate": 0.1}
    if args.config is None:
        options |= {"model": args.model or "roformer", "vocab_size": tokenizer._vocab_size}
        options |= {"hidden_size": args.hidden, "num_hidden_layers": args.layers}
        options |= {"num_attention_heads": args.hidden // 32, "hidden_act": "gelu"}
        options |= {"intermediate_size": 3 * args.hidden, "max_position": 512}
    transformer = build_transformer_model(
        args.config, args.checkpoint, return_keras_model=False, **options
    )

    rng, longest = np.random.default_rng(args.seed), max(map(len, words), default=1)
    names = map(tokenizer.id_to_token, range(tokenizer._vocab_size))
    usual = [i for i, token in enumerate(names) if not tokenizer._is_special(token)]

    def encode(text):
        tokens = tokenizer.tokenize(text, maxlen=args.maxlen)
        numbers = word_numbers(tokenizer.rematch(text, tokens), cut(text, words, longest))
        ids = tokenizer.tokens_to_ids(tokens)
        masked, weights = mask_words(ids, numbers, tokenizer._token_mask_id, usual, rng=rng)
        return (masked, np.zeros_like(masked)), ids, weights

    texts = list(rng.permutation(texts))
    held_out = BatchLoader(texts[::10], encode, 32, shuffle=False)
    train = BatchLoader([t for i, t in enumerate(texts) if i % 10], encode, 32, drop_last=True)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    optimizer = make_optimizer(args.rate, args.epochs * len(train))
    transformer.model.compile(optimizer, loss, weighted_metrics=["accuracy"])
    print(f"{len(texts)} texts, {len(words)} words, {transformer.model.count_params():,} weights")
    for name in ("before", "after"):
        if name == "after":
            transformer.model.fit(train, epochs=args.epochs, verbose=2)
        loss, accuracy = transformer.model.evaluate(held_out, verbose=0)
        print(
            f"{name}: {accuracy:.1%} of what is hidden found in texts kept apart, loss {loss:.2f}"
        )
    if not args.smoke:
        transformer.save_pretrained(args.output)
        save_vocab(args.output / "vocab.txt", tokenizer._token_dict)


if __name__ == "__main__":
    main()
