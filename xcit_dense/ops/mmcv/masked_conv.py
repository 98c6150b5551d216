"""The two steps of a masked convolution with the signatures of mmcv's compiled operators, in plain PyTorch.

mmcv gathers the cells under the kernel at the cells of a mask, multiplies them by the weights and scatters the result.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Gathers the cells under the kernel at each cell of the mask, as ``mmcv._ext.masked_im2col_forward`` does.

    Args:
        im: (1, C, H, W) features.
        mask_h_idx: (M,) int64 rows of the mask's cells.
        mask_w_idx: (M,) int64 columns of the mask's cells.
        col: (C * kernel_h * kernel_w, M), which is overwritten.
        kernel_h: Rows of the kernel.
        kernel_w: Columns of the kernel.
        pad_h: Rows of zeros at the top and bottom.
        pad_w: Columns of zeros at the left and right.
    """
    # The kernel at the last row and column may reach further than the padding. These cells are zeros too.
    padding = (pad_w, max(pad_w, kernel_w - 1 - pad_w), pad_h, max(pad_h, kernel_h - 1 - pad_h))
    padded = F.pad(im[0], padding)
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]  # (kernel_h, M)
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]  # (kernel_w, M)
    col.copy_(padded[:, rows[:, None], columns[None]].flatten(0, 2))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Scatters values to the cells of the mask, as ``mmcv._ext.masked_col2im_forward`` does.

    Args:
        col: (channels, M) values.
        mask_h_idx: (M,) int64 rows of the mask's cells.
        mask_w_idx: (M,) int64 columns of the mask's cells.
        im: (1, channels, height, width). The cells of the mask are overwritten.
        height: Not used; `im` has the size.
        width: Not used.
        channels: Not used.

    Raises:
        IndexError: A cell of the mask is outside of `im`.
    """
    im[0, :, mask_h_idx, mask_w_idx] = col.to(im.dtype)
