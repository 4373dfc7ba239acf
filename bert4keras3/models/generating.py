"""The ways to generate from a model; the work is done in `bert4keras3.generation`."""


class Generating:
    """Mixin of `Transformer`: generation.

    Attributes:
        programs: what has been compiled for it.
        position_limit: number of positions the model can tell apart; None for any.
    """

    position_limit = None

    @property
    def lm_output(self):
        """The output that is, or may be, the language model's."""
        return self.outputs[-1]

    @property
    def context_length(self):
        """Number of positions the model was made for; None for any."""
        return self.position_limit

    def build_cache_model(
        self,
        input_lengths,
        end_token,
        search_mode="greedy",
        k=1,
        progress_print=False,
        index_bias=0,
        initial=True,
        seed=None,
    ):
        """A Keras model that completes token arrays with a cache of keys and values.

        Args:
            input_lengths: the lengths of the model's inputs; prompt and new tokens
                have to fit. The inputs that a condition of the layer norms comes from have
                none, and are fed after the others.
            end_token: id, or list of ids, that ends a row; -1 for never.
            search_mode: 'greedy', 'topk' or 'topp'.
            k: for 'topk' how many tokens are drawn from; for 'topp' the mass p, or
                [p, k] for the mass p within the top k.
            progress_print: on torch, print every step.
            index_bias: so many first positions count as tokens even if they hold
                the padding id (1 where a decoder starts with id 0).
            initial: accepted for older scripts; nothing is run before it is needed.
            seed: makes the draws of the model's calls reproducible, one after the
                other; by default they come from Python's `random`.

        Returns:
            A `CacheModel`: `predict` takes int arrays `(batch, length)`, prompts padded
            with the padding id at either side, and returns int32 `(batch, length)`:
            prompt, new tokens, padding. A row that has met its end token repeats it
            while others run. `penalty`, `penalty_window`, `max_penalty_range`,
            `temperature` and `mask_output` of the transformer apply.

        Raises:
            ValueError: an argument out of its range, or a model that cannot generate.
        """
        from bert4keras3.generation.cache_model import build_cache_model

        return build_cache_model(
            self,
            input_lengths,
            end_token,
            search_mode,
            k,
            progress_print,
            index_bias,
            initial,
            seed,
        )

    def generate(self, prompts, max_new_tokens=None, **options):
        """Continue prompts.

        Args:
            prompts: a list of ids; or several as a list of lists of any lengths, or
                as an array `(batch, length)` padded at either side. A seq2seq model makes
                new texts from them; they are what its encoder reads, or for a
                decoder alone what the encoder gives, `([batch,] length, hidden)`.
            max_new_tokens: tokens to add at most, 128 by default.
            **options: as `bert4keras3.generation.Options`, and
                segments: segment ids of the prompts, in the same form; 0 by
                default, and 1 for the new tokens of a UniLM.
                decoder_prompts: of a seq2seq model, ids that the new texts begin
                with, for all or as a list for each; its start token by default.
                states: of a recurrent model, what was remembered before the prompts:
                a state for all, or a list of one a prompt, None in it for the usual.
                conditions: of a model built with layer_norm_cond, what goes into its
                additional_input_layers (a list for several): for all prompts, or for each.
                num_samples: continuations of each prompt.
                num_beams: beams of a beam search; 1 for none.
                length_penalty: a beam's score is divided by its number of new
                tokens to this power.
                early_stopping: end a search once there are num_beams ended ones.
                batch_size: prompts at a time.
                first_prompt: number of the first one. With the same seed, prompts draw
                in several calls what they would in one.
                return_log_probs: also return the log-probability of each new
                token under the model.
                progress: show a bar; by default for several batches on a terminal.

        Returns:
            The new ids, their end token included, as a list for each prompt (of
            lists, with several samples; one list, for a single prompt); with
            return_log_probs a pair of that and the numbers in the same form.

        Raises:
            ValueError: a prompt, an option or the model itself does not fit.
            GenerationError: the model gave NaN.
        """
        from bert4keras3.generation.generate import generate

        return generate(self, prompts, max_new_tokens, **options)

    def stream(self, prompts, max_new_tokens=None, **options):
        """Continue prompts and yield the ids as they come.

        Args:
            prompts, max_new_tokens, segments, decoder_prompts, states, conditions: as
                `generate`.
            **options: as `bert4keras3.generation.Options`.

        Returns:
            An iterator of ids; of `(row, id)` for several prompts. Leaving it early
            frees its memory.

        Raises:
            as `generate`.
        """
        from bert4keras3.generation.generate import stream

        return stream(self, prompts, max_new_tokens, **options)
