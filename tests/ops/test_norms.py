"""Batch norm: chosen by a config, and synchronised where this is possible."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.helpers.models import raises_user_error, random_images
from xcit_dense.ops.norms import SyncBatchNorm, make_norm_layer


def test_a_norm_layer_is_chosen_by_name_or_dictionary():
    assert type(make_norm_layer("BN")(4)) is nn.BatchNorm2d
    assert type(make_norm_layer("SyncBN")(4)) is SyncBatchNorm
    norm = make_norm_layer({"type": "BN", "eps": 1e-3, "momentum": 0.2, "requires_grad": False})(4)
    assert (norm.eps, norm.momentum, norm.num_features) == (1e-3, 0.2, 4)
    assert not any(p.requires_grad for p in norm.parameters())
    assert all(p.requires_grad for p in make_norm_layer({"type": "SyncBN", "requires_grad": True})(4).parameters())


def test_reading_a_norm_config_does_not_change_it():
    config = {"type": "BN", "requires_grad": False}
    make_norm_layer(config)
    assert config == {"type": "BN", "requires_grad": False}


@pytest.mark.parametrize("config", ["SyncBM", {"type": "SyncBM"}])
def test_an_unknown_norm_layer_is_answered_with_the_valid_ones(config):
    with raises_user_error("'SyncBM'", "Did you mean 'SyncBN'?", "BN, BN2d, SyncBN"):
        make_norm_layer(config)


def test_a_norm_config_without_a_type_is_answered_with_the_valid_ones():
    with raises_user_error("norm layer", "BN, BN2d, SyncBN"):
        make_norm_layer({"eps": 1e-5})


@pytest.fixture
def process_group(tmp_path):
    """Makes this process a distributed run of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def check_sync_bn_is_bn(images):
    x = images(3, 4, 5, 6)
    norms = SyncBatchNorm(4), nn.BatchNorm2d(4)
    for training in (True, True, False):
        got, expected = (norm.train(training)(x) for norm in norms)
        torch.testing.assert_close(got, expected)
    for got, expected in zip(*(norm.state_dict().values() for norm in norms)):
        torch.testing.assert_close(got, expected)


def test_sync_bn_on_cpu_is_batch_norm():
    check_sync_bn_is_bn(random_images)


def test_sync_bn_on_cpu_is_batch_norm_in_a_distributed_run(process_group):
    with pytest.raises(ValueError, match="expected input tensor to be on"):
        nn.SyncBatchNorm(4)(random_images(3, 4, 5, 6))
    check_sync_bn_is_bn(random_images)


def test_sync_bn_on_other_devices_is_the_one_of_torch(process_group):
    x = random_images(3, 4, 5, 6).to("meta")
    norm = SyncBatchNorm(4).to("meta")
    assert norm.eval()(x).shape == x.shape
    with pytest.raises(ValueError, match="SyncBatchNorm expected input tensor to be on"):
        norm.train()(x)


TRAIN_ON_TWO = """
import os, sys, torch
from torch.nn.parallel import DistributedDataParallel
from xcit_dense import XCiT
rank, store, device = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

def on_both(value):
    both = [torch.empty_like(value) for _ in range(2)]
    torch.distributed.all_gather(both, value)
    return both

torch.manual_seed(0)
model = XCiT(patch_size=8, embed_dim=16, depth=4, num_heads=2, out_indices=(0, 1, 2, 3)).to(device)
parallel = DistributedDataParallel(model)
torch.manual_seed(rank)
images = torch.randn(2, 3, 32, 40).to(device)
sum(level.square().mean() for level in parallel(images)).backward()
gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
assert gradient.isfinite().all() and gradient.abs().sum() > 0
assert torch.equal(*on_both(gradient))
assert torch.equal(*on_both(model.patch_embed.proj[0][1].running_mean)) == (device == "cuda")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the group, and abort an orderly exit
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))],
)
def test_two_processes_train_with_sync_bn_which_synchronises_on_gpu(tmp_path, device):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRAIN_ON_TWO]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), device], env=environment, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
