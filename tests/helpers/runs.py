"""What the tests of runs share: options, logs and checkpoints."""

import json


def read_checkpoint(path):
    """Reads a checkpoint of a training as MMEngine does."""
    import xcit_dense.mm  # noqa: F401  isort: skip
    from mmengine.runner import CheckpointLoader

    return CheckpointLoader.load_checkpoint(str(path), map_location="cpu")


def read_log(work_dir):
    """What a run logged, one dictionary an iteration or evaluation."""
    return [json.loads(line) for path in sorted(work_dir.glob("*/vis_data/scalars.json")) for line in path.open()]


def read_training_log(work_dir):
    """What a training logged, one dictionary an iteration."""
    return [record for record in read_log(work_dir) if "loss" in record]


def optimizer_steps(checkpoint):
    """Steps that the optimizer of a checkpoint has made, one number if all parameters agree."""
    return {int(state["step"]) for state in read_checkpoint(checkpoint)["optimizer"]["state"].values()}


def short_run(iterations, **more):
    """Makes the ``--cfg-options`` of a run of a few iterations, which logs each."""
    values = {
        "train_cfg.max_iters": iterations,
        "train_cfg.val_interval": iterations,
        "default_hooks.checkpoint.interval": iterations,
        "default_hooks.logger.interval": 1,
        "train_dataloader.batch_size": 2,
        "randomness.seed": 0,
        **more,
    }
    return ["--cfg-options", *(f"{name}={value}" for name, value in values.items())]


def read_text_log(work_dir):
    """Returns the text of the log files of a work directory and of the directories in it."""
    return "\n".join(path.read_text() for path in sorted(work_dir.rglob("*.log")))
