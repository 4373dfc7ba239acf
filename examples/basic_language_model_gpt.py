"""Continue a text with a GPT: on the host, step by step, and compiled with a cache.

    python examples/basic_language_model_gpt.py                 # the poems of this package
    python examples/basic_language_model_gpt.py --model FOLDER --prompt "Once upon a time"
    python examples/basic_language_model_gpt.py --model gpt2_ml --config config.json \\
        --checkpoint model.ckpt-100000 --vocab vocab.txt --prompt "今天天气不错"
    python examples/basic_language_model_gpt.py --smoke

FOLDER is any decoder in Hugging Face form. Both ways draw from the tokens that have the mass p
together; `generate` does so without leaving the device.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import bert4keras3
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import AutoRegressiveDecoder
from bert4keras3.tokenizers import Tokenizer, load_tokenizer

POET = Path(bert4keras3.__file__).parent / "data" / "poet"


class Continuation(AutoRegressiveDecoder):
    """Random continuations, the whole text through the model at every step."""

    def __init__(self, model, **options):
        super().__init__(start_id=None, **options)
        self.model = model

    @AutoRegressiveDecoder.wraps(default_rtype="logits")
    def predict(self, inputs, output_ids, states):
        token_ids = np.concatenate([inputs[0], output_ids], axis=1)
        return self.last_token(self.model).predict(token_ids)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=POET, help="a folder; with --config a family: gpt, gpt2, gpt2_ml")
    add("--config", help="configuration of a TensorFlow checkpoint")
    add("--checkpoint", help="the checkpoint")
    add("--vocab", help="its vocab.txt")
    add("--prompt", default="春风又", help="default: %(default)s")
    add("--tokens", type=int, default=48, help="at most; default: %(default)s")
    add("--topp", type=float, default=0.9, help="the mass p; default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--smoke", action="store_true", help="a few tokens")
    args = parser.parse_args()
    count = 4 if args.smoke else args.tokens

    if args.config is None:
        tokenizer = load_tokenizer(args.model)
        transformer = build_transformer_model(args.model, return_keras_model=False)
    else:
        tokenizer = Tokenizer(args.vocab, do_lower_case=True, token_start=None, token_end=None)
        transformer = build_transformer_model(
            args.config, args.checkpoint, args.model, with_lm="linear", return_keras_model=False
        )
    ids = tokenizer.encode(args.prompt)[0]

    def timed(name, function):
        start = time.perf_counter()
        texts = [tokenizer.decode([*ids, *map(int, new)]) for new in function()]
        print(f"{name}, {time.perf_counter() - start:.1f} s with compilation")
        print(*(f"    {text}" for text in texts), sep="\n")

    np.random.seed(args.seed)
    host = Continuation(transformer.model, end_id=transformer.end_token_id, maxlen=count)
    timed("on the host", lambda: host.random_sample([ids], n=2, topp=args.topp))
    options = {"top_p": args.topp, "seed": args.seed}
    timed("compiled", lambda: transformer.generate([ids] * 2, count, **options))


if __name__ == "__main__":
    main()
