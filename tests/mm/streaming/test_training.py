"""A training step of a segmentor with its images divided over processes equals a step of one process."""

import pytest
import torch

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from tests.helpers.ranks import run_ranks
from tests.mm.streaming.sharded_training import CASES, REFUSED, make_batch, make_model, mixed_losses, step


@pytest.fixture(
    scope="module",
    params=[pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=[pytest.mark.slow, pytest.mark.long])],
)
def processes(request, tmp_path_factory):
    """Runs a step of all cases in two or three processes. Returns the results of each process."""
    directory = tmp_path_factory.mktemp("training")
    run_ranks("tests.mm.streaming.sharded_training", request.param, directory, request.param)
    return [torch.load(directory / f"{rank}.pt", weights_only=False) for rank in range(request.param)]


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_statistics_equal_one_process(processes, case):
    values, gradients, buffers = step("FusedEncoderDecoder", case)
    for found_values, found_gradients, found_buffers in (results[case] for results in processes):
        assert found_values == pytest.approx(values, rel=1e-6)
        for name, gradient in gradients.items():
            assert (found_gradients[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-9, name
        for name, buffer in buffers.items():
            assert torch.allclose(found_buffers[name], buffer, rtol=1e-6, atol=1e-9), name


def test_losses_in_mixed_precision_are_those_of_one_process(processes):
    expected = mixed_losses("FusedEncoderDecoder")
    for results in processes:
        assert results["mixed"] == pytest.approx(expected, rel=0.03)


WORDS = {
    "training norms": ["patch_embed", "norm_eval=True"],
    "another loss": ["model.decode_head.loss_decode", "DiceLoss", "model.type=FusedEncoderDecoder"],
    "a sampler": ["model.decode_head.sampler", "OHEMPixelSampler"],
    "group norm": ["model.decode_head.scale_heads.0.0.gn", "GroupNorm"],
    "another head": ["model.decode_head", "FusedSegformerHead"],
    "one value": ["model.decode_head", "1 x 1 pooling", "--batch 2"],
    "other images": ["different images", "ReproducibleHook"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_divided_is_refused_by_name(processes, name):
    for results in processes:
        for word in WORDS[name]:
            assert word in results["refused"][name]


def test_one_process_trains_and_predicts_as_the_segmentor_of_the_configs():
    inputs, samples = make_batch((2, 3, 64, 48), 5)
    ours, theirs = (make_model(kind, "sem_fpn") for kind in ("ShardedEncoderDecoder", "FusedEncoderDecoder"))
    assert ours.loss(inputs, samples) == theirs.loss(inputs, samples)
    found, expected = (model.eval().predict(inputs)[0].seg_logits.data for model in (ours, theirs))
    assert torch.equal(found, expected)
