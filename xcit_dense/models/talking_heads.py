"""CaiT's attention, whose heads exchange scores before and after the softmax.

No fused kernel has this attention, so the scores of all heads exist at once. This layer computes them in parts.

Source: Touvron et al. 2021 (CaiT); class ``Attention_talking_head`` of the original ``cait_models.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from xcit_dense.models.relative_position import LARGEST_MAP
from xcit_dense.ops.exporting import is_exporting


class TalkingHeadsAttention(nn.Module):
    """CaiT's attention with the parameters of timm's layer, for many tokens.

    Scores are computed for some queries at once if all queries together need more than
    :data:`~xcit_dense.models.relative_position.LARGEST_MAP` values. The backward pass then computes them again.

    Args:
        attention: timm's ``TalkingHeadAttn``. Its parameters become the parameters of this layer.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.scale: float = attention.scale
        self.qkv: nn.Linear = attention.qkv
        self.proj_l: nn.Linear = attention.proj_l
        self.proj_w: nn.Linear = attention.proj_w
        self.attn_drop: nn.Dropout = attention.attn_drop
        self.proj: nn.Linear = attention.proj
        self.proj_drop: nn.Dropout = attention.proj_drop

    def forward(self, x: Tensor) -> Tensor:
        """Attends: (B, N, C) -> (B, N, C)."""
        batch, count = x.shape[:2]
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv  # each (B, h, N, d)
        q = q * self.scale
        part = max(1, LARGEST_MAP // (batch * self.num_heads * count))
        if is_exporting() or part >= count:  # the number of pieces depends on the size
            attended = self._attend(q, k, v)
        else:
            pieces = []
            for some in q.split(part, dim=2):
                again = torch.is_grad_enabled()
                pieces.append(
                    checkpoint(self._attend, some, k, v, use_reentrant=False) if again else self._attend(some, k, v)
                )
            attended = torch.cat(pieces, dim=2)
        tokens = attended.transpose(1, 2).flatten(2)  # (B, h, N, d) -> (B, N, C)
        projected: Tensor = self.proj_drop(self.proj(tokens))
        return projected

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends for some queries (B, h, n, d) to all keys and values (B, h, N, d)."""
        scores = _mix(self.proj_l, q @ k.transpose(-2, -1))  # (B, h, n, N)
        weights = _mix(self.proj_w, scores.softmax(dim=-1))
        attended: Tensor = self.attn_drop(weights) @ v
        return attended


def _mix(linear: nn.Linear, maps: Tensor) -> Tensor:
    """Applies a linear layer to the heads of (B, h, n, N). A 1 x 1 convolution needs no transposed copy."""
    return F.conv2d(maps, linear.weight[:, :, None, None], linear.bias)
