"""tools/make_model_index.py writes its files, and the written files agree with the zoo."""

import re
import shutil
from pathlib import Path

import pytest

from xcit_dense import VARIANTS
from xcit_dense.weights.zoo import ZOO

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[2]
TOOL = "tools/make_model_index.py"
FILES = [
    "model-index.yml",
    "configs/detection/metafile.yml",
    "configs/segmentation/metafile.yml",
    "docs/model_zoo.md",
    "README.md",
]


@pytest.fixture
def copy(tmp_path):
    """A copy of the tool and of the files it writes."""
    for name in [TOOL, *FILES]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def state(root):
    return {name: (root / name).read_text() for name in FILES if (root / name).exists()}


@pytest.fixture(scope="module")
def index():
    """The model index, with the metafiles it imports: collections and models."""
    metafiles = [
        yaml.safe_load((ROOT / name).read_text())
        for name in yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
    ]
    return {part: [entry for file in metafiles for entry in file[part]] for part in ("Collections", "Models")}


def test_the_generated_files_are_up_to_date(python):
    python(ROOT / TOOL, "--check")


def test_check_names_the_outdated_files_and_does_not_write(copy, refusal):
    changed = ["configs/detection/metafile.yml", "README.md"]
    for name in changed:
        (copy / name).write_text((copy / name).read_text().replace("45.3", "45.4"))
    (copy / "model-index.yml").unlink()
    before = state(copy)
    sentence = refusal(copy / TOOL, "--check")
    assert [name for name in FILES if name in sentence] == ["model-index.yml", *changed]
    assert state(copy) == before


def test_without_check_the_files_are_put_in_step(copy, python):
    for name in FILES[:-1]:
        (copy / name).write_text("nothing")
    readme = copy / "README.md"
    readme.write_text(re.sub("(?s)(<!-- model table -->\n).*(<!-- end)", r"\1\2", readme.read_text()))
    assert state(copy) != state(ROOT)
    python(copy / TOOL)
    assert state(copy) == state(ROOT)


def test_a_readme_without_a_place_for_the_table_is_refused(copy, refusal):
    (copy / "README.md").write_text("# xcit_dense\n")
    before = state(copy)
    assert "<!-- model table -->" in refusal(copy / TOOL)
    assert state(copy) == before


def test_the_model_index_contains_every_complete_model_once(index):
    models = {model["Weights"]: model for model in index["Models"]}
    complete = [weights for weights in ZOO.values() if weights.config]
    assert len(index["Models"]) == len(complete) == 24 + 6 + 12
    assert len({model["Name"] for model in index["Models"]}) == len(complete)
    for weights in complete:
        model = models[weights.url]
        assert model["Config"] == weights.config
        assert model["Name"] == Path(weights.config).stem
        metrics = {name: value for result in model["Results"] for name, value in result["Metrics"].items()}
        assert metrics == weights.metrics


def test_the_model_index_contains_the_length_of_the_training(index):
    lengths = {
        (model["In Collection"], model["Metadata"].get("Epochs"), model["Metadata"].get("Iterations"))
        for model in index["Models"]
    }
    assert lengths == {
        ("Mask R-CNN with XCiT", 36, None),
        ("Semantic FPN with XCiT", None, 80000),
        ("UperNet with XCiT", None, 160000),
        ("UperNet with BEiT", None, 160000),
        ("UperNet with BEiTv2", None, 160000),
        ("Mask R-CNN with CoaT", 36, None),
        ("Mask R-CNN with CoaT", 12, None),
        ("Cascade Mask R-CNN with CoaT", 36, None),
        ("Cascade Mask R-CNN with CoaT", 12, None),
    }


def test_every_collection_of_the_model_index_is_there_and_used(index):
    names = [collection["Name"] for collection in index["Collections"]]
    assert len(names) == len(set(names))
    assert {model["In Collection"] for model in index["Models"]} == set(names)


def test_the_model_zoo_has_a_row_for_every_weight():
    lines = (ROOT / "docs/model_zoo.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| `") and line.endswith("> |")]
    assert len(rows) == len(ZOO) == 126
    for name, weights in ZOO.items():
        (row,) = (row for row in rows if f"`xcit://{name}`" in row)
        assert f"<{weights.url}>" in row
        assert " | ".join(str(value) for value in weights.metrics.values()) in row


def test_the_model_zoo_has_the_costs_of_each_class_of_backbone():
    text = (ROOT / "docs/model_zoo.md").read_text().partition("## What the backbones cost")[2]
    names = re.findall(r"\| `xcit://(\S+)` \|.*\d \|$", text, re.MULTILINE)
    assert {ZOO[name].backbone for name in names} == {"XCiT", "TokenPyramid", "CoaT"}
    assert {ZOO[name].task for name in names} == {"detection", "segmentation"}


@pytest.mark.parametrize("file", ["README.md", "docs/model_zoo.md"])
def test_links_lead_to_files(file):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", (ROOT / file).read_text()) if "://" not in link]
    assert len(links) >= 24
    assert not [link for link in links if not ((ROOT / file).parent / link.partition("#")[0]).is_file()]


def test_the_readme_has_a_row_and_three_configs_for_every_variant():
    text = (ROOT / "README.md").read_text()
    table = text.partition("<!-- model table -->")[2].partition("<!-- end of model table -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `") and '("' not in line]
    assert [row.split("`")[1] for row in rows] == list(VARIANTS)
    assert all(row.count("](configs/") == 3 for row in rows)
    (row,) = (row for row in rows if "`small_12_p16`" in row)
    assert re.findall(r"\d\d\.\d", row) == ["84.7", "45.3", "40.8", "43.9", "45.9"]


def test_the_readme_has_a_row_for_every_other_backbone_with_a_config():
    text = (ROOT / "README.md").read_text()
    table = text.partition("<!-- model table -->")[2].partition("<!-- end of model table -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `") and '("' in line]
    expected = {f'{w.backbone}("{w.variant}")' for w in ZOO.values() if w.config and w.backbone != "XCiT"}
    expected |= {f'TokenPyramid("{name}")' for name in ("cait_xxs24_384", "cait_s24_384", "vit_base_patch14_dinov2")}
    assert {row.split("`")[1] for row in rows} == expected
    (row,) = (row for row in rows if '`CoaT("coat_small")`' in row)
    assert re.findall(r"\d\d\.\d", row) == ["49.0", "43.7", "52.2", "45.1"]
    links = {Path(link).stem for link in re.findall(r"\]\(([^)]+)\)", table)}
    leaves = {path.stem for task in ("detection", "segmentation") for path in (ROOT / "configs" / task).glob("*.py")}
    assert {name for name in leaves - links if not name.endswith(("_1x", "_1k", "_shapes", "_vtfpn"))} == set()


def test_the_readme_and_the_zoo_have_a_row_for_every_head_without_published_figures():
    readme, zoo = ((ROOT / name).read_text() for name in ("README.md", "docs/model_zoo.md"))
    for head in ("DINO", "RTMDet", "SegFormer's head"):
        assert f"| {head} | " in readme
        assert f"| {head} | " in zoo
