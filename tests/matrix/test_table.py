"""The tables of docs/heads.md are those that the tests stand for, and no family is left out."""

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from tests.matrix.exceptions import EXCEPTIONS
from tests.matrix.families import installed_families, read_record
from tests.matrix.table import PAGE, TITLES, put_table, render_table
from xcit_dense.cli.installed_configs import library_configs

# Directories of configs without a model: parts that other configs inherit from.
NOT_FAMILIES = {"mmdet": {"common"}, "mmseg": set()}


@pytest.mark.parametrize("library", TITLES)
def test_the_page_has_the_table(library):
    page = PAGE.read_text(encoding="utf-8")
    assert put_table(page, library, render_table(library)) == page


@pytest.mark.parametrize("library", TITLES)
def test_every_directory_of_configs_is_a_recorded_family(library):
    directories = {name.partition("/")[0] for name in library_configs(library)}
    recorded = {entry["config"].partition("/")[0] for entry in installed_families(library).values()}
    assert directories - NOT_FAMILIES[library] == recorded


@pytest.mark.parametrize("library", TITLES)
def test_every_exception_is_a_recorded_family(library):
    assert set(EXCEPTIONS[library]) <= set(read_record(library))
