"""Helpers for tests of the benchmark of complete models."""

from tests.helpers.tiny import tiny_config

SIZE = (64, 96)


def model_race_options(**changes):
    """Makes the options of a small run."""
    from xcit_dense.mm.benchmark.options import ModelOptions

    values = {"model": "tiny", "sizes": (SIZE,), "batch": 2, "dtype": "fp32", "train": False, "device": "cpu"}
    values |= {"threads": 1, "rounds": 1, "contenders": ("ours", "library-heads")}
    return ModelOptions(**{**values, **changes})


def named_config(task, head=None):
    """Reads the config of a tiny model on a variant with a name, which timm has too."""
    config = tiny_config(task, head)
    config.model.backbone = {"type": "XCiT", "variant": "nano_12_p16"}
    if config.model.get("neck"):
        config.model.neck.in_channels = [128] * 4
    return config
