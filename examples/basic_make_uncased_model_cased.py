"""Make a model that knows no capital letters tell them apart: new tokens from old vectors.

    python examples/basic_make_uncased_model_cased.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt --output vocab_cased.txt
    python examples/basic_make_uncased_model_cased.py --smoke

For each token of small letters `new` there come `New` and `NEW`. They begin with the vector of
`new` (a token may also begin as the mean of several), and fine-tuning does the rest.
"""

import tempfile
from pathlib import Path

import numpy as np
from common import make_parser, parse

from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import Tokenizer, load_vocab, save_vocab


def cased_vocabulary(token_dict, size):
    """The vocabulary with capitals, and for each new token the ids its vector is the mean of."""
    token_dict, compound_tokens = dict(token_dict), []
    for token, number in list(token_dict.items()):
        stem = token.removeprefix("##")
        if not stem.isascii() or not stem.isalpha():
            continue
        mark = token[: len(token) - len(stem)]
        for variant in dict.fromkeys([stem.capitalize(), stem.upper()]):
            if mark + variant not in token_dict:
                token_dict[mark + variant] = size + len(compound_tokens)
                compound_tokens.append([number])
    return token_dict, compound_tokens


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--text", default="Welcome to BEIJING", help="default: %(default)s")
    parser.add_argument("--output", metavar="FILE", help="the new vocab.txt")
    args = parse(parser, needs=["config"])

    uncased = Tokenizer(args.vocab, do_lower_case=True)
    token_dict, compound_tokens = cased_vocabulary(load_vocab(args.vocab), uncased._vocab_size)
    cased = Tokenizer(token_dict, do_lower_case=False)
    model = build_transformer_model(
        args.config, args.checkpoint, model=args.model, compound_tokens=compound_tokens
    )
    print(f"{uncased._vocab_size} tokens and {len(compound_tokens)} with capitals")
    vectors = []
    for name, tokenizer in (("uncased", uncased), ("cased", cased)):
        ids, segments = tokenizer.encode(args.text)
        print(f"{name}:", " ".join(tokenizer.tokenize(args.text)))
        vectors.append(model.predict([np.array([ids]), np.array([segments])], verbose=0)[0, 0])
    print(f"[CLS] differs by {np.abs(vectors[0] - vectors[1]).max():.1e} before fine-tuning")

    with tempfile.TemporaryDirectory() as folder:
        path = args.output or Path(folder) / "vocab_cased.txt"
        save_vocab(path, token_dict)
        assert load_vocab(path) == token_dict
    print("next: build_transformer_model(..., compound_tokens=compound_tokens), and fine-tune")


if __name__ == "__main__":
    main()
