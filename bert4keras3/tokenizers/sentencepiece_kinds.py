"""What transformers knows about its SentencePiece tokenizers, and their folders need not say."""

import os
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from bert4keras3.tokenizers.configuration import read_json

SAVE_WHOLE = (
    "save a tokenizer.json there with transformers' "
    "`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
)


def _unchanged(text, configuration):
    return text


def _albert_text(text, configuration):
    text = text.replace("``", '"').replace("''", '"')
    if not configuration.get("keep_accents", False):
        text = unicodedata.normalize("NFKD", text)
        text = "".join(char for char in text if unicodedata.category(char) != "Mn")
    return text.lower() if configuration.get("do_lower_case", True) else text


def _deberta_text(text, configuration):
    return text.lower() if configuration.get("do_lower_case", False) else text


class Kind(NamedTuple):
    """A class of tokenizers.

    Attributes:
        tokens: {configuration key of a special token: its name}.
        start, end: the keys of the tokens around a text, or None.
        switches: {'start' or 'end': (key that switches it, value where it is absent)}.
        extra_ids: number of tokens <extra_id_0> ... after the model's own.
        one_beginning: whether what follows a special token gets no blank before it, unless the
            key "legacy" says so.
        normalize: function (text, configuration) -> text, applied before the model.
        unsupported: keys that must not be set.
    """

    tokens: dict[str, str]
    start: str | None = None
    end: str | None = None
    switches: dict[str, tuple[str, bool]] = {}
    extra_ids: int = 0
    one_beginning: bool = False
    normalize: Callable[[str, dict], str] = _unchanged
    unsupported: tuple[str, ...] = ()


def _tokens(**names):
    return {f"{role}_token": name for role, name in names.items()}


_BRACKETS = _tokens(bos="[CLS]", eos="[SEP]", sep="[SEP]", cls="[CLS]", mask="[MASK]")
_DECODER = Kind(
    _tokens(bos="<s>", eos="</s>", unk="<unk>"),
    start="bos_token",
    end="eos_token",
    switches={"start": ("add_bos_token", True), "end": ("add_eos_token", False)},
    one_beginning=True,
)
_GEMMA = _DECODER._replace(
    tokens=_tokens(bos="<bos>", eos="<eos>", unk="<unk>", pad="<pad>", mask="<mask>")
)
_T5 = Kind(_tokens(eos="</s>", unk="<unk>", pad="<pad>"), end="eos_token", extra_ids=100)
_ENCODER = Kind(_BRACKETS, start="cls_token", end="sep_token")
_ALBERT = _ENCODER._replace(
    tokens=_BRACKETS | _tokens(unk="<unk>", pad="<pad>"), normalize=_albert_text
)
_DEBERTA = _ENCODER._replace(
    tokens=_BRACKETS | _tokens(unk="[UNK]", pad="[PAD]"),
    normalize=_deberta_text,
    unsupported=("split_by_punct",),
)

# by class without "Tokenizer", or by model type; lower case, without signs
KINDS = {
    "llama": _DECODER,
    "mistral": _DECODER,
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "gemma3text": _GEMMA,
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "albert": _ALBERT,
    "debertav2": _DEBERTA,
}


def find_kind(path, configuration):
    """The `Kind` of a folder's tokenizer.

    Args:
        path: path of the SentencePiece model in the folder.
        configuration: dictionary of the folder's `tokenizer_config.json`.

    Returns:
        `Kind`.

    Raises:
        ValueError: the folder does not say, or it is one whose ids are not the model's.
    """
    folder = os.path.dirname(path)
    config = read_json(folder, "config.json")
    name = configuration.get("tokenizer_class") or config.get("tokenizer_class")
    name = name or config.get("model_type")
    if name is None:
        raise ValueError(
            f"{folder!r}: neither tokenizer_config.json (tokenizer_class) nor config.json "
            f"(model_type) says what {os.path.basename(path)} is read with; {SAVE_WHOLE}, or use "
            "SpTokenizer with its token_start and token_end"
        )
    short = str(name).removesuffix("Fast").removesuffix("Tokenizer")
    kind = KINDS.get("".join(filter(str.isalnum, short)).lower())
    foreign = [key for key in kind.unsupported if configuration.get(key)] if kind else []
    if kind is None or foreign:
        asked = f"{name!r} with {', '.join(foreign)}" if foreign else repr(name)
        raise ValueError(
            f"{folder!r}: {os.path.basename(path)} alone does not make the ids of a tokenizer of "
            f"kind {asked} (known: {', '.join(KINDS)}); {SAVE_WHOLE}"
        )
    return kind
