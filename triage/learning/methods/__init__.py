"""The ways to train a model, behind one interface: `fit(material, choices) -> Trained`.

Each method is a module of its own, imported when it is used: the names are known without torch.
What a method leaves behind is data that `inference` serves (heads, pooling, terms, an encoder
directory); no code of this room runs in the daemon.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from triage.learning.methods.material import Choices, Material, Trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to train. `says` is its line in the help."""

    name: str
    says: str
    module: str
    needs_labels: bool = True

    def fit(self, material: "Material", choices: "Choices") -> "Trained":
        """Train on the rows of the splits train and val. Raises PermanentError."""
        trained: Trained = import_module(self.module).fit(material, choices)
        return trained


def _method(name: str, says: str, *, needs_labels: bool = True) -> Method:
    module = f"{__name__}.{name.replace('-', '_')}"
    return Method(name=name, says=says, module=module, needs_labels=needs_labels)


METHODS: Final[Mapping[str, Method]] = {
    method.name: method
    for method in (
        _method("zero-shot", "prompts through MedSigLIP's text tower", needs_labels=False),
        _method("logistic", "logistic regression on mean-pooled tokens (the reference)"),
        _method("mlp", "two hidden layers with dropout on mean-pooled tokens"),
        _method("unfreeze", "the last blocks of the encoder trained along"),
        _method("queries", "learned queries on the tokens of a frozen middle layer"),
        _method("focal", "the whole image and crops of it, attention over these views"),
        _method("mixture", "several encoders, routed by what they see"),
        _method("caption-fusion", "words of the generated caption beside the image"),
    )
}
