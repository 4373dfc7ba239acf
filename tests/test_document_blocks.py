"""No code block of the documents is without a test.  pytest tests/test_document_blocks.py

Blocks that state a signature are compared with ours; all others are in the table below, by their
first line. Run as a script, it lists the blocks and what covers each.
"""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from bert4keras3 import backend, layers, models, snippets, tokenizers
from bert4keras3.models.masks import LM_Mask, UniLM_Mask
from bert4keras3.models.t5_halves import T5_Base

DOCUMENTS = Path(__file__).parent.parent.parent / "shared" / "spec" / "documents"
MODULES = (layers, models, tokenizers, snippets, backend)
MIXINS = {"LM_Mask": LM_Mask, "UniLM_Mask": UniLM_Mask, "T5_Base": T5_Base}
SHELL = "a command line, of other projects"
QUOTE = "no code: a quotation, or a line that says where the rest belongs"
# Misspelt names that are aliases of the right ones.
SLIPS = {"share_emebding": "share_embedding"}
GUIDE = "test_documents::test_methods_as_the_guide_to_models_has_them"
RWKV = "test_documents_rwkv::"
# First line, or 'document:line': a test, or why there is none.
COVERED = {
    "pip": SHELL,
    "#cuda12": SHELL,
    "import jieba": "test_documents::test_tokenizer_with_pre_tokenize",
    "ids = np.arrange(10)*1. #假设你有这个一些token": "test_documents::test_float_ids_are_decoded",
    "def load_data(texts,labels):": "test_documents::test_data_generator_example",
    "a_bias = False": "test_documents::test_documented_arguments_in_their_order",
    "os.environ['ENABLE_LORA']='1'": "test_lora::test_environment_variable",
    "os.environ['FLASH_ATTN']='1'": "test_flash::test_switch",
    "os.environ['TF_KERAS']='1'": "test_tf_keras::test_the_library_under_tf_keras",
    "maxlen=512": "test_documents::test_cache_model_with_a_length_for_each_input",
    "t5 = build_transformer_model(": "test_documents::test_t5_gives_its_halves",
    "class TimeShift(Layer):": "test_documents::test_time_shift_is_that_of_the_document",
    "def call(self, inputs):": GUIDE,
    "def set_inputs(self, inputs, additional_input_layers=None):": GUIDE,
    "def load_embeddings(self, embeddings):": GUIDE,
    "def compute_attention_bias(self, inputs=None):": GUIDE,
    "model = build_transformer_model(": GUIDE,
    "if self.with_nsp and not self.with_pool:": "test_documents::test_nsp_needs_the_pooled_token",
    "Embedding的数学本质，就是以one hot为输入的单层全连接。": QUOTE,
    "import os": RWKV + "test_building",
    "from bert4keras3.layers import Loss": RWKV + "test_training",
    "RWKV.enable_state_tunig(self,": RWKV + "test_training",
    "penalty = 1.0": RWKV + "test_generation",
    "generate_model = build_cache_model(": RWKV + "test_generation",
    "text = '''\\n下面是一个关于python实现'''": RWKV + "test_generation",
    "def generate(test_text):": RWKV + "test_generation_with_states",
    "from bert4keras3 import ops": "test_documents::test_ops_is_keras_ops",
}


def blocks(text):
    """(line number, code) of fenced blocks, and of indented ones where nothing is fenced."""
    lines = text.splitlines()
    places = [i for i, x in enumerate(lines) if x.strip().startswith("```") and x.count("```") == 1]
    for start, end in zip(places[::2], places[1::2], strict=True):
        yield start + 2, "\n".join(lines[start + 1 : end])
    start = None
    for i, line in enumerate([] if places else [*lines, "end"]):
        if line.strip() and line.startswith("    ") == (start is None):
            if start is not None:
                yield start + 1, "\n".join(lines[start:i]).rstrip()
            start = i if start is None else None


def signature(code):
    """(name, arguments) of a block that is a signature, else None; a class has its base's name."""
    code = re.sub(r"#[^\n]*", "", code).replace("，", ",").replace("：", ":").strip()
    made = re.match(r"class (\w+)\([\w, ]*\):?\s*(\"\"\".*?\"\"\"\s*)?", code, flags=re.S)
    if made:
        code = code[made.end() :]
        if not code:
            return made[1], []
    found = re.match(r"(?:def )?([\w.]+)\s*(\(|$)", code)
    if not found or (made and found[1] != "__init__") or "=" in code[: found.start(1)]:
        return None
    depth, parts = 1, [""]
    for char in code[found.end() :]:
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            break
        if char == "," and depth == 1:
            parts.append("")
        else:
            parts[-1] += char
    names = [re.split("[=:]", part)[0].strip() for part in parts]
    names = [name for name in names if name not in ("", "self") and not name.startswith("*")]
    if not all(name.isidentifier() for name in names):
        return None
    return (made[1] if made else found[1]), names


def ours(name, owner=None):
    """The function or class of a name in the documents, or None.

    Args:
        name: such as `BERT`, `Tokenizer.encode`, or `call`.
        owner: the class that the document wrote of last, for a method's bare name.
    """
    first, _, method = name.partition(".")
    if hasattr(owner, first):
        return getattr(owner, first)
    places = [module for module in MODULES if hasattr(module, first)]
    found = getattr(places[0], first) if places else MIXINS.get(first)
    return getattr(found, method) if method else found


def parameters(function):
    """Names that a function takes; of a class, its own and then those of its bases."""
    makers = [function]
    if isinstance(function, type):
        makers = [vars(c)["__init__"] for c in function.__mro__[:-1] if "__init__" in vars(c)]
    names = [name for maker in makers for name in inspect.signature(maker).parameters]
    return [name for name in dict.fromkeys(names) if name != "self"]


def cover(document):
    """(line number, code, what covers it) of each block; a signature as (function, names)."""
    owner = None
    for line, code in blocks(document.read_text(encoding="utf-8")):
        first = next(x.strip() for x in code.splitlines() if x.strip())
        covered = next((why for key, why in COVERED.items() if first.startswith(key)), None)
        if covered is None and (stated := signature(code)):
            function = ours(stated[0], owner)
            owner = function if isinstance(function, type) else owner
            covered = None if function is None else (function, stated[1])
        yield line, code, covered


def documents():
    """The documents; 001 is 000 again, without its fences."""
    return [p for p in sorted(DOCUMENTS.glob("*.txt")) if not p.name.startswith("001")]


pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not documents(), reason="no documents beside the repository"),
]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name[:3])
def test_every_block_is_covered(document):
    for line, code, covered in cover(document):
        assert covered, f"line {line}: {code}"
        if str(covered).startswith("test_"):
            module, _, name = covered.partition("::")
            assert hasattr(importlib.import_module(module), name), covered


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name[:3])
def test_signatures(document):
    for line, _, covered in cover(document):
        if isinstance(covered, tuple):
            function, names = covered
            taken = parameters(function)
            names = [SLIPS.get(name, name) for name in names]
            where = f"line {line}: {function.__qualname__}"
            assert set(names) <= set(taken), f"{where} takes {taken}"
            own = [name for name in inspect.signature(function).parameters if name in names]
            assert own == [name for name in names if name in own], f"{where}: the order"


if __name__ == "__main__":
    for document in documents():
        for line, _, covered in cover(document):
            name = covered[0].__qualname__ if isinstance(covered, tuple) else covered
            print(f"{document.name[:3]}:{line:<5} {name}")
