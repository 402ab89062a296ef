"""Files for people and machines around the package agree with it: versions, workflows, notices, hooks."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import lightning_optreg
from tests.test_dependencies import PROJECT, normal
from tests.test_private_names import USES

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read(workflow)["jobs"].values() for step in job.get("steps", [])]


def commands() -> str:
    return "\n".join(step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step)


def requirements() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for, by extra; "" for what is always installed."""
    lists = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    return {extra: [Requirement(each) for each in texts] for extra, texts in lists.items()}


def test_changelog_and_citation_have_this_version_and_its_date() -> None:
    version, date = re.findall(r"^## (\d\S*) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    citation = read(ROOT / "CITATION.cff")
    assert version == citation["version"] == lightning_optreg.__version__
    assert date == str(citation["date-released"])


def test_the_changelog_lists_versions_from_the_newest_on_with_usual_headings() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = [Version(each) for each in re.findall(r"^## (\d\S*) - \d{4}-\d\d-\d\d$", text, re.M)]
    assert versions == sorted(set(versions), reverse=True)
    assert len(re.findall("^## ", text, re.M)) == len(versions) + 1  # one for what is unreleased
    headings = set(re.findall(r"^### (.*)$", text, re.M))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert all(citation[key] for key in ("message", "title", "authors"))
    assert citation["license"] == PROJECT["license"]
    assert citation["keywords"] == PROJECT["keywords"]


def test_workflows_test_the_pythons_of_the_classifiers() -> None:
    start = "Programming Language :: Python :: "
    named = [each.removeprefix(start) for each in PROJECT["classifiers"] if each.startswith(start)]
    jobs = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]
    assert jobs["newest"]["strategy"]["matrix"]["python"] == named
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert lowest == named[0]
    used = [step["with"]["python-version"] for step in steps(ROOT / ".github" / "workflows" / "tests.yml")
            if "python-version" in step.get("with", {})]  # fmt: skip
    assert lowest in used
    for path in WORKFLOWS:
        versions = [
            step["with"]["python-version"] for step in steps(path) if "setup-python" in step.get("uses", "")
        ]
        assert {each for each in versions if "matrix" not in each} <= set(named), path.name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_complete(path: Path) -> None:
    workflow = read(path)
    assert workflow["name"] == path.stem
    assert workflow[True], "YAML reads `on` as true"
    assert workflow["permissions"] == {"contents": "read"}  # a job that needs more says so
    for name, job in workflow["jobs"].items():
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()
            continue
        assert job["timeout-minutes"] > 0, name
        assert {job[key] for key in ("needs",) if key in job} <= set(workflow["jobs"])
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"])


def test_what_workflows_call_is_there() -> None:
    called = re.findall(r"\bscripts/[\w./]+", commands())
    assert len(called) >= 4
    for path in called:
        assert (ROOT / path).is_file()
        assert path.endswith(".py") or os.access(ROOT / path, os.X_OK)
    extras = re.findall(r"'\.\[(\w+)\]'", commands())
    assert extras
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_shell_commands_of_workflows_can_be_parsed(tmp_path: Path) -> None:
    script = tmp_path / "commands"
    script.write_text(re.sub(r"\$\{\{.*?\}\}", "value", commands()))
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    scripts = [ROOT / "scripts" / "check_wheel"]
    assert [subprocess.run(["bash", "-n", each]).returncode for each in scripts] == [0]


def test_what_is_private_or_read_as_text_has_an_upper_bound_and_a_job_without_it() -> None:
    bounded = {
        normal(each.name)
        for extra in requirements().values()
        for each in extra
        if any(bound.operator == "<" for bound in each.specifier)
    }
    owners = {use.of.split()[0].lower() for use in USES} - {"python"}
    assert owners >= {"torch", "lightning", "torchmetrics", "jsonargparse"}
    assert owners <= bounded
    job = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["next"]
    # torch's next version comes with its minor versions, which the bound allows
    assert set(job["strategy"]["matrix"]["package"]) == owners - {"torch"} | {"optuna"}


def test_every_bound_allows_the_version_that_is_installed() -> None:
    from importlib.metadata import PackageNotFoundError, version

    for extra, wanted in requirements().items():
        for each in wanted:
            try:
                found = version(each.name)
            except PackageNotFoundError:
                continue  # of an extra
            if each.name != "lightning-optreg":
                assert each.specifier.contains(found, prereleases=True), f"{extra}: {each}, found {found}"


def test_the_notices_name_every_library_under_its_extra() -> None:
    text = (ROOT / "THIRD_PARTY_NOTICES.md").read_text()
    always, _, extras = text.partition("And those of each extra")
    listed = {
        normal(name) for name in re.findall(r"^\| ([\w-]+) \|", always.partition("## Libraries")[2], re.M)
    }
    assert listed == {normal(each.name) for each in requirements()[""]} | {"library"}
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", extras, re.M))
    assert list(rows) == [extra for extra in requirements() if extra not in ("", "dev")]
    for extra, row in rows.items():
        names = {normal(name) for name in re.findall(r"([\w-]+) \([^)]*\)", row)}
        assert names == {normal(each.name) for each in requirements()[extra]} - {"lightning-optreg"}, extra


def test_extras_are_all_in_dev() -> None:
    own = next(each for each in requirements()["dev"] if each.name == "lightning-optreg")
    assert own.extras == set(PROJECT["optional-dependencies"]) - {"dev"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_something(path: Path) -> None:
    form = read(path)
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids)) >= 3
    types = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert {field["type"] for field in form["body"]} <= types
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_hooks_call_what_is_there() -> None:
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    tools = {each.name for each in requirements()["dev"]}
    for hook in repository["hooks"]:
        program, *words = hook["entry"].split()
        assert Path(program).parent == Path(".venv/bin")
        assert Path(program).name in tools | {"python"}
        assert all((ROOT / word).is_file() for word in words if word.startswith("scripts/"))


@pytest.mark.parametrize("name", ["SECURITY.md", "THIRD_PARTY_NOTICES.md", "CHANGELOG.md"])
def test_links_lead_to_files(name: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)", (ROOT / name).read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def check_yaml() -> Any:
    spec = importlib.util.spec_from_file_location("check_yaml", ROOT / "scripts" / "check_yaml.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\nb: {c: 2}\n", []),
        ("a: !!python/name:pymdownx.x.y\n---\na: 2\n", []),
        ("a:\n  b: 1\n  b: 2\n", [":3: the key 'b' occurs twice"]),
        ("- {a: 1}\n- {a: 1, a: 2}\n", [":2: the key 'a' occurs twice"]),
        ("a: [1\n", [": while parsing a flow sequence"]),
    ],
)
def test_yaml_is_checked(text: str, found: list[str], tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    lines = list(check_yaml().problems([str(path)]))
    assert len(lines) == len(found)
    assert all(line.startswith(f"{path}{start}") for line, start in zip(lines, found, strict=True))
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "check_yaml.py", path], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.splitlines()) == (int(bool(found)), lines)


def test_the_tag_that_is_published_is_compared_with_the_version() -> None:
    line = f'__version__ = "{lightning_optreg.__version__}"'
    assert line in (ROOT / "lightning_optreg" / "__init__.py").read_text().splitlines()
    assert '__version__ = \\"${GITHUB_REF_NAME#v}\\"' in commands()
