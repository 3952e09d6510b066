"""Text that a language model learns, and the size of its transformer."""

from __future__ import annotations

from dataclasses import dataclass

from inarch.population.config.checks import check_types, require


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Task language only: the text, and the transformer that predicts its next character."""

    source: str = "python"
    """python: the language reference that every Python carries (pydoc_data.topics, about 0.7 MB of English). Otherwise
    the path of a UTF-8 text file, which every node must be able to read."""
    validation: float = 0.1
    """Share of the text held out for validation, in [0, 0.4]. It lies before the test text."""
    test: float = 0.1
    """Share of the text held out for the test, in [0, 0.4]. It is the end of the text."""
    context: int = 64
    """Characters that the network sees before the one that it predicts, at least 2."""
    width: int = 96
    """Width of the transformer, a multiple of text.heads."""
    layers: int = 2
    """Transformer layers, at least 1."""
    heads: int = 4
    """Attention heads of each layer, at least 1."""

    def __post_init__(self) -> None:
        check_types(self, "text.")
        require(bool(self.source), "text.source", "be python or the path of a file", self.source)
        require(0 <= self.validation <= 0.4, "text.validation", "lie in [0, 0.4]", self.validation)
        require(0 <= self.test <= 0.4, "text.test", "lie in [0, 0.4]", self.test)
        require(self.context >= 2, "text.context", "be at least 2", self.context)
        require(self.layers >= 1, "text.layers", "be at least 1", self.layers)
        require(self.heads >= 1, "text.heads", "be at least 1", self.heads)
        is_multiple = self.width >= 1 and self.width % self.heads == 0
        require(is_multiple, "text.width", f"be a multiple of text.heads ({self.heads})", self.width)
