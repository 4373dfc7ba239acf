"""Chats as texts: the template that a model's folder prescribes for them."""

import os

from bert4keras3.tokenizers.configuration import SPECIAL_TOKENS, named, read_configuration

# what templates may rely on, given or not
ALWAYS_DEFINED = {"tools": None, "documents": None}


class ChatTemplate:
    """Writes a chat as the text that a chat model was trained on.

        template = ChatTemplate.from_folder("path/of/the/folder")
        text = template.apply([{"role": "user", "content": "Good morning!"}])

    Templates are programs of Jinja (the package jinja2) that come with downloaded models. They
    run in a sandbox: what they see is plain data, and no file or Python object is in reach.

    The text has its special tokens already, the start token often among them: encode it without
    adding any.

    Args:
        template: the template; or a dictionary {name: template} with 'default', and perhaps
            'tool_use', which is for chats with `tools`.
        special_tokens: dictionary {'bos_token': '<s>', ...}, variables of the template.
        source: what to call it in errors.

    Raises:
        ImportError: jinja2 is not installed, or is older than 3.1.6.
        ValueError: a template that is not Jinja's, or no default one.
        TypeError: a template that is no str.
    """

    def __init__(self, template, special_tokens=None, source="the chat template"):
        templates = template if isinstance(template, dict) else {"default": template}
        self._source = source
        self._special_tokens = dict(special_tokens or {})
        if "default" not in templates:
            raise ValueError(f"{source}: no 'default' among the templates {list(templates)}")
        compile_template = _jinja().compile_template
        self._templates = {name: compile_template(text, source) for name, text in templates.items()}

    @classmethod
    def from_folder(cls, folder):
        """The template of a Hugging Face folder.

        It is in `chat_template.jinja` (others in `chat_templates/`), or else the `chat_template`
        of `tokenizer_config.json`.

        Args:
            folder: path of the folder.

        Returns:
            ChatTemplate.

        Raises:
            FileNotFoundError: the folder has no chat template.
            ImportError, TypeError, ValueError: as the class.
        """
        folder = os.fspath(folder)
        configuration = read_configuration(folder)
        templates = _read_files(folder) or _listed(configuration.get("chat_template"), folder)
        if not templates:
            raise FileNotFoundError(
                f"no chat template in {folder!r}: looked for chat_template.jinja and for "
                "chat_template in tokenizer_config.json"
            )
        special = {key: named(configuration, key) for key in SPECIAL_TOKENS}
        special = {key: token for key, token in special.items() if token is not None}
        return cls(templates, special, f"the chat template of {folder!r}")

    def apply(self, messages, add_generation_prompt=True, **variables):
        """Write a chat as text.

        Args:
            messages: list of dictionaries with 'role' ('system', 'user', 'assistant' ...) and
                'content' (a str), and what else the template reads; the content may be missing
                where there are 'tool_calls'.
            add_generation_prompt: whether the text ends with what an answer begins with.
            **variables: further variables of the template (`tools`, `enable_thinking` ...), made
                of what JSON has.

        Returns:
            The text.

        Raises:
            ValueError: messages that are incomplete or that the template refuses; a template
                that fails, or that reaches for what it must not.
            TypeError: messages or variables of a wrong kind.
        """
        known = {"messages": _checked(messages), "add_generation_prompt": add_generation_prompt}
        for name, value in variables.items():
            known[name] = _plain(value, name)
        named_for_tools = "tool_use" if known.get("tools") else "default"
        template = self._templates.get(named_for_tools) or self._templates["default"]
        return _jinja().render(
            template, {**ALWAYS_DEFINED, **self._special_tokens, **known}, self._source
        )


def _jinja():
    try:
        from bert4keras3.tokenizers import jinja
    except ImportError as error:
        raise ImportError(
            f"chat templates need the package jinja2, 3.1.6 or newer ({error}): "
            "pip install 'bert4keras3[chat]'"
        ) from error
    return jinja


def _read_files(folder):
    """{name: template} of the folder's files."""
    paths = {"default": os.path.join(folder, "chat_template.jinja")}
    further = os.path.join(folder, "chat_templates")
    if os.path.isdir(further):
        for name in sorted(os.listdir(further)):
            stem, extension = os.path.splitext(name)
            if extension == ".jinja":
                paths[stem] = os.path.join(further, name)
    return {name: _read(path) for name, path in paths.items() if os.path.isfile(path)}


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is not utf-8: {error}") from error


def _listed(templates, folder):
    """{name: template} of what tokenizer_config.json has."""
    if not isinstance(templates, list):
        return templates
    try:
        return {entry["name"]: entry["template"] for entry in templates}
    except (KeyError, TypeError):
        raise ValueError(
            f"{os.path.join(folder, 'tokenizer_config.json')!r}: chat_template must be a str or a "
            'list of {"name": ..., "template": ...}'
        ) from None


def _checked(messages):
    """The messages as plain data, without what is None."""
    if isinstance(messages, (str, bytes, dict)) or not hasattr(messages, "__iter__"):
        raise TypeError(f"messages must be a list of dictionaries, found {type(messages).__name__}")
    checked = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise TypeError(f"message {i} must be a dictionary, found {type(message).__name__}")
        message = {key: value for key, value in message.items() if value is not None}
        for key in ("role", "content"):
            if key == "content" and key not in message and message.get("tool_calls"):
                continue
            if not isinstance(message.get(key), str):
                found = type(message[key]).__name__ if key in message else "nothing"
                raise ValueError(f"message {i}: {key!r} must be a str, found {found}")
        checked.append(_plain(message, f"message {i}"))
    if not checked:
        raise ValueError("messages is empty: a chat has one message at least")
    return checked


def _plain(value, name):
    """A copy made of JSON's kinds: methods of anything else would be in a template's reach."""
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        return {_plain(key, name): _plain(part, name) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part, name) for part in value]
    raise TypeError(f"{name} must be made of what JSON has, found {type(value).__name__}")
