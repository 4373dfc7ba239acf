"""Write text with a masked language model: Gibbs sampling, as a Markov chain.

    python examples/basic_gibbs_sampling.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt --length 20 --steps 500
    python examples/basic_gibbs_sampling.py --smoke

All starts masked. In each step one place, drawn at random, is masked and drawn anew from what the
model says about it, given all the others. https://kexue.fm/archives/8119
"""

import numpy as np
from common import make_parser, parse

from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import Tokenizer


def main():
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--length", type=int, default=20, help="characters; default: %(default)s")
    add("--steps", type=int, default=500, help="default: %(default)s")
    add("--chains", type=int, default=4, help="texts, independent ones; default: %(default)s")
    add("--temperature", type=float, default=1.0, help="default: %(default)s")
    args = parse(parser, needs=["config"])
    steps = 20 if args.smoke else args.steps

    tokenizer = Tokenizer(args.vocab, do_lower_case=True)
    model = build_transformer_model(
        args.config, args.checkpoint, model=args.model, with_mlm="linear"
    )
    rng = np.random.default_rng(args.seed)
    # Only what is a token of a text may be drawn: nothing like [UNK] or [unused1].
    tokens = map(tokenizer.id_to_token, range(tokenizer._vocab_size))
    special = np.array([tokenizer._is_special(token) for token in tokens])

    masks = [tokenizer._token_mask_id] * args.length
    row = [tokenizer._token_start_id, *masks, tokenizer._token_end_id]
    ids = np.array([row] * args.chains)
    segments, chains = np.zeros_like(ids), np.arange(args.chains)
    for step in range(1, steps + 1):
        places = rng.integers(1, args.length + 1, args.chains)
        ids[chains, places] = tokenizer._token_mask_id
        logits = model.predict([ids, segments], verbose=0)[chains, places]
        # The greatest of logits plus Gumbel noise is a draw from their softmax.
        noise = rng.gumbel(size=logits.shape)
        scores = np.where(special, -np.inf, logits / args.temperature + noise)
        ids[chains, places] = scores.argmax(axis=-1)
        if step % max(steps // 5, 1) == 0:
            print(f"after {step} steps")
            for chain in ids:
                print("  ", tokenizer.decode(chain))


if __name__ == "__main__":
    main()
