"""The checkpoint of a work directory from which a training continues."""

import shutil

import pytest
import torch

from xcit_dense.weights.work_dir import last_intact_checkpoint


@pytest.fixture
def save(tmp_path):
    """Writes a checkpoint as MMEngine does, and names it in the file last_checkpoint."""

    def write(name, iteration, time="20260101_000000", directory=tmp_path):
        directory.mkdir(exist_ok=True)
        meta = {"iter": iteration, "epoch": 0, "time": time}
        state = {"weight": torch.arange(5000.0)}
        torch.save({"meta": meta, "state_dict": state, "optimizer": {}, "message_hub": {}}, directory / name)
        (directory / "last_checkpoint").write_text(str(directory / name))
        return directory / name

    return write


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def blank(path):
    """A file whose length reached the disk before its content did."""
    content = bytearray(path.read_bytes())
    content[9000:13000] = bytes(4000)
    path.write_bytes(content)


def test_the_checkpoint_that_was_saved_last_is_found(save, tmp_path):
    save("iter_9.pth", 9)
    last = save("iter_10.pth", 10)
    assert last_intact_checkpoint(tmp_path) == last


def test_a_later_run_is_preferred_to_a_longer_run_in_the_same_directory(save, tmp_path):
    save("iter_900.pth", 900, "20260101_120000")
    last = save("iter_10.pth", 10, "20260102_120000")
    assert last_intact_checkpoint(str(tmp_path)) == last


@pytest.mark.parametrize("pointer", ["iter_9.pth", "gone.pth", "", "\0\0\0", None])
def test_the_content_of_the_files_decides_and_not_the_file_last_checkpoint(save, tmp_path, pointer):
    save("iter_9.pth", 9)
    last = save("iter_10.pth", 10)
    if pointer is None:
        (tmp_path / "last_checkpoint").unlink()
    else:
        (tmp_path / "last_checkpoint").write_text(pointer)
    assert last_intact_checkpoint(tmp_path) == last


@pytest.mark.parametrize("damage", [cut, blank, lambda path: path.write_bytes(b"")], ids=["cut", "blank", "empty"])
def test_a_damaged_file_is_skipped(save, tmp_path, damage):
    whole = save("iter_9.pth", 9)
    damage(save("iter_10.pth", 10))
    assert last_intact_checkpoint(tmp_path) == whole


def test_a_file_that_is_not_a_training_checkpoint_is_skipped(save, tmp_path):
    whole = save("epoch_1.pth", 9)
    save("best_bbox_mAP_epoch_2.pth", 12)
    save("iter_10.pth.part", 10)
    torch.save({"weight": torch.ones(3)}, tmp_path / "weights.pth")
    torch.save({"meta": {"iter": 12, "time": "20270101_000000"}, "state_dict": {}}, tmp_path / "iter_12-1a2b3c4d.pth")
    (tmp_path / "notes.pth").write_text("no checkpoint")
    assert last_intact_checkpoint(tmp_path) == whole


def test_code_in_a_checkpoint_is_not_executed(save, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    whole = save("iter_9.pth", 9)
    torch.save({"meta": {"iter": 10}, "trap": Trap()}, tmp_path / "iter_10.pth")
    assert last_intact_checkpoint(tmp_path) == whole
    assert not (tmp_path / "sprung").exists()


def test_checkpoints_in_another_directory_are_found_by_the_file_last_checkpoint(save, tmp_path):
    elsewhere = save("iter_9.pth", 9, directory=tmp_path / "elsewhere")
    last = save("iter_10.pth", 10, directory=tmp_path / "elsewhere")
    (tmp_path / "last_checkpoint").write_text(str(last))
    assert last_intact_checkpoint(tmp_path) == last
    cut(last)
    assert last_intact_checkpoint(tmp_path) == elsewhere


def test_a_copy_of_a_work_directory_continues_from_its_own_checkpoint(save, tmp_path):
    original = save("iter_9.pth", 9, directory=tmp_path / "original")
    shutil.copytree(original.parent, tmp_path / "copy")
    assert last_intact_checkpoint(tmp_path / "copy") == tmp_path / "copy" / "iter_9.pth"


def test_a_checkpoint_in_shards_is_a_directory(tmp_path):
    (tmp_path / "iter_9.pth").mkdir()
    (tmp_path / "last_checkpoint").write_text("work_dirs/former/iter_9.pth")
    assert last_intact_checkpoint(tmp_path) == tmp_path / "iter_9.pth"


def test_without_an_intact_checkpoint_the_result_is_none(save, tmp_path):
    assert last_intact_checkpoint(tmp_path / "gone") is None
    assert last_intact_checkpoint(tmp_path) is None
    cut(save("iter_9.pth", 9))
    assert last_intact_checkpoint(tmp_path) is None
