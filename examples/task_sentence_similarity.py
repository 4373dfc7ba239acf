"""Fine-tune a pretrained model to say whether two sentences mean the same.

    python examples/task_sentence_similarity.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt --data LCQMC_FOLDER
    python examples/task_sentence_similarity.py --smoke

The data are files with train, valid and test in their names, lines
`sentence <tab> sentence <tab> label`, label 1 for pairs that mean the same. Both sentences are read
as one text, [CLS] first [SEP] second [SEP], the second one as segment 1; what stands at [CLS]
decides.
"""

import numpy as np
from common import add_task_arguments, make_parser, parse, read_splits, toy_pairs

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import BatchLoader
from bert4keras3.tokenizers import Tokenizer


def main():
    parser = make_parser(__doc__)
    add_task_arguments(parser)
    args = parse(parser, needs=["config", "data"])
    splits = read_splits(args.data, toy=toy_pairs)

    tokenizer = Tokenizer(args.vocab, do_lower_case=True)
    bert = build_transformer_model(
        args.config,
        args.checkpoint,
        model=args.model,
        with_pool=True,
        dropout_rate=0.1,
        return_keras_model=False,
    )
    x = keras.layers.Dropout(0.1)(bert.output)
    x = keras.layers.Dense(2, activation="softmax", kernel_initializer=bert.initializer)(x)
    model = keras.Model(bert.inputs, x)
    model.compile(
        keras.optimizers.AdamW(args.rate, weight_decay=0.01, global_clipnorm=1.0),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )

    def encode(sample):
        pair, label = sample
        first, second = pair.split("\t")
        return tokenizer.encode(first, second, maxlen=args.maxlen), label

    train, valid, test = (
        BatchLoader(list(zip(*splits[part], strict=True)), encode, 32, shuffle=part == "train")
        for part in ("train", "valid", "test")
    )
    model.fit(train, validation_data=valid, epochs=args.epochs, verbose=2)

    accuracy = model.evaluate(test, verbose=0)[1]
    print(f"accuracy on {len(splits['test'][0])} test pairs: {accuracy:.2%}")
    for pair in splits["test"][0][:4]:
        ids, segments = encode((pair, 0))[0]
        same = model.predict([np.array([ids]), np.array([segments])], verbose=0)[0, 1]
        print(f"  {same:6.1%}  ", " | ".join(pair.split("\t")))


if __name__ == "__main__":
    main()
