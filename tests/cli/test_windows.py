"""Options of windows that do not fit are refused before a model is opened."""

import pytest

from xcit_dense.cli.main import main


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--overlap", "8"], ["--overlap is an option of windows", "--window 1024"]),
        (["--scale", "0.5"], ["--scale is an option of windows"]),
        (["--scores"], ["--scores is an option of windows"]),
        (["--resume"], ["--resume is an option of windows"]),
        (["--window", "16"], ["window of 16 pixels is too small"]),
        (["--window", "64", "--overlap", "64"], ["overlap of 64", "from 0 to 32"]),
        (["--window", "64", "--overlap", "-1"], ["overlap of -1"]),
        (["--window", "64", "--scale", "0"], ["--scale 0.0", "0.5"]),
        (["--window", "64", "--bands", "1"], ["model.onnx is an exported model", "--bands"]),
        (["--window", "64"], ["photos contains no images"]),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["predict", "model.onnx", "photos", *options, "--out", "found"])
    for word in ("error: ", *words):
        assert word in ended.value.code
    assert not (tmp_path / "found").exists()
