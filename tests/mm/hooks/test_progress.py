"""ProgressHook shows bars only in a terminal."""

import os
import re
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
pytest.importorskip("pty", reason="only Unix has pseudo-terminals")
import pty

from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner

import xcit_dense.mm  # noqa: F401


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs, mode="tensor"):
        x = self.layer(torch.stack(inputs))
        return {"loss": x.square().mean()} if mode == "loss" else [x]


class NoMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        print("computing metrics")
        return {"seen": len(results)}


class Images(list):
    metainfo = None

    def __init__(self):
        super().__init__({"inputs": torch.ones(4)} for _ in range(5))


@pytest.fixture
def run(tmp_path):
    """Trains a layer for six steps, validating every three, or tests it."""

    def start(train=True):
        loader = {
            "dataset": Images(),
            "sampler": {"type": "InfiniteSampler" if train else "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "pseudo_collate"},
            "batch_size": 1,
            "num_workers": 0,
        }
        held_out = {**loader, "sampler": {"type": "DefaultSampler", "shuffle": False}}
        runner = Runner(
            model=Model(),
            work_dir=str(tmp_path / "work"),
            train_dataloader=loader,
            train_cfg={"by_epoch": False, "max_iters": 6, "val_interval": 3},
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
            val_dataloader=held_out,
            val_cfg={},
            val_evaluator=[NoMetric()],
            test_dataloader=held_out,
            test_cfg={},
            test_evaluator=[NoMetric()],
            default_hooks={"checkpoint": None, "logger": {"type": "LoggerHook", "interval": 2}},
            custom_hooks=[{"type": "ProgressHook"}],
            log_processor={"by_epoch": False},
            experiment_name=f"{tmp_path.name}_{train}",
        )
        runner.train() if train else runner.test()
        return runner

    return start


@pytest.fixture
def terminal(monkeypatch):
    """Replaces streams by a terminal; ``written()`` returns the text that the terminal received."""
    received, opened = [], []

    def read(descriptor):
        while True:
            try:
                received.append(os.read(descriptor, 4096))
            except OSError:  # the other end is closed
                return

    def give(*streams):
        outer, inner = pty.openpty()
        file = os.fdopen(inner, "w")
        reader = threading.Thread(target=read, args=[outer], daemon=True)
        reader.start()
        opened.append((file, outer, reader))
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TERM", "xterm-256color")
        for stream in streams:
            monkeypatch.setattr(sys, stream, file)

    def written():
        file, outer, reader = opened.pop()
        file.close()
        reader.join(timeout=10)
        os.close(outer)
        return b"".join(received).decode()

    give.written = written
    return give


def screen(written):
    """Returns the lines that a terminal shows at the end."""
    lines, row, column = [""], 0, 0
    for code, text in re.findall(r"(\x1b\[[?0-9;]*[a-zA-Z])|([^\x1b])", written):
        if code.endswith("A"):
            row = max(row - int(code[2:-1] or 1), 0)
        elif code == "\x1b[2K":
            lines[row] = ""
        elif text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif text:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def log_lines(lines):
    return [re.search(r"Iter\((train|val|test)\) *\[\d/\d\]", line)[0] for line in lines if "Iter(" in line]


def test_a_terminal_shows_the_complete_log_above_the_bar(run, terminal):
    terminal("stdout", "stderr")
    runner = run()
    written = terminal.written()
    lines = screen(written)
    (bar,) = [number for number, line in enumerate(lines) if line.startswith("train ")]
    assert re.search(r"6/6 .*it/s", lines[bar])
    assert not any(lines[bar + 1 :]), "the bar is last"
    (log,) = Path(runner.log_dir).glob("*.log")
    assert log_lines(lines) == log_lines(log.read_text().splitlines())
    assert lines.count("computing metrics") == 2
    assert "\x1b[?25h" in written.rpartition("\x1b[?25l")[2], "the cursor is back"


def test_the_bar_shows_loss_and_validation(run, terminal, monkeypatch):
    monkeypatch.setattr("xcit_dense.utils.progress._BETWEEN_FRAMES", 0)
    terminal("stdout", "stderr")
    run()
    written = terminal.written()
    assert re.search(r"train .*3/6.*loss \d", written)
    assert re.search(r"val .*4/5", written)


def test_a_test_has_its_own_bar(run, terminal):
    terminal("stdout", "stderr")
    run(train=False)
    (bar,) = [line for line in screen(terminal.written()) if line.startswith("test ")]
    assert "5/5" in bar


def test_a_redirected_log_does_not_appear_in_the_terminal(run, terminal, capsys):
    terminal("stderr")
    run()
    assert log_lines(screen(terminal.written())) == []
    assert len(log_lines(capsys.readouterr().out.splitlines())) == 9


def test_without_a_terminal_only_the_log_is_printed(run, capsys):
    run()
    out, err = capsys.readouterr()
    assert len(log_lines(out.splitlines())) == 9
    assert "train ━" not in out + err
    assert "\x1b[?25l" not in out + err


def test_the_log_has_its_own_stream_again_after_the_run(run, terminal):
    terminal("stdout", "stderr")
    out = sys.stdout
    runner = run()
    assert sys.stdout is out
    assert runner.logger.handlers[0].stream is out
    terminal.written()


def test_other_ranks_do_not_show_progress(run, terminal, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    terminal("stdout", "stderr")
    run()
    assert "train ━" not in terminal.written()
