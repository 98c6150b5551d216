"""Non-maximum suppression of lanes with the signature of mmcv's compiled operator.

Source: Zheng et al., "CLRNet: Cross Layer Refinement Network for Lane Detection".
"""

from __future__ import annotations

import torch
from torch import Tensor

from xcit_dense.ops.mmcv.common import working_dtype
from xcit_dense.ops.mmcv.nms import suppress


@torch.no_grad()
def line_nms_forward(boxes: Tensor, scores: Tensor, thresh: float, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Drops lanes that are close to a lane with a higher score, as ``mmcv._ext.line_nms_forward`` does.

    Two lanes are close if their x differ by less than the threshold, on average over the rows that both have.

    Args:
        boxes: (N, 5 + R). Column 2 is the start as a part of all rows, in [0, 1]. Column 4 is the length in rows.
            Columns from 5 are x of each of the R rows, in pixels. Other columns are not used.
        scores: (N,) scores.
        thresh: The distance in pixels.
        top_k: The largest number of kept lanes.

    Returns:
        (N,) int64 indices of the kept lanes, the highest score first, then zeros; their number K, (); and for each lane
        the place in [1, K] of the last kept lane that is close to it, or 0, (N,).

    Example:
        >>> lanes = torch.tensor([[0.0, 0, 0, 0, 3, 10, 10, 10], [0.0, 0, 0, 0, 3, 11, 11, 11]])
        >>> kept, number, close_to = line_nms_forward(lanes, torch.tensor([0.5, 0.9]), 5.0, 10)
        >>> kept[:number].tolist(), close_to.tolist()
        ([1], [1, 1])
    """
    lanes = boxes.to(working_dtype(boxes))
    x = lanes[:, 5:]
    rows = torch.arange(x.shape[1], device=x.device)
    start = (lanes[:, 2] * (x.shape[1] - 1) + 0.5).long()
    end = start + lanes[:, 4].long() - 1

    def close(one: Tensor, others: Tensor) -> Tensor:
        first = torch.maximum(start[one], start[others])
        last = torch.minimum(end[one], end[others]).clamp(max=x.shape[1] - 1)
        common = (rows >= first[:, None]) & (rows <= last[:, None])  # (M, R)
        distance = torch.where(common, (x[one] - x[others]).abs(), 0).sum(1)
        return (last >= first) & (first >= 0) & (distance < thresh * (last - first + 1))

    order = scores.sort(descending=True, stable=True).indices
    place = {int(index): position for position, index in enumerate(order)}
    kept = [group[0] for group in suppress(order, close)][:top_k]
    close_to = torch.zeros_like(order)
    for number, one in enumerate(kept, start=1):
        later = order[place[one] + 1 :]
        close_to[later[close(order.new_tensor(one), later)]] = number
        close_to[one] = number
    padded = torch.zeros_like(order)
    padded[: len(kept)] = order.new_tensor(kept)
    return padded, order.new_tensor(len(kept)), close_to
