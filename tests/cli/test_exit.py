"""Errors for users, and how command lines show them."""

import errno
import logging
import os
import subprocess
import sys

import pytest
from torch.utils.data import DataLoader, Dataset

from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.errors import MissingLibraryError, UserError


@pytest.mark.parametrize("kind", [UserError, MissingLibraryError])
def test_a_command_line_ends_with_the_sentence_of_a_user_error(kind):
    @exit_with_sentence
    def main():
        raise kind("write 8 or 16.")

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == "error: write 8 or 16."  # printed to stderr, with status 1


class Broken(Dataset):
    """Data that cannot be read."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UserError("a.jpg is empty; write another.")


def test_a_command_line_shows_only_the_message_of_a_user_error_in_a_data_loader_worker():
    @exit_with_sentence
    def main():
        list(DataLoader(Broken(), num_workers=1))

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == "error: a.jpg is empty; write another."


@pytest.mark.parametrize(("switch", "ended"), [("0", SystemExit), ("1", ModuleNotFoundError)])
def test_a_command_line_names_the_switch_that_leaves_mmcv_without_operators(switch, ended, monkeypatch):
    monkeypatch.setenv("XCIT_DENSE_OPERATORS", switch)

    @exit_with_sentence
    def main():
        raise ModuleNotFoundError("No module named 'mmcv._ext'", name="mmcv._ext")

    with pytest.raises(ended, match="XCIT_DENSE_OPERATORS=0" if switch == "0" else "mmcv._ext"):
        main()


def test_a_command_line_shows_other_errors_with_their_traceback():
    @exit_with_sentence
    def main():
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        main()


def test_a_command_line_reports_that_a_disk_is_full_or_access_to_a_path_is_denied():
    @exit_with_sentence
    def main(number):
        raise OSError(number, os.strerror(number), "run.log")

    with pytest.raises(SystemExit) as ended:
        main(errno.ENOSPC)
    assert ended.value.code == "error: run.log could not be written: No space left on device; make room there."
    with pytest.raises(SystemExit) as ended:
        main(errno.EACCES)
    assert ended.value.code == "error: run.log: Permission denied; check the path and its rights, or name another."
    with pytest.raises(OSError, match="Input/output"):
        main(errno.EIO)


def test_an_interrupted_command_line_ends_with_the_exit_status_of_shells():
    @exit_with_sentence
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_a_command_line_whose_reader_has_enough_ends_in_silence(tmp_path):
    code = "from xcit_dense.cli.exit import exit_with_sentence as e; e(lambda: print('line\\n' * 100_000))()"
    process = subprocess.run(
        f"'{sys.executable}' -c \"{code}\" | head -1", shell=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert (process.stdout, process.stderr) == ("line\n", "")


def test_a_command_line_passes_arguments_and_returns_its_result():
    @exit_with_sentence
    def main(first: int, *, second: int) -> int:
        """Adds."""
        return first + second

    assert main(1, second=2) == 3
    assert main.__name__ == "main"
    assert main.__doc__ == "Adds."


def test_a_command_leaves_the_logging_module_as_it_was(monkeypatch):
    seen = []
    monkeypatch.setattr(logging, "raiseExceptions", True)

    @exit_with_sentence
    def main():
        seen.append(logging.raiseExceptions)
        raise UserError("write 8.")

    with pytest.raises(SystemExit):
        main()
    assert seen == [False]
    assert logging.raiseExceptions is True


def test_user_errors_can_be_caught_as_pythons_own():
    assert issubclass(UserError, ValueError)
    assert issubclass(MissingLibraryError, ImportError)
