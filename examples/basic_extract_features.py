"""Turn texts into vectors, and save the model in Keras' own form.

    python examples/basic_extract_features.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt 语言模型 语言学 红烧牛肉
    python examples/basic_extract_features.py --config HUGGING_FACE_FOLDER 语言模型 语言学
    python examples/basic_extract_features.py --smoke

Prints the first numbers of each token's vector of the first text, and how similar the texts are:
the cosines of their mean vectors. What is saved and loaded again gives the same numbers.
"""

import tempfile
from pathlib import Path

import numpy as np
from common import make_parser, parse

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import sequence_padding
from bert4keras3.tokenizers import Tokenizer


def main():
    parser = make_parser(__doc__)
    parser.add_argument("texts", nargs="*", default=["床前明月光", "明月何时照我还", "春眠不觉晓"])
    parser.add_argument("--save", metavar="FILE.keras", help="keep the model there")
    args = parse(parser, needs=["config"])

    tokenizer = Tokenizer(args.vocab, do_lower_case=True)
    model = build_transformer_model(args.config, args.checkpoint, model=args.model)

    # One text: lists become arrays of one row.
    tokens, segments = tokenizer.encode(args.texts[0])
    features = model.predict([np.array([tokens]), np.array([segments])], verbose=0)
    print(f"{args.texts[0]}: {features.shape[1]} tokens, {features.shape[2]} numbers each")
    for token, vector in zip(tokenizer.tokenize(args.texts[0]), features[0], strict=True):
        print(f"  {token:<8}", *(f"{number:8.4f}" for number in vector[:6]), "...")

    # Many: padding does not influence what is beside it, but must be left out of the mean.
    ids, segments = map(sequence_padding, zip(*tokenizer.encode_batch(args.texts), strict=True))
    features = model.predict([ids, segments], verbose=0)
    real = (ids != 0)[:, :, None]
    vectors = (features * real).sum(axis=1) / real.sum(axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    print("\nsimilarities:")
    for text, row in zip(args.texts, vectors @ vectors.T, strict=True):
        print("  ", *(f"{cosine:6.3f}" for cosine in row), f"  {text}")

    with tempfile.TemporaryDirectory() as folder:
        path = args.save or str(Path(folder) / "model.keras")
        model.save(path)
        again = keras.models.load_model(path).predict([ids, segments], verbose=0)
    print(f"\nsaved and loaded: the largest difference is {np.abs(again - features).max():.1e}")


if __name__ == "__main__":
    main()
