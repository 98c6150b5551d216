"""Cross-covariance attention (XCA): attention between feature channels instead of tokens.

The symbols are the symbols of the paper (El-Nouby et al. 2021, section 3.2). X are N tokens of C channels. There are h
heads of d = C / h channels each, and each head has a learned temperature tau. As in the original code, tau is a factor.

    XCA(Q, K, V) = V A',    A = softmax(tau * Qn' Kn)    (d x d)

The sign ' is the transpose. The columns of Qn and Kn have unit length over the tokens. The d x d matrix A does not grow
with the image, so the cost is linear in N.

The same operation has two forms. The literal form computes Q, K, V and V A' for each token. The covariance form uses
two facts: A needs only sums over tokens, and everything else is linear in X. Append a channel of ones to X, so that the
biases become weights of this channel in W = [Wq; Wk; Wv]. With the symmetric matrix G = X'X,

    Q'K     = Wq G Wk', of which only the h diagonal d x d blocks are needed
    |q_i|^2 = (Wq G Wq')_ii, and the same for K
    XCA     = X M',    M = Wo blockdiag(A) Wv

The covariance form touches each token only twice, in X'X and in X M'. Of all tensors that grow with the image, its
backward pass keeps only X. In real arithmetic the two forms are equal. :func:`cheaper_form` counts the multiply-adds of
both and names the cheaper form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.ops.autocast import product_dtype, without_autocast
from xcit_dense.ops.conv import Gradients, Pointwise
from xcit_dense.ops.devices import is_gpu
from xcit_dense.ops.exporting import is_exporting
from xcit_dense.ops.layers import plain_type
from xcit_dense.ops.recompute import multiply
from xcit_dense.ops.transforms import is_traced

Form = Literal["literal", "covariance"]

# Whether a product of half precision can have a result of fp32 (PyTorch 2.8).
_HAS_WIDE_PRODUCT = "dtype_out" in torch.ops.aten.mm.overloads()


def cheaper_form(tokens: int, dim: int, num_heads: int) -> Form:
    """Returns the form of XCA with fewer multiply-adds: the covariance form from about N = 1.2 C on.

    =====================  ============================  ===============================
    multiply-adds          literal                       covariance
    =====================  ============================  ===============================
    projections            4 N C^2 (Q, K, V, output)     N C^2 (X M')
    attention              2 N C d (Q'K, V A')           2/3 N C^2 (X'X, symmetric)
    independent of N       0                             3 C^3 + 2 C^2 d (A and M from G)
    =====================  ============================  ===============================

    Args:
        tokens: Tokens N of an image.
        dim: Channels C.
        num_heads: Heads h; d = C / h.

    Example:
        >>> from xcit_dense.models.xca import cheaper_form
        >>> cheaper_form(tokens=14 * 14, dim=384, num_heads=8)
        'literal'
        >>> cheaper_form(tokens=50 * 84, dim=384, num_heads=8)
        'covariance'
    """
    N, C, d = tokens, dim, dim // num_heads
    literal = 4 * N * C**2 + 2 * N * C * d
    covariance = 5 / 3 * N * C**2 + 3 * C**3 + 2 * C**2 * d
    return "covariance" if covariance < literal else "literal"


class XCA(nn.Module):
    """Cross-covariance attention with its projections.

    Source: paper section 3.2; class ``XCA`` of the original ``xcit.py``. The parameters have the published names.

    Args:
        dim: Channels C.
        num_heads: Heads h; must divide ``dim``.
        qkv_bias: Whether the projection to Q, K and V has a bias.
        attn_drop: Dropout probability of the attention matrix A, in [0, 1].
        proj_drop: Dropout probability of the output, in [0, 1].

    Attributes:
        form: ``'literal'`` or ``'covariance'`` to force a form. By default None: :func:`cheaper_form` decides, and the
            literal form is taken if ``qkv`` or ``proj`` is not a plain layer (an adapter, a quantized layer, a layer
            with hooks), because the covariance form needs their weights.

    Raises:
        UserError: ``num_heads`` does not divide ``dim``.

    Example:
        >>> import torch
        >>> from xcit_dense.models.xca import XCA
        >>> attention = XCA(dim=16, num_heads=4)
        >>> tokens = torch.randn(2, 100, 16)
        >>> attention(tokens).shape
        torch.Size([2, 100, 16])
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
        self.form: Form | None = None
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
        """Computes attention across channels.

        Args:
            x: Tokens X, (B, N, C).
            form: ``'literal'`` or ``'covariance'``; by default :attr:`form`.
            norm: A norm layer that is applied to ``x`` first. In here the norm needs less memory than outside.
            gain: (C,), multiplies the result. In here the gain needs less memory than outside.

        Returns:
            Tokens (B, N, C).

        Raises:
            UserError: The covariance form is asked for, and ``qkv`` or ``proj`` is not a plain layer.
        """
        if self._choose_form(x, form or self.form) == "covariance":
            return self.proj_drop(self._covariance(x, norm, gain))
        y = self._literal(x if norm is None else norm(x))
        return self.proj_drop(y if gain is None else y * gain)

    def _choose_form(self, x: Tensor, form: Form | None) -> Form:
        if plain_type(self.qkv) is nn.Linear and plain_type(self.proj) is nn.Linear:
            if form is None and is_exporting():
                return "covariance"  # valid for all sizes, and cheaper for all but small images
            return form or cheaper_form(x.shape[1], x.shape[2], self.num_heads)
        if form == "covariance":
            raise UserError(
                "The covariance form of XCA needs qkv and proj to be nn.Linear layers without hooks, adapters or "
                f"quantization, got {type(self.qkv).__name__} and {type(self.proj).__name__}; write form='literal', "
                "or form=None."
            )
        return "literal"

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the attention matrices and the values by the definition.

        Args:
            x: Tokens X, (B, N, C), after the norm.

        Returns:
            A, (B, h, d, d), in at least fp32, in which each row sums to 1; and V, (B, h, d, N), with the tokens last.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3 C) -> (B, N, 3, h, d)
        Q, K, V = qkv.permute(2, 0, 3, 4, 1).unbind(0)  # each (B, h, d, N)
        with without_autocast(x.device):
            dtype = torch.promote_types(Q.dtype, torch.float32)
            Q, K = Q.to(dtype), K.to(dtype)
            # F.normalize would be slower and less precise: its lengths are off by 7e-6 on 60,000 tokens in fp32.
            squares = torch.stack((Q.square().sum(dim=-1), K.square().sum(dim=-1)), dim=1)  # (B, 2, h, d)
            return self._softmax(Q @ K.transpose(2, 3), squares, _shortest_length(V.dtype)), V

    def _softmax(self, products: Tensor, squares: Tensor, shortest: float) -> Tensor:
        """Computes A from lengths and products over tokens, which have at least fp32.

        A score is at most the temperature, because a cosine is at most 1. In half precision a score would be rounded by
        up to the temperature times eps, and products and squares of many tokens would overflow in fp16.

        Args:
            products: Q'K, (B, h, d, d).
            squares: Squared lengths of Q and K, (B, 2, h, d).
            shortest: The shortest length that Q and K are divided by, as in F.normalize.

        Returns:
            A, (B, h, d, d).
        """
        # The minimum is applied before the root, because the slope of the root at zero is infinite. The minimum also
        # replaces squares that rounding made negative.
        scale = squares.clamp_min(shortest**2).rsqrt()  # (B, 2, h, d)
        cosine = products * scale[:, 0, :, :, None] * scale[:, 1, :, None, :]
        # A cosine is between -1 and 1, also where rounding made the lengths too short.
        return (self.temperature.to(cosine.dtype) * cosine.clamp(-1, 1)).softmax(dim=-1)

    def _literal(self, x: Tensor) -> Tensor:
        """The literal form: the definition, token by token. (B, N, C) -> (B, N, C)."""
        A, V = self.attend(x)
        y = self.attn_drop(A).to(V.dtype) @ V  # (B, h, d, N)
        y = y.permute(0, 3, 1, 2).flatten(2)  # (B, h, d, N) -> (B, N, h, d) -> (B, N, C)
        return self.proj(y)

    def _covariance(self, x: Tensor, norm: nn.Module | None, gain: Tensor | None) -> Tensor:
        """The covariance form, (B, N, C) -> (B, N, C).

        Everything that does not grow with N, and every sum over tokens, is computed in at least fp32.
        """
        # PyTorch checks a trace without gradients, and must see the same operators.
        once = is_gpu(x.device) or not torch.is_grad_enabled() or torch.jit.is_tracing()  # type: ignore[attr-defined]
        if norm is not None and once:
            x, norm = norm(x), None  # computed once for both products
        if is_gpu(x.device) and product_dtype(x) == torch.bfloat16:
            x = x.to(torch.bfloat16)  # also once. In fp16 the gradient of the sum over tokens would underflow.
        G = self.covariance(x, norm)
        return self.apply_token_map(x, self.token_map(G, product_dtype(x)), norm, gain)

    def covariance(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Computes G = [X, 1]' [X, 1], the first step of the covariance form.

        G is a sum over tokens. So G of an image is the sum of G over parts of the image.

        Args:
            x: Tokens, (B, N, C).
            norm: A norm layer that makes X from ``x``. By default, ``x`` is X.

        Returns:
            (B, C + 1, C + 1), in at least fp32.
        """
        return multiply(_Covariance(product_dtype(x)), x, steps=[] if norm is None else [norm])

    def apply_token_map(
        self,
        x: Tensor,
        token_map: tuple[Tensor, Tensor],
        norm: nn.Module | None = None,
        gain: Tensor | None = None,
    ) -> Tensor:
        """Computes X M' + 1 c', the last step of the covariance form. Each token is computed by itself.

        Args:
            x: Tokens, (B, N, C).
            token_map: M (B, C, C) and c (B, C), from :meth:`token_map`.
            norm: A norm layer that makes X from ``x``. By default, ``x`` is X.
            gain: (C,), multiplies the result.

        Returns:
            Tokens (B, N, C).
        """
        M, c = token_map
        dtype = product_dtype(x)
        if gain is not None and dtype != torch.float16:
            # A gain that is part of M needs no memory. In fp16 M times a gain underflows, because gains start at 1e-5.
            with without_autocast(x.device):
                M, c, gain = gain.to(M.dtype)[:, None] * M, gain.to(c.dtype) * c, None
        # The product with the tokens has the dtype of the literal form's projection.
        y = multiply(_TokenMap(dtype), x, M, c, steps=[] if norm is None else [norm])
        return y if gain is None else y * gain

    def token_map(self, covariance: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Computes M and c of XCA = X M' + 1 c', the second step of the covariance form.

        Args:
            covariance: G = [X, 1]' [X, 1] over all tokens of an image, (B, C + 1, C + 1).
            dtype: The dtype of products with tokens.

        Returns:
            M (B, C, C) and c (B, C), in the dtype of G.
        """
        with without_autocast(covariance.device):
            return self._token_map(covariance, _shortest_length(dtype))

    def _token_map(self, covariance: Tensor, shortest: float) -> tuple[Tensor, Tensor]:
        G, h, C = covariance, self.num_heads, self.proj.out_features
        weight, bias = self.qkv.weight.to(G.dtype), self.qkv.bias
        weight_of_ones = weight.new_zeros(weight.shape[0]) if bias is None else bias.to(G.dtype)
        W = torch.cat((weight, weight_of_ones[:, None]), dim=1)  # (3 C, C + 1)
        Wqk, Wv = W.split((2 * C, C))  # (2 C, C + 1), (C, C + 1)
        WG = Wqk @ G  # (B, 2 C, C + 1)
        squares = (WG * Wqk).sum(dim=-1).unflatten(-1, (2, h, -1))  # (B, 2, h, d)
        WqG = WG.unflatten(1, (2, h, -1))[:, 0]  # (B, h, d, C + 1)
        Wk = Wqk.unflatten(0, (2, h, -1))[1]  # (h, d, C + 1)
        A = self._softmax(WqG @ Wk.transpose(1, 2), squares, shortest)  # (B, h, d, d)
        AWv = self.attn_drop(A) @ Wv.unflatten(0, (h, -1))  # blockdiag(A) Wv: (B, h, d, C + 1)
        M = self.proj.weight.to(G.dtype) @ AWv.flatten(1, 2)  # (B, C, C + 1)
        c = M[..., -1]
        return M[..., :-1], c if self.proj.bias is None else c + self.proj.bias.to(G.dtype)


def _shortest_length(dtype: torch.dtype) -> float:
    """The shortest length that Q and K are divided by: 1e-12, the default of F.normalize, except in fp16.

    In fp16 1e-12 is zero, so that a channel of zeros would become NaN. A shorter length than the eps of fp16 would not
    be more precise, and would make the gradient of such a channel overflow.
    """
    return torch.finfo(dtype).eps if dtype == torch.float16 else 1e-12


@dataclass
class _Covariance:
    """G = [X, 1]' [X, 1], (B, C + 1, C + 1), of tokens X (B, N, C).

    G has at least fp32: the sums over tokens overflow in fp16 and lose digits in bf16. The backward pass uses that G is
    symmetric, which saves a product of N C^2 multiply-adds.
    """

    dtype: torch.dtype  # of products with tokens

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        with without_autocast(x.device):
            if torch.compiler.is_compiling() and not is_exporting():
                # Autograd does not know that G is symmetric. The value of this G is X'X, and its gradient is the
                # gradient of half + half'.
                X = x.to(dtype)
                half = X.detach().mT @ X
                G = half + half.mT - half.detach()
            else:
                G = _gram(x, dtype)  # (B, C, C)
            s = x.sum(dim=1, dtype=dtype)[:, :, None]  # (B, C, 1)
            N = torch.full_like(s[:, :1], x.shape[1])  # (B, 1, 1)
            upper = torch.cat((G, s), dim=2)  # (B, C, C + 1)
            lower = torch.cat((s.transpose(1, 2), N), dim=2)  # (B, 1, C + 1)
            return torch.cat((upper, lower), dim=1)

    def backward(self, grad: Tensor, needs: Sequence[bool], x: Tensor, *operands: Tensor) -> Gradients:
        if not needs[0]:
            return (None,)
        # The gradient of a sum over tokens is too small for fp16.
        dtype = self.dtype if self.dtype == torch.bfloat16 else grad.dtype
        S = (grad + grad.mT)[:, :-1].to(dtype)  # (B, C, C + 1)
        return (_affine(x.to(dtype), S[..., :-1].mT, S[..., -1]),)


def _gram(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Computes X'X (B, C, C) of tokens (B, N, C) in a dtype.

    On a CPU, X'X is computed in three strips, which needs two thirds of the multiply-adds. Each strip leaves out the
    entries that the strips before it already have by symmetry. On a GPU, the launches of the strips take more time.
    """
    if is_gpu(x.device) and not is_exporting():
        if x.is_cuda and x.dtype != dtype and _HAS_WIDE_PRODUCT and not torch.is_grad_enabled() and not is_traced():
            # Tensor cores multiply halves and sum in fp32. PyTorch's counter of operations refuses bmm with a dtype.
            G = x.new_empty((len(x), x.shape[2], x.shape[2]), dtype=dtype)
            for tokens, product in zip(x, G):  # (N, C), (C, C)
                torch.mm(tokens.mT, tokens, out_dtype=dtype, out=product)
            return G
        x = x.to(dtype)
        return x.mT @ x
    x = x.to(dtype)
    strips: list[Tensor] = []  # each (B, about C / 3, C)
    start = 0
    for columns in x.chunk(3, dim=2):  # (B, N, about C / 3)
        end = start + columns.shape[2]
        left = [strip[:, :, start:end].transpose(1, 2) for strip in strips]
        right = columns.transpose(1, 2) @ x[:, :, start:]  # (B, about C / 3, C - start)
        strips.append(torch.cat([*left, right], dim=2))
        start = end
    return torch.cat(strips, dim=1)


@dataclass
class _TokenMap:
    """X M' + 1 c' of tokens X (B, N, C), matrices M (B, C, C) and vectors c (B, C)."""

    dtype: torch.dtype

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        with without_autocast(x.device):
            X, M, c = (tensor.to(self.dtype) for tensor in (x, *operands))
            return _affine(X, M, c)

    def backward(self, grad: Tensor, needs: Sequence[bool], x: Tensor, *operands: Tensor) -> Gradients:
        M, _ = operands
        grad_x = grad @ M.to(self.dtype) if needs[0] else None  # (B, N, C)
        grad_M = grad.mT @ x.to(self.dtype)  # (B, C, C)
        return grad_x, grad_M, grad.sum(dim=1)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Applies a linear layer to tokens (B, N, C). Each image has its own weight (B, C', C) and bias (B, C')."""
    if is_exporting():
        # baddbmm fixes the batch, because the bias is broadcast to the size that is recorded.
        return x @ weight.transpose(1, 2) + bias[:, None]  # (B, N, C')
    if x.shape[0] != 1:
        return torch.baddbmm(bias[:, None], x, weight.mT)  # (B, N, C')
    # For a single image, the linear layer of a map is faster: (1, N, C) -> (1, C, 1, N) -> (1, C', 1, N) -> (1, N, C').
    return Pointwise()(x.mT[:, :, None], weight[0], bias[0])[:, :, 0].mT
