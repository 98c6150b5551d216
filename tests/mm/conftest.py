"""Fixtures of the tests of xcit_dense.mm."""

import pytest
import torch


@pytest.fixture(scope="session")
def published(reference):
    """Makes random weights with the names and shapes of a published file, ``'classifier'`` or ``'dense'``."""
    keys = reference("checkpoint_keys")

    def make(kind, variant="nano_12_p16"):
        generator = torch.Generator().manual_seed(0)
        return {
            name: torch.randn(shape, generator=generator) if shape else torch.tensor(7)  # batches seen by a norm
            for name, shape in keys[variant][kind].items()
        }

    return make


@pytest.fixture
def downloaded(published, tmp_path, monkeypatch):
    """Puts a classifier of nano_12_p16 where a download would put it. Returns its weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "xcit_nano_12_p16_224.pth"
    path.parent.mkdir(parents=True)
    weights = published("classifier")
    torch.save({"model": weights}, path)
    return weights


@pytest.fixture
def mm_log(tmp_path):
    """Reads what the libraries have logged since the test began."""
    logging = pytest.importorskip("mmengine.logging")
    path = tmp_path / "mm.log"
    logger = logging.MMLogger.get_instance(tmp_path.name, log_file=str(path))
    yield path.read_text
    for handler in list(logger.handlers):
        handler.close()
        logger.removeHandler(handler)
    logging.MMLogger._instance_dict.pop(tmp_path.name)
