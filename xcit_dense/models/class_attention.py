"""Class attention: what an XCiT classifier has after its blocks. Published classifiers and DINO models contain it.

A class token is joined to the tokens of the image. Each layer of class attention updates the class token from all
tokens. The dense backbone does not need these layers and does not load them. The drawings of the attention need them.

Source: paper section 3.3 and figure 4; classes ``ClassAttention`` and ``ClassAttentionBlock`` of the original
``xcit.py``. The layers are timm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from timm.models.xcit import ClassAttentionBlock
from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.models import state_dict
from xcit_dense.models.blocks import map_to_tokens
from xcit_dense.models.loading import find_faults, refuse_faults
from xcit_dense.variants import get_variant

if TYPE_CHECKING:
    from typing_extensions import Self


class ClassAttention(nn.Module):
    """The class token and the layers of class attention. The parameters have the names of timm's classifiers.

    Args:
        dim: Channels C of a token.
        num_heads: Heads h of the attention; must divide ``dim``.
        layers: The number L of layers; the published classifiers have 2.
        qkv_bias: Whether the projections to Q, K and V have a bias.
        norm_tokens: Whether each layer normalises all tokens after its attention, and not only the class token. The
            published classifiers do, except nano.

    Example:
        >>> import torch
        >>> from xcit_dense.models.class_attention import ClassAttention
        >>> ClassAttention(16, num_heads=2)(torch.rand(1, 16, 4, 6)).shape
        torch.Size([1, 2, 2, 25])
    """

    def __init__(
        self, dim: int, num_heads: int, layers: int = 2, qkv_bias: bool = True, norm_tokens: bool = True
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        norm_layer: Any = partial(nn.LayerNorm, eps=1e-6)
        self.cls_attn_blocks = nn.ModuleList(
            ClassAttentionBlock(dim, num_heads, 4.0, qkv_bias, norm_layer=norm_layer, tokens_norm=norm_tokens)
            for _ in range(layers)
        )

    @classmethod
    def from_weights(cls, state: Mapping[str, Any]) -> Self:
        """Builds the class attention of a classifier and loads its weights.

        Args:
            state: Entries of a checkpoint in any dialect of :mod:`xcit_dense.models.state_dict`.

        Returns:
            The layers, in evaluation mode.

        Raises:
            UserError: The entries contain no class attention, or one that fits in part.
        """
        weights = state_dict.extract_class_attention(state)
        if not weights:
            raise UserError(
                "the checkpoint does not contain class attention; give the weights of a classifier or of DINO, for "
                "example small_12_p16_384_dist."
            )
        options = state_dict.infer_options(state)
        name = options.get("variant")
        num_heads = get_variant(name).num_heads if name else options["num_heads"]
        layers = {name.split(".")[1] for name in weights if name.startswith("cls_attn_blocks.")}
        model = cls(
            weights["cls_token"].shape[-1],
            num_heads,
            len(layers),
            qkv_bias=options["qkv_bias"],
            norm_tokens=not (name or "").startswith("nano"),
        )
        faults = find_faults(weights, model.state_dict())
        refuse_faults("class attention", faults, "give an intact checkpoint of a published classifier.")
        model.load_state_dict(weights)
        return model.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Computes how each head weighs the tokens for the class token.

        Args:
            x: (B, C, H, W), the output of the last block of an XCiT.

        Returns:
            (B, L, h, 1 + H W): for each layer and head the weights of the class token and of the positions in row
            order. They sum to 1.
        """
        tokens = torch.cat((self.cls_token.expand(len(x), -1, -1), map_to_tokens(x)), dim=1)  # (B, 1 + H W, C)
        weights = []
        block: Any
        for block in self.cls_attn_blocks:
            weights.append(_attend(block.attn, block.norm1(tokens)))
            tokens = block(tokens)
        return torch.stack(weights, dim=1)


def _attend(attention: Any, tokens: Tensor) -> Tensor:
    """Computes softmax(q K' / sqrt(d)) for the class token, (B, h, N), of normalised tokens (B, N, C)."""
    q = attention.q(tokens[:, 0]).unflatten(-1, (attention.num_heads, -1))  # (B, C) -> (B, h, d)
    K = attention.k(tokens).unflatten(-1, (attention.num_heads, -1))  # (B, N, C) -> (B, N, h, d)
    return (attention.scale * torch.einsum("bhd,bnhd->bhn", q, K)).softmax(dim=-1)
