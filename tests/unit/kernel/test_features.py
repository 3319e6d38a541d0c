"""The probes of `livecr doctor`: they answer whatever the rights, and leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from livecr.kernel import features


def open_descriptors() -> list[str]:
    """The numbers of this process."""
    return sorted(os.listdir("/proc/self/fd"))


def test_every_probe_answers_and_leaves_nothing_behind() -> None:
    """Also without root: no descriptor, no child, no mapping with a name, no other time namespace to come."""
    before = open_descriptors(), os.readlink("/proc/self/ns/time_for_children")
    found = features.examine()
    assert (open_descriptors(), os.readlink("/proc/self/ns/time_for_children")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert "[anon:livecr" not in Path("/proc/self/maps").read_text()
    assert [finding.feature for finding in found] == list(features.FEATURES)
    assert all(finding.detail for finding in found)


def test_names_are_unique_and_consequences_told() -> None:
    """A row can be found by its name, and says what is lost without it."""
    names = [feature.name for feature in features.FEATURES]
    assert len(set(names)) == len(names)
    assert all(feature.without for feature in features.FEATURES)


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (features.Missing("because"), "because"),
        (PermissionError(1, "Operation not permitted"), "Operation not permitted"),
        (FileNotFoundError(2, "No such file or directory", "/proc/x"), "No such file or directory (/proc/x)"),
    ],
)
def test_a_failing_probe_is_a_finding(error: Exception, detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thing that is missing does not keep the others from being tried."""

    def fails() -> str:
        raise error

    rows = (
        features.Feature("one", True, "lost", fails),
        features.Feature("two", False, "lost", lambda: "there"),
    )
    monkeypatch.setattr(features, "FEATURES", rows)
    first, second = features.examine()
    assert (first.available, first.detail) == (False, detail)
    assert (second.available, second.detail) == (True, "there")


def test_what_fails_in_a_child_fails_here() -> None:
    """With the same errno, and a child that is gone."""

    def fails() -> None:
        raise PermissionError(1, "no")

    with pytest.raises(PermissionError):
        features._in_child(fails)
    features._in_child(lambda: None)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
