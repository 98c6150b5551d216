"""NMS of lanes agrees with plain loops."""

import pytest
import torch

from xcit_dense.ops.mmcv.line_nms import line_nms_forward

ROWS = 12


def example_lanes(count=25, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    lanes = torch.rand(count, 5 + ROWS, generator=generator)
    lanes[:, 2] *= 0.6
    lanes[:, 4] = torch.randint(0, ROWS + 3, (count,), generator=generator)
    lanes[:, 5:] = torch.randint(0, 4, (count, 1), generator=generator) * 20 + lanes[:, 5:] * 8
    return lanes.to(dtype), torch.randperm(count, generator=generator).to(dtype) / count


def close(a, b, threshold):
    starts = [int(lane[2] * (ROWS - 1) + 0.5) for lane in (a, b)]
    ends = [start + int(lane[4]) - 1 for start, lane in zip(starts, (a, b))]
    rows = range(max(starts), min(*ends, ROWS - 1) + 1)
    return len(rows) > 0 and sum(abs(a[5 + row] - b[5 + row]) for row in rows) < threshold * len(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("top_k", [3, 100])
def test_line_nms_keeps_what_the_definition_keeps(dtype, top_k):
    lanes, scores = example_lanes(dtype=dtype)
    rows, order = lanes.tolist(), sorted(range(len(lanes)), key=lambda index: -scores[index].item())
    kept, close_to = [], [0] * len(lanes)
    for position, index in enumerate(order):
        if len(kept) < top_k and not any(close(rows[better], rows[index], 4.0) for better in kept):
            kept.append(index)
            for other in order[position:]:
                if other == index or close(rows[index], rows[other], 4.0):
                    close_to[other] = len(kept)
    padded, number, last = line_nms_forward(lanes, scores, 4.0, top_k)
    assert 1 < number < len(lanes)
    assert padded.tolist() == kept + [0] * (len(lanes) - len(kept))
    assert last.tolist() == close_to


def test_line_nms_without_lanes_is_empty():
    kept, number, last = line_nms_forward(torch.zeros(0, 5 + ROWS), torch.zeros(0), 4.0, 3)
    assert kept.shape == last.shape == (0,)
    assert number == 0


def test_mmcv_calls_line_nms(mmcv_ops):
    if not hasattr(mmcv_ops, "line_nms"):
        pytest.skip("this mmcv does not have line_nms")
    lanes, scores = example_lanes()
    for ours, expected in zip(mmcv_ops.line_nms(lanes, scores, 4.0, 3), line_nms_forward(lanes, scores, 4.0, 3)):
        assert torch.equal(ours, expected)
