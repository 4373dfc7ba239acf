"""Text in, text out: a model and its tokenizer behind one call."""

import os
from contextlib import closing
from itertools import islice
from pathlib import Path

from bert4keras3.data import POET
from bert4keras3.generation.options import Options, token_ids
from bert4keras3.generation.pieces import IncrementalDecoder, StopCutter
from bert4keras3.generation.prompts import check_generates
from bert4keras3.generation.sources import takes_contexts
from bert4keras3.models.build import build_transformer_model
from bert4keras3.models.config import read_config
from bert4keras3.models.transformer import Transformer
from bert4keras3.tokenizers import load_tokenizer

# Options that only a whole generation has, and those of ids, which texts have no use for.
NOT_STREAMED = (
    "batch_size",
    "progress",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "first_prompt",
)
OF_IDS = ("segments", "decoder_prompts", "return_log_probs")


class TextGenerator:
    """Continues texts, or answers them with others.

        generator = TextGenerator("path/of/the/folder")
        print(generator.generate("Once upon a time"))

    A prompt is encoded with the special tokens that its tokenizer prescribes, but an
    end token after it is left out (a BERT tokenizer's [SEP], say): for a causal model
    the text would be over. A UniLM and a seq2seq model keep it, as it ends the first of
    two texts: they answer the prompt with another one.

    Texts end at the `end_token` option; by default at `generation_config.json`'s
    eos_token_id, or else the model's own `end_token_id`, or else the tokenizer's end
    token.

    Args:
        model: a Hugging Face folder, by default that of the packaged poet; or a built
            `Transformer`, which takes a tokenizer.
        tokenizer: None for the folder's own.
        **kwargs: arguments of `build_transformer_model` for a folder.

    Attributes:
        transformer: the model, with `generate` and `stream` of ids.
        tokenizer: reads and writes the texts.
        end_token: id, or list of ids, that ends a text; None for none.
        continues: whether the texts go on with their prompts; else they are texts of their own.

    Raises:
        FileNotFoundError: the folder, or a file that it must have, is not there.
        ValueError: files that are damaged, or a model that cannot continue a text.
        TypeError: a model of another kind, or arguments that do not go with it.
    """

    def __init__(self, model=POET, tokenizer=None, **kwargs):
        folder = Path(model) if isinstance(model, (str, os.PathLike)) else None
        if folder is not None:
            if not folder.is_dir():
                raise FileNotFoundError(f"no model folder at {folder}")
            tokenizer = load_tokenizer(folder) if tokenizer is None else tokenizer
            model = build_transformer_model(folder, **{**kwargs, "return_keras_model": False})
        elif not isinstance(model, Transformer):
            raise TypeError(
                "model: expected a folder or a Transformer (build_transformer_model(..., "
                f"return_keras_model=False)), got {type(model).__name__}"
            )
        elif kwargs or tokenizer is None:
            raise TypeError("with a Transformer, a tokenizer is needed, and nothing else is taken")
        check_generates(model)
        if model.source_inputs and takes_contexts(model):
            raise ValueError(f"{type(model).__name__} reads no texts without its encoder")
        self.transformer, self.tokenizer = model, tokenizer
        self.end_token = _find_end_token(folder, model, tokenizer)
        self.continues = model.attention_kind != "unilm" and not model.source_inputs
        self._ending = _tokens_after_texts(tokenizer) if self.continues else 0

    def generate(self, prompts, max_new_tokens=None, *, stop=(), num_samples=1, **options):
        """Continue texts.

        Args:
            prompts: a text, or a list of texts.
            max_new_tokens: tokens to add at most, 128 by default.
            stop: a string or a list of them; a text ends before the first that is
                complete. A lone prompt is not computed further; where there are
                several, or num_samples or num_beams, texts are cut afterwards.
            num_samples: continuations of each prompt.
            **options: as `Transformer.generate`: temperature, top_k, top_p, min_p,
                repetition_penalty, num_beams, batch_size, progress, seed ...

        Returns:
            What follows the prompt, with the blank between them if there is to be
            one, or the answer to it: a str, a list of str with several samples; or
            for a list of prompts a list of these.

        Raises:
            TypeError: a prompt that is no str, or an unknown option.
            ValueError: an empty prompt where the tokenizer adds no start token, or
                an option out of its range.
            GenerationError: the model gave NaN.
        """
        stop = _stop_strings(stop)
        single = isinstance(prompts, str)
        plain = num_samples == options.get("num_beams", 1) == 1
        if single and stop and plain and not options.get("first_prompt"):
            kept = {name: x for name, x in options.items() if name not in NOT_STREAMED}
            return "".join(self.stream(prompts, max_new_tokens, stop=stop, **kept))
        rows = self._encode([prompts] if single else prompts)
        options, ends = self.with_ends(options)
        results = self.transformer.generate(
            rows, max_new_tokens, num_samples=num_samples, **options
        )
        texts = []
        for row, found in zip(rows, results, strict=True):
            samples = [found] if num_samples == 1 else found
            written = ["".join(self._write(row, ids, ends, stop)) for ids in samples]
            texts.append(written[0] if num_samples == 1 else written)
        return texts[0] if single else texts

    def generate_stream(self, prompts, max_new_tokens=None, *, at_once=128, seed=None, **options):
        """Continue prompts that need not fit into memory, such as the lines of an open file.

        Args:
            prompts: an iterable of str.
            at_once: prompts that are sorted by length and batched together.
            max_new_tokens, seed, **options: as `generate`. With a seed, texts are those that
                one call would draw.

        Returns:
            An iterator of what `generate` returns for each prompt.

        Raises:
            as `generate`, when it comes to it; an index counts from the `at_once` prompts on.
        """
        if isinstance(prompts, str):
            raise TypeError("prompts: expected an iterable of str, got a single str")
        return self._generate_stream(iter(prompts), max_new_tokens, at_once, seed, options)

    def _generate_stream(self, prompts, max_new_tokens, at_once, seed, options):
        seed, first = Options(seed=seed).make_seed(), 0
        options = {"progress": False, **options, "seed": seed}
        while block := list(islice(prompts, at_once)):
            yield from self.generate(block, max_new_tokens, first_prompt=first, **options)
            first += len(block)

    def stream(self, prompt, max_new_tokens=None, *, stop=(), **options):
        """Continue a text and yield it piece by piece, as it comes.

        Text that may turn out to be the beginning of a stop string, or half of a
        character, is held back until that is decided.

        Args:
            prompt: a text.
            max_new_tokens, stop: as `generate`.
            **options: as `Transformer.stream`.

        Returns:
            An iterator of str; joined they are what `generate` returns. Leaving it
            early frees its memory.

        Raises:
            as `generate`.
        """
        stop = _stop_strings(stop)
        (row,) = self._encode([prompt])
        options, ends = self.with_ends(options)
        ids = self.transformer.stream(row, max_new_tokens, **options)
        return self._stream(row, ids, ends, stop)

    def _stream(self, row, ids, ends, stop):
        with closing(ids):
            yield from self._write(row, ids, ends, stop)

    def _write(self, row, ids, ends, stop):
        """The text of new ids, in pieces."""
        decoder = IncrementalDecoder(self.tokenizer, row if self.continues else ())
        cutter = StopCutter(stop)
        for i in ids:
            if i in ends:
                break
            piece = cutter.push(decoder.push(i))
            if piece:
                yield piece
            if cutter.found:
                return
        rest = cutter.push(decoder.finish()) + cutter.finish()
        if rest:
            yield rest

    def _encode(self, prompts):
        """Lists of ids."""
        if not hasattr(prompts, "__iter__"):
            raise TypeError(f"prompts: expected a str or several, got {type(prompts).__name__}")
        prompts = list(prompts)
        for i, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                raise TypeError(f"prompt {i}: expected a str, got {type(prompt).__name__}")
        rows = [ids[: len(ids) - self._ending] for ids, _ in self.tokenizer.encode_batch(prompts)]
        for i, row in enumerate(rows):
            if not row:
                raise ValueError(
                    f"prompt {i} is empty: {prompts[i]!r} has no tokens, and the tokenizer "
                    "adds no start token"
                )
        return rows

    def with_ends(self, options):
        """The options of the model, and the ids that end a text."""
        for name in OF_IDS:
            if name in options:
                raise TypeError(f"a TextGenerator takes no {name!r}: use its transformer")
        ends = self.end_token if options.get("end_token") is None else options["end_token"]
        ends = token_ids("end_token", [] if ends is None else ends, self.transformer.vocab_size)
        return {**options, "end_token": ends}, ends


def _stop_strings(stop):
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for one in stops:
        if not isinstance(one, str) or not one:
            raise ValueError(f"stop: expected strings that are not empty, got {one!r}")
    return stops


def _find_end_token(folder, transformer, tokenizer):
    """The end of texts, from the first that names one."""
    path = None if folder is None else folder / "generation_config.json"
    if path is not None and path.is_file():
        found = read_config(path).get("eos_token_id")
        if found is not None:
            return found
    own = transformer.end_token_id
    return getattr(tokenizer, "_token_end_id", None) if own is None else own


def _tokens_after_texts(tokenizer):
    """How many tokens the tokenizer puts after every text."""
    rust = getattr(tokenizer, "_rust", None)
    if rust is None:
        return int(getattr(tokenizer, "_token_end", None) is not None)
    if not rust.num_special_tokens_to_add(False):
        return 0
    # One of them as a text tells what stands before it and what after it.
    text = tokenizer.id_to_token(tokenizer.encode("")[0][0])
    added = rust.encode(text).special_tokens_mask
    return added[::-1].index(0) if 0 in added else 0
