"""CITATION.cff, CHANGELOG.md and the issue templates: they parse, and say the same as the package."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
FORMS = [path for path in TEMPLATES if path.name != "config.yml"]
KINDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    assert paper["title"].startswith("Show-1: Marrying Pixel and Latent Diffusion Models")
    assert len(paper["authors"]) == 8
    arxiv = PROJECT["urls"]["Paper"].rpartition("/")[2]
    assert paper["identifiers"][0]["value"] == f"arXiv:{arxiv}"


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (\S+)", text, re.M)
    assert versions[0] == "Unreleased"
    assert versions[1:2] == [PROJECT["version"]] or f"The first release will be {PROJECT['version']}." in text
    kinds = set(re.findall(r"^### (.+)", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(f"`{script}`" in text for script in PROJECT["scripts"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_ask_for_versions_and_devices(path: Path) -> None:
    form = read(path)
    assert form.keys() >= {"name", "description", "body"}
    items = form["body"]
    assert {item["type"] for item in items} <= KINDS
    ids = [item["id"] for item in items if item["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    assert all(item["attributes"]["label"] for item in items if item["type"] != "markdown")
    (asked,) = [item for item in items if item.get("id") == "environment"]
    assert "`show1-sample --version --devices`" in asked["attributes"]["description"]
    assert asked.get("validations", {}).get("required", False) == (path.name == "bug_report.yml")
