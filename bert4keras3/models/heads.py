"""Task heads: what stands on top of a model's hidden states, as data."""

from typing import NamedTuple

from bert4keras3.backend import get_activation
from bert4keras3.layers import Dense, Dropout, FirstToken, LastToken


class Head(NamedTuple):
    """A head, and what Hugging Face files call its parts.

    Args:
        pool: `'first'` or `'last'` token; None for every token.
        dense: activation of a layer before the classifier; None for no such layer,
            True for the model's `hidden_act`.
        use_bias: bias of the classifier.
        num_labels: outputs, where the task says so.
        rows: rows of the Hugging Face weight table.
    """

    pool: str = None
    dense: str = None
    use_bias: bool = True
    num_labels: int = None
    rows: dict = {}

    def table(self, form, table):
        """The weight table of a form of file, with the head's rows."""
        if form == "hf":
            return {**table, **self.rows}
        # As Google's scripts for BERT call them.
        scope = "cls/squad/" if self.num_labels else ""
        weights = "{output_weights:T,output_bias}" if self.use_bias else "output_weights:T"
        pooler = {"Pooler-Dense": "pooler/dense/{kernel,bias}"}
        return {**pooler, **table, "Classifier": scope + weights}


CLASSIFIER = {"Classifier": "classifier.{weight:T,bias}"}
# A layer of the head's own before it, as ELECTRA and RoFormer have.
TWO_LAYERS = {
    "Pooler-Dense": "classifier.dense.{weight:T,bias}",
    "Classifier": "classifier.out_proj.{weight:T,bias}",
}
# A family replaces what it has otherwise.
HEADS = {
    "sequence_classification": Head("first", "tanh", rows=CLASSIFIER),
    "token_classification": Head(rows=CLASSIFIER),
    "question_answering": Head(num_labels=2, rows={"Classifier": "qa_outputs.{weight:T,bias}"}),
}
# Of the causal models: the last token has seen everything.
CAUSAL_HEADS = {
    **HEADS,
    "sequence_classification": Head("last", use_bias=False, rows={"Classifier": "score.weight:T"}),
}


class Headed:
    """Mixin of `Transformer`: a task head instead of the family's own output.

    Attributes:
        heads: `{task: Head}`.
    """

    heads = HEADS

    def set_head(self, head, num_labels, labels, classifier_dropout):
        """Keep the arguments of the head, checked.

        Raises:
            ValueError: a task the family has no head for, or labels that do not fit.
        """
        if head is not None and head not in self.heads:
            raise ValueError(
                f"head: expected one of {sorted(self.heads)} for {type(self).__name__}, "
                f"got {head!r}"
            )
        if head is None and labels is not None:
            raise ValueError(f"labels={labels!r} name the classes of a head: give head, too")
        self.head = head
        self.labels = None if labels is None else list(labels)
        self.num_labels = num_labels or len(labels or (0, 1))
        if head is not None and self.heads[head].num_labels:
            self.num_labels = self.heads[head].num_labels
        if labels is not None and len(labels) != self.num_labels:
            raise ValueError(f"labels: expected {self.num_labels} names, got {self.labels}")
        self.classifier_dropout = (
            self.dropout_rate if classifier_dropout is None else classifier_dropout
        )

    def apply_head(self, x):
        """Hidden states -> logits `(batch, num_labels)`, or `(batch, length, num_labels)`."""
        head = self.heads[self.head]
        if head.pool is not None:
            pool = FirstToken if head.pool == "first" else LastToken
            x = self.apply(x, pool, name="Pooler")
        if head.dense is not None:
            x = self.apply(
                x,
                Dense,
                units=self.hidden_size,
                activation=get_activation(self.hidden_act if head.dense is True else head.dense),
                kernel_initializer=self.initializer,
                name="Pooler-Dense",
            )
        x = self.apply(x, Dropout, rate=self.classifier_dropout, name="Classifier-Dropout")
        return self.apply(
            x,
            Dense,
            units=self.num_labels,
            use_bias=head.use_bias,
            kernel_initializer=self.initializer,
            name="Classifier",
        )
