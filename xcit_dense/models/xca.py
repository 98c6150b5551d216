"""Cross-covariance attention (XCA): attention between feature channels instead of tokens.

Symbols are the paper's (El-Nouby et al. 2021, section 3.2): X are N tokens of C channels, h heads of d = C / h
channels each, tau a learned temperature a head (a factor here, as in the original code), and

    XCA(Q, K, V) = V A',    A = softmax(tau * Qn' Kn)    (d x d)

where ' is the transpose and Qn, Kn have columns of unit length over the tokens. The d x d matrix A does not grow with
the image, so the cost is linear in N.

There are two forms of the same operation. The literal form computes Q, K, V and V A' for each token. The covariance
form uses that A needs only sums over tokens, and that all else is linear in X. With a channel of ones appended to X,
its weights in W = [Wq; Wk; Wv] being the biases, and G = X'X (symmetric),

    Q'K     = Wq G Wk', of which only the h diagonal d x d blocks are needed
    |q_i|^2 = (Wq G Wq')_ii, and alike for K
    XCA     = X M',    M = Wo blockdiag(A) Wv

so that each token is met twice only, in X'X and in X M', and the backward pass keeps nothing that grows with the
image but X. In real arithmetic the two agree. :func:`cheaper_form` counts both and says which is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.errors import UserError
from xcit_dense.ops.autocast import product_dtype, without_autocast
from xcit_dense.ops.conv import Gradients, Pointwise
from xcit_dense.ops.recompute import multiply

Form = Literal["literal", "covariance"]


def cheaper_form(tokens: int, dim: int, num_heads: int) -> Form:
    """The form of XCA with fewer multiply-adds: covariance from about N = 1.2 C on.

    =====================  ============================  ===============================
    multiply-adds          literal                       covariance
    =====================  ============================  ===============================
    projections            4 N C^2 (Q, K, V, output)     N C^2 (X M')
    attention              2 N C d (Q'K, V A')           2/3 N C^2 (X'X, symmetric)
    independent of N       none                          3 C^3 + 2 C^2 d (A and M from G)
    =====================  ============================  ===============================

    Args:
        tokens: Tokens N of an image.
        dim: Channels C.
        num_heads: Heads h; d = C / h.
    """
    N, C, d = tokens, dim, dim // num_heads
    literal = 4 * N * C**2 + 2 * N * C * d
    covariance = 5 / 3 * N * C**2 + 3 * C**3 + 2 * C**2 * d
    return "covariance" if covariance < literal else "literal"


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
        self.form: Form | None = None  # set to force one
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self,
        x: Tensor,
        form: Form | None = None,
        norm: nn.Module | None = None,
        gain: Tensor | None = None,
    ) -> Tensor:
        """Attends across channels.

        Args:
            x: Tokens X, (B, N, C).
            form: ``'literal'`` or ``'covariance'``; by default :attr:`form`, or else the cheaper one for N tokens
                (:func:`cheaper_form`).
            norm: A layer norm to apply to ``x`` first; here, because it costs less memory here than before.
            gain: (C,), to multiply the result by; here for the same reason.

        Returns:
            Tokens of the same shape.
        """
        form = form or self.form or cheaper_form(x.shape[1], x.shape[2], self.num_heads)
        if form == "literal":
            y = self._literal(x if norm is None else norm(x))
        else:
            # In M, a gain needs no y kept. But gains start at 1e-5, and fp16 has no digits left below that.
            in_M = gain if product_dtype(x) != torch.float16 else None
            y = self._covariance(x, norm, in_M)
            gain = gain if in_M is None else None
        return self.proj_drop(y if gain is None else y * gain)

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads attend to, by the definition.

        Args:
            x: Tokens X, (B, N, C), normed as :meth:`forward` norms them.

        Returns:
            A, (B, h, d, d), of which each row sums to 1; and V, (B, h, d, N), with the tokens last.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        Q, K, V = qkv.permute(2, 0, 3, 4, 1).unbind(0)  # each (B, h, d, N)
        Qn, Kn = F.normalize(Q, dim=-1), F.normalize(K, dim=-1)
        return (self.temperature * (Qn @ Kn.mT)).softmax(dim=-1), V

    def _literal(self, x: Tensor) -> Tensor:
        """The definition, token by token."""
        A, V = self.attend(x)
        y = self.attn_drop(A) @ V
        return self.proj(y.permute(0, 3, 1, 2).flatten(2))

    def _covariance(self, x: Tensor, norm: nn.Module | None, gain: Tensor | None) -> Tensor:
        """The same by way of G = X'X; what is independent of N, and the sums over tokens, in at least fp32."""
        steps = [] if norm is None else [norm]
        if not torch.is_grad_enabled():
            x, steps = nn.Sequential(*steps)(x), []  # once for both products
        dtype = product_dtype(x)
        G = multiply(_Covariance(dtype), x, steps=steps)
        with without_autocast(x.device):
            M, c = self._token_map(G)
            if gain is not None:
                M, c = gain.to(M.dtype)[:, None] * M, gain.to(c.dtype) * c
        # The product with the tokens in the dtype of the literal form's projection.
        return multiply(_TokenMap(dtype), x, M, c, steps=steps)

    def _token_map(self, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """From the covariance G of [X, 1], (B, C + 1, C + 1), the M (B, C, C) and c (B, C) of XCA = X M' + 1 c'."""
        G, heads = covariance, self.num_heads
        weight, bias = self.qkv.weight.to(G.dtype), self.qkv.bias
        of_ones = weight.new_zeros(weight.shape[0]) if bias is None else bias.to(G.dtype)
        W = torch.cat((weight, of_ones[:, None]), dim=1)
        Wqk, Wv = W.split((2 * G.shape[1] - 2, G.shape[1] - 1))
        WG = Wqk @ G
        # A length is at least 1e-12, as in F.normalize. The floor is below the root, whose slope at zero is infinite,
        # and also catches squares that rounding made negative.
        scale = (WG * Wqk).sum(dim=-1).clamp_min(1e-24).rsqrt().unflatten(-1, (2, heads, -1))
        Wk = Wqk.unflatten(0, (2, heads, -1))[1]  # (h, d, C + 1)
        QK = WG.unflatten(1, (2, heads, -1))[:, 0] @ Wk.mT  # (B, h, d, d)
        # A cosine, whatever rounding made of lengths that cancel.
        cosine = (QK * scale[:, 0, ..., None] * scale[:, 1, :, None]).clamp(-1, 1)
        A = (self.temperature.to(G.dtype) * cosine).softmax(dim=-1)
        AWv = self.attn_drop(A) @ Wv.unflatten(0, (heads, -1))  # blockdiag(A) Wv by heads
        M = self.proj.weight.to(G.dtype) @ AWv.flatten(1, 2)
        return M[..., :-1], M[..., -1] + self.proj.bias.to(G.dtype)


@dataclass
class _Covariance:
    """G = [X, 1]' [X, 1], (B, C + 1, C + 1), of tokens X (B, N, C).

    G has at least fp32: its sums over tokens are beyond the range of fp16 and the digits of bf16. The backward pass
    knows that G is symmetric, which saves a product of N C^2.
    """

    dtype: torch.dtype  # of products with tokens

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        with without_autocast(x.device):
            X = x.to(torch.promote_types(x.dtype, torch.float32))
            if torch.compiler.is_compiling():  # autograd knows of no symmetry, but can be told
                half = X.detach().mT @ X
                G = half + half.mT - half.detach()
            else:
                G = _gram(X)
            s = X.sum(dim=1)[..., None]  # (B, C, 1)
            N = torch.full_like(s[:, :1], X.shape[1])
            return torch.cat((torch.cat((G, s), dim=2), torch.cat((s.mT, N), dim=2)), dim=1)

    def backward(self, grad: Tensor, needs: Sequence[bool], x: Tensor, *operands: Tensor) -> Gradients:
        # Sums over tokens make gradients of G too small for fp16.
        dtype = self.dtype if self.dtype == torch.bfloat16 else grad.dtype
        S = (grad + grad.mT)[:, :-1].to(dtype)
        return (_affine(x.to(dtype), S[..., :-1].mT, S[..., -1]) if needs[0] else None,)


def _gram(x: Tensor) -> Tensor:
    """X'X of tokens (B, N, C), in three strips that leave out what symmetry tells: two thirds of the work."""
    G = x.new_empty(x.shape[0], x.shape[2], x.shape[2])
    start = 0
    for strip in x.chunk(3, dim=2):
        end = start + strip.shape[2]
        G[:, start:end, start:] = strip.mT @ x[:, :, start:]
        G[:, end:, start:end] = G[:, start:end, end:].mT
        start = end
    return G


@dataclass
class _TokenMap:
    """X M' + 1 c' of tokens X (B, N, C), matrices M (B, C, C) and vectors c (B, C)."""

    dtype: torch.dtype

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        with without_autocast(x.device):
            X, M, c = (tensor.to(self.dtype) for tensor in (x, *operands))
            return _affine(X, M, c)

    def backward(self, grad: Tensor, needs: Sequence[bool], x: Tensor, *operands: Tensor) -> Gradients:
        dx = grad @ operands[0].to(self.dtype) if needs[0] else None
        return dx, grad.mT @ x.to(self.dtype), grad.sum(dim=1)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer of tokens (B, N, C), each image with its own weight (B, C', C) and bias (B, C')."""
    if len(x) != 1:
        return torch.baddbmm(bias[:, None], x, weight.mT)
    # Of a single image it is the linear layer of a map, which is faster.
    return Pointwise()(x.mT[:, :, None], weight[0], bias[0])[:, :, 0].mT
