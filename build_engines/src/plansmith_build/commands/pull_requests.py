"""Findings as a pull request shows them: SARIF 2.1.0, and the workflow commands of GitHub Actions."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from plansmith_client.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plansmith_build.repository.linting import Finding

__all__ = ["as_annotations", "as_sarif"]


def as_sarif(findings: Sequence[Finding], repository: Path) -> dict[str, Any]:
    """One SARIF document (https://docs.oasis-open.org/sarif/sarif/v2.1.0), its paths relative to the current folder."""
    rules = sorted({_rule(finding) for finding in findings})
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "plansmith verify",
                        "version": version("plansmith-build"),
                        "rules": [
                            {"id": rule, "shortDescription": {"text": f"plansmith verify: {rule}"}} for rule in rules
                        ],
                    }
                },
                "results": [
                    {
                        "ruleId": _rule(finding),
                        "level": str(finding.severity),
                        "message": {"text": visible(f"{finding.message}: {finding.fix}")},
                        "locations": [
                            {
                                "physicalLocation": {
                                    "artifactLocation": {
                                        "uri": quote(_place(finding, repository), errors="surrogateescape")
                                    },
                                    # Configurations are parsed as a whole, so there is no line to point at.
                                    "region": {"startLine": 1},
                                }
                            }
                        ],
                    }
                    for finding in findings
                ],
            }
        ],
    }


def as_annotations(findings: Sequence[Finding], repository: Path) -> Iterator[str]:
    """A workflow command a line: https://docs.github.com/actions/reference/workflow-commands-for-github-actions."""
    for finding in findings:
        place = _property(visible(_place(finding, repository)))
        title = _property(f"plansmith verify: {_rule(finding)}")
        text = _data(visible(f"{finding.message}: {finding.fix}"))
        yield f"::{finding.severity} file={place},line=1,title={title}::{text}"


def _rule(finding: Finding) -> str:
    return finding.rule or "repository"


def _place(finding: Finding, repository: Path) -> str:
    path = repository / finding.path
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.as_posix()


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
