"""Files of the project that other tests do not read: citation, public CI, pre-commit, the documentation."""

import importlib.metadata
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import xcit_dense

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
STARTS = re.compile(r"([A-Z_]+=\S+ +)?(xcit-dense|make|python -m xcit_dense|python tools/\S+|torchrun|srun) ")
PROGRAMS = ("git", "pip", "python", "srun", "tensorboard", "torchrun", "wandb")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def read_yaml(name):
    return yaml.safe_load(read(name))


@cache
def make_targets():
    names = re.findall(r"^([a-z][a-z -]*):(?!=)", read("Makefile"), re.M)
    return {target for line in names for target in line.split()}


def assert_command_exists(command):
    """Checks the program of a command, and the make target."""
    program, *arguments = command.split()
    if program == "make":
        assert arguments[0] in make_targets()
    elif "/" in program:
        assert os.access(ROOT / program, os.X_OK)
    else:
        assert program in PROGRAMS


def without_code(text):
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)


def anchors(page):
    """The anchors of a page's headings, as a repository browser and the site make them, in the order of the page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return [re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings]


def shown_commands(page):
    """The commands in a page's code blocks, without comments and with joined lines."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = [*re.findall(r"^```(?:bash|text)\n(.*?)^```", text, re.M | re.S), *re.findall(r"^    (.+)$", text, re.M)]
    lines = [line.partition(" # ")[0].strip() for block in blocks for line in block.splitlines()]
    return [re.sub(r"^[A-Z_]+=\S+ +", "", line) for line in lines if STARTS.match(line)]


@cache
def help_of(subcommand):
    command = [sys.executable, "-m", "xcit_dense", subcommand, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def assert_subcommand_exists(command):
    """Checks the subcommand of xcit-dense, its options, and the shipped configs that the command names."""
    subcommand, *arguments = re.split(r"-m xcit_dense |xcit-dense ", command, maxsplit=1)[1].split()
    if subcommand.isupper():  # a placeholder
        return
    for word in arguments:
        if word.startswith("--"):
            assert re.search(rf"{re.escape(word)}\b", help_of(subcommand)), command
        elif re.fullmatch(
            r"\w+_xcit_\w+",
            word,
        ):
            assert list((ROOT / "configs").glob(f"*/{word}.py")), command


def test_the_citation_names_this_version_and_the_paper():
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == xcit_dense.__version__
    assert citation["license"] in read("setup.py")
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2106.09681"
    assert paper["authors"][0]["family-names"] == "El-Nouby"


def test_the_public_ci_runs_commands_that_exist():
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands
    for command in commands:
        assert_command_exists(command)


def test_the_public_ci_tests_each_python_that_the_package_names():
    tested = read_yaml(".github/workflows/ci.yml")["jobs"]["fast"]["strategy"]["matrix"]["python"]
    named = re.findall(r"Programming Language :: Python :: (3\.\d+)", read("setup.py"))
    assert tested == named


def test_pre_commit_does_not_download_and_runs_commands_that_exist():
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] in ("system", "pygrep")
        if hook["language"] == "system":
            assert_command_exists(hook["entry"])
        else:
            re.compile(hook["entry"])


def test_every_page_is_in_the_navigation_of_the_site_once():
    def pages_in(node):
        if isinstance(node, str):
            return [node]
        return [page for child in (node.values() if isinstance(node, dict) else node) for page in pages_in(child)]

    named = pages_in(read_yaml("mkdocs.yml")["nav"])
    roots = {"README.md": "index.md"}
    expected = [roots.get(name, name.removeprefix("docs/")) for name in (p.relative_to(ROOT).as_posix() for p in PAGES)]
    assert sorted(named) == sorted(expected)


def test_the_files_that_the_site_is_made_with_exist():
    config = read_yaml("mkdocs.yml")
    for path in [*config["hooks"], *(f"{config['docs_dir']}/{name}" for name in config["extra_css"])]:
        assert (ROOT / path).is_file()
    assert f"{config['site_dir']}/" in read(".gitignore").splitlines()


@each_page
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target), link


def test_all_headings_of_the_architecture_page_are_different():
    found = anchors(ROOT / "docs/architecture.md")
    assert len(set(found)) == len(found)


@each_page
def test_every_command_that_a_page_shows_exists_with_its_options(page):
    for command in shown_commands(page):
        if "xcit-dense " in command or "-m xcit_dense " in command:
            assert_subcommand_exists(command)
        elif command.startswith("python tools/"):
            assert (ROOT / command.split()[1]).is_file(), command
        else:
            assert_command_exists(command)


@pytest.mark.parametrize("container", ["xcit_dense", "xcit_dense.mm"])
def test_the_architecture_page_shows_the_contract_of_the_layers(container):
    pattern = rf'^containers = \["{container}"\]\nlayers = \[(.*?)\]$'
    contract = re.search(pattern, read("pyproject.toml"), re.M | re.S)
    layers = "".join(f"    {line}\n" for line in re.findall(r'"(.+?)"', contract[1]))
    assert f"\n\n{layers}\n" in read("docs/architecture.md")


def test_every_command_that_installs_an_extra_spells_the_package_alike_and_names_an_extra_that_exists():
    extras = importlib.metadata.metadata("xcit-dense").get_all("Provides-Extra")
    files = [*PAGES, *(ROOT / "xcit_dense").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    found = [
        match for file in files for match in re.findall(r"(xcit.dense)\[([a-z][a-z,]*)\]", file.read_text("utf-8"))
    ]
    assert {name for name, _ in found} == {"xcit-dense"}
    assert {extra for _, names in found for extra in names.split(",")} <= set(extras)
