"""A chat: messages in, replies out, each turn computing only what is new."""

from contextlib import closing

from bert4keras3.generation.conversation import Conversation
from bert4keras3.generation.pieces import IncrementalDecoder
from bert4keras3.generation.text import TextGenerator
from bert4keras3.tokenizers import ChatTemplate


class Chat:
    """A chat with the model of a Hugging Face folder.

        chat = Chat("path/of/the/folder")
        print(chat.send("Good morning!"))

    Args:
        model: a folder with a chat template, or a `TextGenerator`, which takes one.
        template: a `ChatTemplate`; None for the folder's own.
        system: text of a first message with the role 'system'; None for none.
        quantization: of a folder's weights, as `build_transformer_model`.
        **options: of every reply, as `Options`, and max_new_tokens.

    Attributes:
        messages: the chat so far, a list of `{"role", "content"}`.
        conversation: the `Conversation` below it, with its ids and memory.

    Raises:
        as `TextGenerator` and `ChatTemplate.from_folder`.
    """

    def __init__(self, model, template=None, system=None, quantization=None, **options):
        if template is None:
            if isinstance(model, TextGenerator):
                raise TypeError("with a TextGenerator, a template is needed")
            template = ChatTemplate.from_folder(model)
        if not isinstance(model, TextGenerator):
            model = TextGenerator(model, quantization=quantization)
        elif quantization is not None:
            raise TypeError("quantization: a TextGenerator has a model already")
        self.generator = model
        self.template, self.options = template, options
        self.system = system
        self.conversation = Conversation(self.generator.transformer)
        self.reset()

    def reset(self):
        """Begin anew."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        self.conversation.reset()
        self._written = ""  # the text of the conversation's ids

    def send(self, text, **options):
        """Say something and get the reply, a str; options as of the class, for this one."""
        return "".join(self.stream(text, **options))

    def stream(self, text, **options):
        """As `send`, but an iterator of the reply's pieces.

        A reply that is left early stays in the chat as far as it came.

        Raises:
            as `Transformer.generate` and `ChatTemplate.apply`.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        written = self.template.apply(messages)
        ids = self._ids(written)
        options, ends = self.generator.with_ends({**self.options, **options})
        new = self.conversation.stream(ids, options.pop("max_new_tokens", None), **options)
        self.messages = messages
        return self._stream(written, new, set(ends))

    def _stream(self, written, new, ends):
        decoder, pieces = IncrementalDecoder(self.generator.tokenizer), []
        try:
            with closing(new):
                for token in new:
                    if token in ends:
                        break
                    pieces.append(decoder.push(token))
                    if pieces[-1]:
                        yield pieces[-1]
            pieces.append(decoder.finish())
            if pieces[-1]:
                yield pieces[-1]
        finally:
            reply = "".join(pieces)
            self.messages = [*self.messages, {"role": "assistant", "content": reply}]
            self._written = written + reply

    def _ids(self, written):
        """The ids of the whole text; what is known of it keeps the ids it was made of."""
        tokenizer, known = self.generator.tokenizer, self.conversation.ids
        if not known or not written.startswith(self._written):
            return tokenizer.encode_written(written)
        rest = written[len(self._written) :]
        last = tokenizer.id_to_token(known[-1])
        if not self._written.endswith(last) and rest.startswith(last):
            rest = rest[len(last) :]  # the end token, which the template writes again
        return known + tokenizer.encode_written(rest)
