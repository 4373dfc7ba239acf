"""What a load did, in one report."""

from dataclasses import dataclass, field

SHOWN = 8


@dataclass
class LoadReport:
    """What was loaded, and what was not.

    Attributes:
        path: the file or folder.
        loaded: names of the tensors that went into the model.
        missing: `layer: name` of weights the file does not have.
        mismatched: `layer: name, expected shape, found shape`.
        resized: the same, of weights that were resized to fit.
        unused: tensors of the file that the model has no place for.
        filled: ids of the variables that were set.
    """

    path: str
    loaded: list = field(default_factory=list)
    missing: list = field(default_factory=list)
    mismatched: list = field(default_factory=list)
    resized: list = field(default_factory=list)
    unused: list = field(default_factory=list)
    filled: set = field(default_factory=set)

    @property
    def complete(self):
        """Whether every weight of the model was found, in the right shape."""
        return not self.missing and not self.mismatched

    def __str__(self):
        lines = [f"{self.path}: loaded {len(self.loaded)} tensors"]
        for title in ("missing", "mismatched", "resized", "unused"):
            items = getattr(self, title)
            if items:
                lines.append(f"  {title} ({len(items)}):")
                lines += [f"    {item}" for item in items[:SHOWN]]
                if len(items) > SHOWN:
                    lines.append(f"    … and {len(items) - SHOWN} more")
        return "\n".join(lines)
