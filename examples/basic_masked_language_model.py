"""Fill in the masked characters of a text.

    python examples/basic_masked_language_model.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt "科学[MASK][MASK]是第一生产力"
    python examples/basic_masked_language_model.py --smoke

Prints the likeliest tokens of each place with their probabilities, and the text with the best of
them. Each place is filled by itself: see basic_gibbs_sampling.py for places that agree.
"""

import numpy as np
from common import make_parser, parse

from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import Tokenizer


def main():
    parser = make_parser(__doc__)
    parser.add_argument("text", nargs="?", default="床前[MASK][MASK]光，疑是地上霜。")
    parser.add_argument("--top", type=int, default=5, help="default: %(default)s")
    args = parse(parser, needs=["config"])

    tokenizer = Tokenizer(args.vocab, do_lower_case=True)
    model = build_transformer_model(args.config, args.checkpoint, model=args.model, with_mlm=True)

    # The pieces between the masks are tokenized, the masks put back between them.
    pieces = [tokenizer.tokenize(piece)[1:-1] for piece in args.text.split("[MASK]")]
    tokens = ["[CLS]", *pieces[0]]
    for piece in pieces[1:]:
        tokens += ["[MASK]", *piece]
    tokens.append("[SEP]")
    ids = np.array([tokenizer.tokens_to_ids(tokens)])
    places = np.flatnonzero(ids[0] == tokenizer._token_mask_id)

    probabilities = model.predict([ids, np.zeros_like(ids)], verbose=0)[0]
    for place in places:
        best = np.argsort(-probabilities[place])[: args.top]
        ranking = (f"{tokenizer.id_to_token(i)} {probabilities[place, i]:.1%}" for i in best)
        print(f"place {place}:", ", ".join(ranking))
    ids[0, places] = probabilities[places].argmax(axis=-1)
    print(tokenizer.decode(ids[0]))


if __name__ == "__main__":
    main()
