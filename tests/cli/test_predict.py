"""The command predict with an exported model: what has no meaning for such a model is refused before it is opened."""

import pytest

from xcit_dense.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["No input after model.onnx", "videos"]),
        (("photos", "--cfg-options", "a=1"), ["model.onnx is an exported model", "--cfg-options", "leave it out"]),
        (("photos", "--bands", "1,2,3"), ["--bands"]),
        (("photos", "--draw-bands", "1,2,3"), ["--draw-bands"]),
        (("photos", "--launcher", "pytorch"), ["--launcher"]),
        (("no_photos",), ["no_photos", "check the path"]),
    ],
)
def test_options_without_a_meaning_for_an_exported_model_are_refused(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["predict", "model.onnx", *arguments, "--out", "found"])
    for word in ("error: ", *words):
        assert word in ended.value.code
    assert not (tmp_path / "found").exists()
