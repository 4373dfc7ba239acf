"""Names of older libraries that are other ones here, and where a script has them.

One table: the command `bert4keras3 migrate` looks a script's names up in it, and
`docs/migrating.md` shows it. Nothing of the script is run or imported.
"""

import ast
from typing import NamedTuple

BUILD = "bert4keras3.models.build_transformer_model"
GENERATOR = "bert4keras3.generation.TextGenerator"

# An old name, a function or class with its module, to what stands in its place.
# A name that ends in `.*` is a module: what it has is in the new one under the same name.
# One that begins with a dot is a method, whatever it is called on; "def " a method that
# a class of the script defines.
FROM_BERT4KERAS = {
    "bert4keras.*": "bert4keras3.*",
    "bert4keras.backend.pool1d": "keras.layers.AveragePooling1D, keras.layers.MaxPooling1D",
    "bert4keras.backend.recompute_grad": "keras.remat",
    "bert4keras.backend.symbolic": "(no decorator)",
    "bert4keras.backend.graph_mode_decorator": "(no decorator)",
    "bert4keras.optimizers.*": "keras.optimizers.*",
    "bert4keras.optimizers.AdaFactor": "keras.optimizers.Adafactor",
    "bert4keras.optimizers.AdaFactorV1": "keras.optimizers.Adafactor",
    "bert4keras.optimizers.AdaFactorV2": "keras.optimizers.Adafactor",
    "bert4keras.optimizers.LionV2": "keras.optimizers.Lion",
    "bert4keras.optimizers.extend_with_weight_decay": (
        "bert4keras3.training.AdamW(weight_decay=...)"
    ),
    "bert4keras.optimizers.extend_with_layer_adaptation": "keras.optimizers.Lamb",
    "bert4keras.optimizers.extend_with_piecewise_linear_lr": (
        "Adam(bert4keras3.training.PiecewiseLinear(schedule, learning_rate))"
    ),
    "bert4keras.optimizers.extend_with_gradient_accumulation": (
        "Adam(gradient_accumulation_steps=...)"
    ),
    "bert4keras.optimizers.extend_with_exponential_moving_average": (
        "Adam(use_ema=True, ema_momentum=...)"
    ),
    "bert4keras.optimizers.extend_with_parameter_wise_lr": (
        "bert4keras3.training.AdamW(multipliers=...)"
    ),
    "bert4keras.optimizers.extend_with_lookahead": "Adam(use_ema=True, ema_momentum=...)",
    "bert4keras.optimizers.extend_with_lazy_optimization": "keras.optimizers.Adam",
    ".apply_ema_weights": "optimizer.finalize_variable_values(model.trainable_variables)",
    ".reset_old_weights": "model.set_weights(...), of model.get_weights() before",
    ".get_output_at": "layer.output",
    ".fit_generator": "model.fit",
    ".predict_generator": "model.predict",
    ".evaluate_generator": "model.evaluate",
    "._make_train_function": "bert4keras3.training.adversarial_training",
}

FROM_BERT4KERAS3 = {
    "bert4keras3.layers.TakeLayer": "keras.layers.Lambda",
    "bert4keras3.layers.SearchBase": "bert4keras3.generation.Sampler",
    "bert4keras3.layers.GreedySearch": "bert4keras3.generation.Greedy",
    "bert4keras3.layers.TopkSearch": "bert4keras3.generation.Sampler(top_k=...)",
    "bert4keras3.layers.ToppSearch": "bert4keras3.generation.Sampler(top_p=...)",
    "bert4keras3.backend.lora_model": "bert4keras3.training.enable_lora",
    "bert4keras3.backend.do_recompute": "build_transformer_model(remat=True)",
    "bert4keras3.backend.use_keras_2": "bert4keras3.backend.is_tf_keras",
    "bert4keras3.backend.apply_rotary_position_embeddings_keras": (
        "bert4keras3.backend.apply_rotary_halves"
    ),
    "bert4keras3.backend.slices_index": "bert4keras3.ops.take",
    "def apply_main_cache_layers": "apply_main_layers, which generation calls too",
    "def compute_cache_position_bias": "compute_position_bias, which generation calls too",
    "def get_cache_inputs": "get_inputs, which generation reads too",
}

# Of `K`, the backend of Keras 2, in Keras 3. (With TF_KERAS=1 it is there.)
K_NAMES = {
    **{
        f"K.{name}": f"bert4keras3.ops.{name}"
        for name in """abs all any arange argmax argmin cast clip concatenate cos cumsum dot elu
        equal exp expand_dims eye greater greater_equal less less_equal log
        logsumexp max maximum mean min minimum not_equal one_hot ones ones_like prod
        relu repeat reshape round shape sigmoid sign sin softmax softplus sqrt
        square squeeze stack std sum tanh tile transpose var zeros zeros_like""".split()
    },
    "K.batch_dot": "bert4keras3.ops.einsum",
    "K.batch_gather": "bert4keras3.backend.batch_gather",
    "K.binary_crossentropy": "bert4keras3.ops.binary_crossentropy",
    "K.categorical_crossentropy": "bert4keras3.ops.categorical_crossentropy",
    "K.sparse_categorical_crossentropy": "bert4keras3.ops.sparse_categorical_crossentropy",
    "K.constant": "bert4keras3.ops.convert_to_tensor",
    "K.dtype": "bert4keras3.backend.dtype",
    "K.eval": "bert4keras3.ops.convert_to_numpy",
    "K.get_value": "bert4keras3.ops.convert_to_numpy",
    "K.set_value": "variable.assign",
    "K.variable": "keras.Variable",
    "K.function": "keras.Model",
    "K.gather": "bert4keras3.ops.take(axis=0)",
    "K.gradients": "bert4keras3.ops.value_and_gradients",
    "K.in_train_phase": "the argument training of the layer's call",
    "K.learning_phase": "the argument training of the layer's call",
    "K.int_shape": "bert4keras3.backend.int_shape",
    "K.ndim": "bert4keras3.ops.ndim",
    "K.permute_dimensions": "bert4keras3.ops.transpose",
    "K.pow": "bert4keras3.ops.power",
    "K.random_binomial": "keras.random.binomial",
    "K.random_normal": "keras.random.normal",
    "K.random_uniform": "keras.random.uniform",
    "K.stop_gradient": "bert4keras3.ops.stop_gradient",
    "K.switch": "bert4keras3.ops.where",
    "K.tf": "bert4keras3.ops",
}
BACKENDS = (
    "bert4keras.backend.K.",
    "bert4keras3.backend.K.",
    "bert4keras3.layers.K.",
    "bert4keras3.models.K.",
    "keras.backend.",
    "tensorflow.keras.backend.",
)

# `transformers` had these until its version 5.
TENSORFLOW_FAMILIES = """Auto Bert Roberta XLMRoberta Camembert Albert DistilBert Electra RoFormer
    DebertaV2 OpenAIGPT GPT2 Mistral T5 MT5""".split()
TENSORFLOW_CLASSES = {
    "Model": f"{BUILD}(folder)",
    "EncoderModel": f'{BUILD}(folder, model="t5_encoder")',
    "ForPreTraining": f'{BUILD}(folder, head="auto")',
    "ForMaskedLM": f'{BUILD}(folder, head="auto")',
    "ForNextSentencePrediction": f"{BUILD}(folder, with_nsp=True)",
    "ForSequenceClassification": f'{BUILD}(folder, head="sequence_classification")',
    "ForTokenClassification": f'{BUILD}(folder, head="token_classification")',
    "ForQuestionAnswering": f'{BUILD}(folder, head="question_answering")',
    "LMHeadModel": f"{GENERATOR}(folder)",
    "ForCausalLM": f"{GENERATOR}(folder)",
    "ForConditionalGeneration": f"{GENERATOR}(folder)",
    "ForSeq2SeqLM": f"{GENERATOR}(folder)",
}
FROM_TRANSFORMERS = {
    **{f"transformers.TF*{kind}": new for kind, new in TENSORFLOW_CLASSES.items()},
    "transformers.TFPreTrainedModel": "bert4keras3.models.Transformer",
    "transformers.TFTrainer": "model.fit",
    "transformers.AdamWeightDecay": "bert4keras3.training.AdamW",
    "transformers.WarmUp": "bert4keras3.training.PiecewiseLinear",
    "transformers.create_optimizer": (
        "bert4keras3.training.AdamW(bert4keras3.training.PiecewiseLinear(...))"
    ),
    "transformers.GradientAccumulator": "Adam(gradient_accumulation_steps=...)",
}

TABLES = {
    "bert4keras": FROM_BERT4KERAS,
    "K": K_NAMES,
    "bert4keras3": FROM_BERT4KERAS3,
    "transformers": FROM_TRANSFORMERS,
}
NAMES = {old: new for table in TABLES.values() for old, new in table.items()}


class Finding(NamedTuple):
    """An old name in a script.

    Attributes:
        line: its line, from 1 on.
        old: the name.
        new: what stands in its place.
    """

    line: int
    old: str
    new: str


def find_old_names(code, path="the script"):
    """The old names of a script, line by line.

    Args:
        code: the text of the script.
        path: its name, for messages.

    Returns:
        A list of `Finding`s.

    Raises:
        ValueError: it is not the code of a Python 3 script.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise ValueError(f"{path}, line {line}: no Python 3: {error}") from None
    finder = _Finder()
    finder.visit(tree)
    return sorted(set(finder.findings))


def look_up(name):
    """What stands in the place of a whole name, `module.name`; None for one that stays."""
    for backend in BACKENDS:
        if name.startswith(backend):
            return NAMES.get("K." + name[len(backend) :].split(".")[0])
    if name.startswith("transformers.TF"):
        return _tensorflow_class(name)
    if name in NAMES:
        return NAMES[name]
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module, rest = ".".join(parts[:end]), parts[end:]
        if f"{module}.*" in NAMES:
            return NAMES[f"{module}.*"].replace(".*", "".join(f".{part}" for part in rest))
    return None


def _tensorflow_class(name):
    if name in NAMES:
        return NAMES[name]
    for family in TENSORFLOW_FAMILIES:
        kind = name.removeprefix(f"transformers.TF{family}").replace("ModelFor", "For")
        if kind in TENSORFLOW_CLASSES:
            return TENSORFLOW_CLASSES[kind]
    return None


class _Finder(ast.NodeVisitor):
    """Collects what a script's names mean, and which of them are old.

    Attributes:
        findings: the `Finding`s.
    """

    def __init__(self):
        self.findings = []
        self._meanings = {}  # name in the script: the whole name
        self._stars = []  # modules of `from module import *`

    def _check(self, node, name):
        new = look_up(name)
        if new is not None:
            self.findings.append(Finding(node.lineno, name, new))
        return new is not None

    def visit_Import(self, node):
        for alias in node.names:
            self._check(node, alias.name)
            first = alias.name.partition(".")[0]
            self._meanings[alias.asname or first] = alias.name if alias.asname else first

    def visit_ImportFrom(self, node):
        if node.level:
            return  # a module of the script's own
        for alias in node.names:
            if alias.name == "*":
                self._check(node, node.module)
                self._stars.append(node.module)
                continue
            self._check(node, f"{node.module}.{alias.name}")
            self._meanings[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def visit_Attribute(self, node):
        name = self._whole_name(node)
        if name is None or not self._is_old_use(node, name):
            if f".{node.attr}" in NAMES:
                self._check(node, f".{node.attr}")
            self.generic_visit(node)

    def _is_old_use(self, node, name):
        # What the import is found for is not found at each use again.
        if name.startswith(BACKENDS) or f"{name.rpartition('.')[0]}.*" in NAMES or name in NAMES:
            return self._check(node, name)
        return name.startswith("transformers.TF") and self._check(node, name)

    def visit_Name(self, node):
        for module in self._stars if node.id not in self._meanings else ():
            if f"{module}.{node.id}" in NAMES and self._check(node, f"{module}.{node.id}"):
                return

    def visit_ClassDef(self, node):
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and f"def {item.name}" in NAMES:
                self._check(item, f"def {item.name}")
        self.generic_visit(node)

    def _whole_name(self, node):
        """`module.name` of an attribute of what was imported; None of anything else."""
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        first = self._meanings.get(node.id)
        if first is None and node.id in ("K", "keras"):
            first = next((f"{module}.{node.id}" for module in self._stars), None)
        if first is None:
            return None
        # Whoever it is imported from, it is Keras.
        return ".".join(["keras" if first.endswith(".keras") else first, *reversed(parts)])
