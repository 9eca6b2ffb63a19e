"""The files around the package: what they run is what the README and .ci/run say, as far as that can be seen here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHECKS = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
PREDICT, TEST = (line for line in README.splitlines() if line.startswith("python3 -m venv"))
YAML = sorted(
    [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "mkdocs.yml", ROOT / "CITATION.cff"]
)


class _Loader(yaml.SafeLoader):
    """YAML that may name Python objects, as settings of MkDocs do, which are not made; a key twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice"
        return dict(super().construct_mapping(node, deep=deep))


def read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a safe loader


def workflow(name: str) -> Any:
    return read(ROOT / ".github" / "workflows" / f"{name}.yml")


def commands(job: Any) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_yaml_parses(path: Path) -> None:
    assert isinstance(read(path), dict)


def test_workflows_run_the_checks_and_the_readmes_command() -> None:
    jobs = workflow("tests")["jobs"]
    assert commands(jobs["linux"]) == [".ci/run"]
    assert commands(jobs["macos"]) == [TEST]
    windows = TEST.replace("python3", "python").replace(".venv/bin/", ".venv\\Scripts\\")
    assert commands(jobs["windows"]) == [windows]
    for job in jobs.values():
        assert job["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert ".ci/run" in commands(workflow("release")["jobs"]["build"])


def test_workflows_ask_for_no_more_rights_than_they_need() -> None:
    for name in ("tests", "docs", "release"):
        found = workflow(name)
        assert found["permissions"] == {"contents": "read"}
        for job in found["jobs"].values():
            assert job["timeout-minutes"] <= 120
            assert set(job.get("permissions", {})) <= {"id-token", "pages"}
    publish = workflow("release")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}, "trusted publishing, with no token stored"
    assert commands(publish) == []


def test_hooks_before_a_commit_are_checks_of_ci_run() -> None:
    (local,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert re.search(rf"^\.venv/bin/{re.escape(hook['entry'])}( \.)?$", CHECKS, re.MULTILINE), hook


def dockerfile() -> list[tuple[str, str]]:
    """Every instruction and what it is given."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_dockerfile_takes_the_readmes_steps() -> None:
    steps = dockerfile()
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in steps} <= known
    assert [rest.rpartition(" AS ")[2] for word, rest in steps if word == "FROM"] == ["predict", "training", "serve"]
    runs = [rest for word, rest in steps if word == "RUN"]
    assert re.sub(r"\s+", " ", " && ".join(runs[:2])) == PREDICT
    training, serve = runs[2:]
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for step, named in ((training, {"train", "onnx", "detection"}), (serve, {"serve"})):
        assert step.startswith(".venv/bin/pip install -c constraints.txt ")
        extras = set(re.findall(r"\w+", step.partition(".[")[2]))
        assert extras == named <= set(re.findall(r"^(\w+) = \[", metadata, re.MULTILINE))
    assert steps[-1][0] == "CMD", "its last line is the server's command"
    assert json.loads(steps[-1][1])[0] == "serve"


def test_the_dockerfile_copies_what_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for word, rest in dockerfile():
        if word == "COPY":
            for name in rest.split()[:-1]:
                assert (ROOT / name).exists(), name
                assert name not in ignored


def test_the_citation_is_of_this_project() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"].startswith("fusiform")
    assert citation["license"] == "Apache-2.0"
    assert {"message", "authors"} <= set(citation)
    papers = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    for reference in citation["references"]:
        assert reference["url"].rpartition("/")[2] in papers
