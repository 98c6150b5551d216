"""One resolver turns every way to name a checkpoint into a file."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

from tests.helpers.hub import running_hub
from tests.helpers.models import raises_user_error
from tests.helpers.server import CONTENT, HALF, OTHER, SAFETENSORS, send
from xcit_dense import load_weights
from xcit_dense.errors import UserError
from xcit_dense.weights import zoo
from xcit_dense.weights.resolve import check, resolve
from xcit_dense.weights.saved import write_saved


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_of_a_file_is_returned(tmp_path, kind):
    (tmp_path / "a.pth").write_bytes(CONTENT)
    check(kind(tmp_path / "a.pth"))
    assert resolve(kind(tmp_path / "a.pth")) == tmp_path / "a.pth"


def test_a_path_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.pth").write_bytes(CONTENT)
    assert resolve("~/a.pth") == tmp_path / "a.pth"


def test_a_file_is_preferred_to_a_published_weight_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nano_12_p16_224").write_bytes(CONTENT)
    assert resolve("nano_12_p16_224") == Path("nano_12_p16_224")


def test_a_work_directory_gives_its_last_intact_checkpoint(tmp_path):
    for iteration in (1, 2, 3):
        content = {"meta": {"iter": iteration, "time": "20260101_000000"}, "state_dict": {}, "message_hub": {}}
        torch.save(content, tmp_path / f"iter_{iteration}.pth")
    (tmp_path / "iter_3.pth").write_bytes(CONTENT[:HALF])
    check(tmp_path)
    assert resolve(tmp_path) == tmp_path / "iter_2.pth"


@pytest.mark.parametrize("act", [resolve, check])
def test_a_directory_without_a_checkpoint_is_refused(tmp_path, act):
    with raises_user_error(tmp_path, "does not contain an intact checkpoint"):
        act(tmp_path)


@pytest.mark.parametrize("act", [resolve, check])
@pytest.mark.parametrize("path", ["some/where.pth", Path("some/where.pth"), "/some/where.safetensors", "epoch_1"])
def test_a_missing_file_is_refused_at_once(path, act):
    with raises_user_error(f"No checkpoint at {path}", "Check the path"):
        act(path)


@pytest.mark.parametrize("act", [resolve, check])
def test_an_unknown_scheme_is_refused_with_the_known_ones(act):
    with raises_user_error("xict://", "xcit://", "timm://", "https://"):
        act("xict://nano_12_p16_224")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("xcit://nano_12_p16", "nano_12_p16_"),
        ("nano_12_p16_22", "nano_12_p16_224'"),
        ("xcit://coco/smal_12_p16", "coco/small_12_p16'"),
        ("xcit://coco/mask_rcnn/coat_smal_1x", "coco/mask_rcnn/coat_small_1x'"),
        ("xcit://ade20k/upernet/beit_bse", "ade20k/upernet/beit_base'"),
        ("timm://xcit_small_12_p16_384.fb_dist", "xcit_small_12_p16_384.fb_dist_in1k'"),
        ("timm://beit_base_patch16_224.in22k_ft_in22", "beit_base_patch16_224.in22k_ft_in22k'"),
    ],
)
@pytest.mark.parametrize("act", [resolve, check])
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest, act):
    with pytest.raises(UserError, match="Did you mean") as caught:
        act(name)
    message = str(caught.value)
    assert name.rpartition("://")[2] in message
    assert f"'{nearest}" in message
    assert len(message) < 400, "the answer does not list all names"


@pytest.mark.parametrize("act", [resolve, check])
def test_a_name_of_timm_without_a_tag_is_answered_with_its_tags(act):
    with raises_user_error("timm://cait_s24_224 has no tag", "timm:// and one of cait_s24_224.fb_dist_in1k."):
        act("timm://cait_s24_224")


def test_any_pretrained_model_of_timm_is_a_name():
    for name in ("beit_base_patch16_224.in22k_ft_in22k", "vit_base_patch14_dinov2.lvd142m", "gcvit_base.in1k"):
        check(f"timm://{name}")


@pytest.mark.parametrize("name", ["nano_12_p16_224", "xcit://nano_12_p16_224", "https://example.com/a.pth"])
def test_a_check_downloads_nothing(cache, name):
    check(name)
    assert not cache.exists()


def test_a_name_is_downloaded_once(server, cache, published):
    first = resolve(published)
    assert first == cache / "xcit_nano_12_p16_224.pth"
    assert first.read_bytes() == CONTENT
    assert resolve(published) == first
    assert [path for path, _ in server.requests] == ["/xcit_nano_12_p16_224.pth"]
    assert list(cache.iterdir()) == [first]


BY_HAND = """
import sys
from pathlib import Path
from xcit_dense.errors import UserError
from xcit_dense.weights.resolve import resolve

name, source, target = sys.argv[1:]
try:
    resolve(name)
except UserError as error:
    print(error)
Path(target).parent.mkdir(parents=True)
Path(target).write_bytes(Path(source).read_bytes())
print(resolve(name))
"""


def test_weights_of_timm_come_from_the_hugging_face_hub_and_its_cache(server, tmp_path, python):
    server.answers = [send(SAFETENSORS, ETag='"1"', X_Repo_Commit="0" * 40)]
    name = "xcit_small_12_p16_384.fb_dist_in1k"
    program = "-c", f"from xcit_dense.weights.resolve import resolve; print(resolve('timm://{name}'))"
    hub = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": f"{server.address}/", "HF_HUB_DISABLE_TELEMETRY": "1"}
    path = Path(python(*program, **hub).stdout.strip())
    assert path.read_bytes() == SAFETENSORS
    assert path.is_relative_to(tmp_path / "hf")
    assert {path for path, _ in server.requests} == {f"/timm/{name}/resolve/main/model.safetensors"}

    asked = len(server.requests)
    assert Path(python(*program, **hub, HF_HUB_OFFLINE="1").stdout.strip()) == path
    assert len(server.requests) == asked

    hub["HF_HOME"] = str(tmp_path / "empty")
    by_hand = tmp_path / "hub" / "checkpoints" / f"{name}.safetensors"
    program = "-c", BY_HAND, f"timm://{name}", path, by_hand
    refused, found = python(*program, **hub, HF_HUB_OFFLINE="1").stdout.splitlines()
    assert f"put it at {by_hand}" in refused
    assert Path(found) == by_hand


PROGRAM = """
import sys
from xcit_dense.errors import UserError
from xcit_dense.weights.read import read_weights
from xcit_dense.weights.resolve import resolve

for address in sys.argv[1:]:
    try:
        path = resolve(address)
        print(path.name, sorted(read_weights(path)))
    except UserError as error:
        print(error)
"""


def test_an_address_of_the_hub_gives_the_safetensors_file_or_else_a_pickle_that_is_read_safely(tmp_path, python):
    code = b"cos\nsystem\n(S'touch executed'\ntR."
    with running_hub() as hub:
        hub.files["me/both", "model.safetensors"] = SAFETENSORS
        hub.files["me/both", "pytorch_model.bin"] = code
        hub.files["me/pickle", "pytorch_model.bin"] = CONTENT
        hub.files["me/code", "pytorch_model.bin"] = code
        hub.files["me/other", "weights/epoch_12.pth"] = CONTENT
        addresses = [
            *("hf://me/both", "hf://me/both@v1", "hf://me/pickle", "hf://me/code"),
            *("hf://me/other", "hf://me/other/weights/epoch_12.pth", "hf://me/gone", "hf://me/both@v2"),
        ]
        hidden = hub.environment(tmp_path / "hf")
        lines = python("-c", PROGRAM, *addresses, cwd=tmp_path, **hidden).stdout.splitlines()
        assert lines[:3] == [
            "model.safetensors ['weight']",
            "model.safetensors ['weight']",
            "pytorch_model.bin ['weight']",
        ]
        assert "was not executed" in lines[3] or "is not a checkpoint" in lines[3]
        assert "me/other has no file of weights (model.safetensors" in lines[4]
        assert lines[5] == "epoch_12.pth ['weight']"
        assert f"{hub.address} has no repository me/gone" in lines[6]
        assert "me/both has no revision v2" in lines[7]
        assert len(lines) == 8
        assert not (tmp_path / "executed").exists()

        asked = len(hub.asked)
        offline = python("-c", PROGRAM, "hf://me/pickle", "hf://me/gone", cwd=tmp_path, **hidden, HF_HUB_OFFLINE="1")
        found, missing = offline.stdout.splitlines()
        assert found == "pytorch_model.bin ['weight']"
        assert "hf://me/gone is not in the cache" in missing
        assert "unset HF_HUB_OFFLINE" in missing
        assert len(hub.asked) == asked


PUSH = """
import sys
from pathlib import Path
from xcit_dense.errors import UserError
from xcit_dense.weights.hub import push
from xcit_dense.weights.resolve import resolve

try:
    address = push(Path(sys.argv[1]), "me/pushed")
    print(address, resolve(address).read_bytes() == Path(sys.argv[1], "model.safetensors").read_bytes())
except UserError as error:
    print(error)
"""


def test_a_saved_model_is_pushed_to_the_hub_without_other_files(tmp_path, python, closed_address):
    write_saved(tmp_path / "saved", {"task": "detection"}, {"weight": torch.zeros(3)})
    (tmp_path / "saved/secret.txt").write_text("mine")
    with running_hub() as hub:
        environment = hub.environment(tmp_path / "hf")
        assert python("-c", PUSH, tmp_path / "saved", **environment).stdout == "hf://me/pushed True\n"
        assert {file for _, file in hub.files} == {"model.safetensors", "config.json"}
    refused = python("-c", PUSH, tmp_path / "saved", **{**environment, "HF_ENDPOINT": closed_address}).stdout
    assert f"could not be pushed to {closed_address}/me/pushed" in refused
    assert "hf auth login" in refused


def test_a_hub_that_cannot_be_reached_is_named(tmp_path, python, closed_address):
    hidden = {"HF_ENDPOINT": closed_address, "HF_HOME": str(tmp_path), "no_proxy": "127.0.0.1"}
    impatient = "import time\ntime.sleep = lambda seconds: None\n"  # huggingface_hub waits 23 seconds between its tries
    line = python("-c", impatient + PROGRAM, "hf://me/both", **hidden).stdout
    assert f"hf://me/both could not be downloaded from {closed_address}" in line
    assert "check the network" in line


@pytest.mark.parametrize("act", [resolve, check])
@pytest.mark.parametrize(
    "text", ["hf://", "hf://me", "hf://me/", "hf://me/../..", "hf:///me/a", "hf://me/a@", "hf://-/ "]
)
def test_a_malformed_address_of_the_hub_is_refused(text, act):
    with raises_user_error(text, "write hf://USER/REPOSITORY"):
        act(text)


@pytest.mark.parametrize(
    "text", ["hf://me/a", "hf://me/a@v2", "hf://me/a/b/c.pth", "hf://me/a.b-c@0123abc/d.safetensors"]
)
def test_a_check_of_an_address_of_the_hub_asks_no_server(text):
    check(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("work_dirs/mnie", "Did you mean work_dirs/mine?"),
        ("someone/cells", "write hf://someone/cells"),
        ("coco/smal_12_p16", "Did you mean the published weight 'coco/small_12_p16'?"),
    ],
)
def test_a_text_without_a_scheme_never_reaches_the_network(tmp_path, monkeypatch, text, hint):
    monkeypatch.chdir(tmp_path)
    Path("work_dirs/mine").mkdir(parents=True)

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with raises_user_error(f"No checkpoint at {text}", hint):
        resolve(text)


def test_a_directory_of_a_saved_model_gives_its_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(SAFETENSORS)
    assert resolve(tmp_path) == tmp_path / "model.safetensors"


def test_weights_of_timm_that_are_not_on_the_hub_come_from_their_address(server, cache, monkeypatch):
    address = f"{server.address}/gcvit_base_224_nvidia-f009139b.pth"
    assert timm.get_pretrained_cfg("gcvit_base.in1k").hf_hub_id is None
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: SimpleNamespace(hf_hub_id=None, url=address))
    assert resolve("timm://gcvit_base.in1k") == cache / "gcvit_base_224_nvidia-f009139b.pth"
    assert len(server.requests) == 1


def test_files_of_one_name_at_two_addresses_are_kept_apart(server):
    server.answers = [send(CONTENT), send(OTHER)]
    first, second = (resolve(f"{server.address}/{run}/epoch_36.pth?download=true") for run in "ab")
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, OTHER)
    assert resolve(f"{server.address}/a/epoch_36.pth?download=true") == first
    assert first.suffix == ".pth"
    assert len(server.requests) == 2


def test_an_address_of_the_zoo_is_the_zoos_file(server, cache, published):
    path = resolve(published)
    assert resolve(zoo.ZOO["nano_12_p16_224"].url) == path
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("file", "plain"), [("a-0123abcd.pth", True), ("a-0123ABCD.pth", False), ("a-0123abc.pth", False), ("a.pth", False)]
)
def test_a_file_with_its_hash_in_the_name_is_the_one_that_pytorch_downloaded(server, cache, file, plain):
    cache.mkdir(parents=True)
    (cache / file).write_bytes(OTHER)
    path = resolve(f"{server.address}/{file}")
    assert (path == cache / file) == plain
    assert path.read_bytes() == (OTHER if plain else CONTENT)


def test_a_downloaded_file_that_cannot_be_read_says_that_it_may_be_deleted(cache, tmp_path):
    cache.mkdir(parents=True)
    file = cache / "xcit_nano_12_p16_224.pth"
    file.write_bytes(CONTENT[:HALF])
    with raises_user_error(file, "was cut short", "delete it, and it is downloaded again"):
        load_weights(torch.nn.Identity(), "nano_12_p16_224")
    own = file.replace(tmp_path / "mine.pth")
    with pytest.raises(UserError) as caught:
        load_weights(torch.nn.Identity(), own)
    assert "delete" not in str(caught.value)


def test_a_file_put_in_place_by_hand_is_not_downloaded(cache):
    cache.mkdir(parents=True)
    file = cache / "xcit_nano_12_p16_224.pth"
    file.write_bytes(b"weights")
    assert resolve("xcit://nano_12_p16_224") == file
    assert file.read_bytes() == b"weights"
