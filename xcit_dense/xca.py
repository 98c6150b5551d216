"""Cross-covariance attention (XCA): attention between feature channels instead of tokens.

Symbols are the paper's (El-Nouby et al. 2021, section 3.2): X are N tokens of C channels, h heads of d = C / h
channels each, tau a learned temperature a head (a factor here, as in the original code), and

    XCA(Q, K, V) = V A',    A = softmax(tau * Qn' Kn)    (d x d)

where ' is the transpose and Qn, Kn have columns of unit length over the tokens. The d x d matrix A does not grow with
the image, so the cost is linear in N.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import UserError


class XCA(nn.Module):
    """Cross-covariance attention with its projections.

    Source: paper section 3.2; class ``XCA`` of the original ``xcit.py``. Parameter names are the published ones.

    Args:
        dim: Channels C.
        num_heads: Heads h; divides ``dim``.
        qkv_bias: Whether the projection to Q, K and V has a bias.
        attn_drop: Dropout probability on the attention matrix A, in [0, 1].
        proj_drop: Dropout probability on the output, in [0, 1].

    Raises:
        UserError: ``num_heads`` does not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise UserError(f"num_heads={num_heads} does not divide embed_dim={dim}; write a divisor of {dim}.")
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attends across channels.

        Args:
            x: Tokens X after layer norm, (B, N, C).

        Returns:
            Tokens of the same shape.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        Q, K, V = qkv.permute(2, 0, 3, 4, 1).unbind(0)  # each (B, h, d, N)
        Qn, Kn = F.normalize(Q, dim=-1), F.normalize(K, dim=-1)
        A = (self.temperature * (Qn @ Kn.mT)).softmax(dim=-1)  # (B, h, d, d)
        y = self.attn_drop(A) @ V
        return self.proj_drop(self.proj(y.permute(0, 3, 1, 2).flatten(2)))
