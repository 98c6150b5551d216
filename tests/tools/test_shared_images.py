"""Two processes that divide each image train as one process does."""

import pytest

from tests.helpers.runs import read_checkpoint, read_training_log, short_run
from tests.tools.test_distributed import free_port

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

pytestmark = pytest.mark.slow

CHANGES = {
    "model.backbone.norm_eval": True,
    "model.backbone.drop_path_rate": 0.0,
    "model.decode_head.dropout_ratio": 0.1,
}


@pytest.fixture(scope="module")
def run(tools, python, shapes, tmp_path_factory):
    """Trains Semantic FPN for three iterations of two images. Returns the work directory."""

    def run(*launch, **changes):
        work_dir = tmp_path_factory.mktemp("runs") / "work"
        config = tools.segmentation["sem_fpn_xcit_n12_p8_shapes"]
        words = ["-m", "xcit_dense", "train", config, "--data-root", shapes, "--work-dir", work_dir, "--device", "cpu"]
        python(*launch, *words, *(["--launcher", "pytorch"] if launch else []), *short_run(3, **CHANGES, **changes))
        return work_dir

    return run


def test_two_processes_train_on_one_image_as_one_process_does(run):
    one = run()
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    two = run(*torchrun, **{"model.type": "ShardedEncoderDecoder"})
    logs = [read_training_log(work_dir) for work_dir in (one, two)]
    for expected, found in zip(*logs, strict=True):
        for name in ("loss", "decode.acc_seg"):
            assert found[name] == pytest.approx(expected[name], rel=1e-3), name
    weights = [read_checkpoint(work_dir / "iter_3.pth")["state_dict"] for work_dir in (one, two)]
    for name, value in weights[0].items():
        if name.endswith("running_mean"):
            assert (weights[1][name] - value).norm() <= 1e-2 * value.norm(), name
