"""A small transformer that predicts the next character of a text."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TextTransformer(nn.Module):
    """A causal transformer over characters, with learned positions and normalization before each sublayer.

    Source: Radford et al. 2019 (GPT-2) for the order of the sublayers.
    """

    def __init__(self, num_characters: int, *, context: int, width: int, layers: int, heads: int) -> None:
        """Create the network with random weights.

        Args:
            num_characters: Size of the alphabet.
            context: Most characters that the network sees.
            width: Width of the residual stream.
            layers: Number of layers.
            heads: Attention heads of each layer.
        """
        super().__init__()
        self.characters = nn.Embedding(num_characters, width)
        self.positions = nn.Embedding(context, width)
        nn.init.normal_(self.characters.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_characters)

    def forward(self, text: Tensor) -> Tensor:
        """Return the logits of the next character after each character.

        Args:
            text: Indices of characters, shape (batch, characters), int64, at most `context` characters.

        Returns:
            Logits, shape (batch, characters, num_characters).
        """
        length = text.shape[1]
        hidden = self.characters(text) + self.positions(torch.arange(length, device=text.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=text.device)
        for layer in self.layers:
            hidden = layer(hidden, src_mask=mask, is_causal=True)
        return self.head(self.norm(hidden))
