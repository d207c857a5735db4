"""A job on another host: what it gets there, and what stays here."""

from __future__ import annotations

import os

import pytest

from tests.helpers.sshrig import SshRig


@pytest.fixture(name="far")
def _far(rig: SshRig) -> SshRig:
    rig.know("gpu1")
    return rig


def _run(rig: SshRig, *words: str) -> str:
    done = rig.client.cli("-H", "gpu1", "run", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_job_begins_at_home_there_wherever_it_was_submitted(far: SshRig) -> None:
    """As `ssh gpu1 pwd` would say."""
    assert _run(far, "--", "pwd") == f"{far.server.home}\n"


def test_paths_that_are_not_absolute_begin_at_home_there(far: SshRig) -> None:
    """The working directory, and the files for stdin and stdout."""
    os.mkdir(f"{far.server.home}/project")
    with open(f"{far.server.home}/words", "w", encoding="ascii") as file:
        file.write("hello\n")

    assert _run(far, "--cwd", "project", "--", "pwd") == f"{far.server.home}/project\n"
    assert _run(far, "--cwd", "~/project", "--", "pwd") == f"{far.server.home}/project\n"
    _run(far, "--stdin", "words", "--output", "copy", "--", "cat")
    with open(f"{far.server.home}/copy", encoding="ascii") as file:
        assert file.read() == "hello\n"


def test_nothing_of_the_callers_environment_leaves_this_machine(far: SshRig) -> None:
    """Keys and tokens stay at home; what is wanted there is named."""
    far.client.env["LAPTOP_NOTE"] = "kept here"

    said = _run(far, "--env", "WANTED=yes", "--", "env").splitlines()

    assert "WANTED=yes" in said
    assert f"HOME={far.server.home}" in said
    assert not any(line.startswith(("LAPTOP_NOTE", "SSH_", "XDG_SESSION")) for line in said)
    specs = [f"{far.server.state_dir}/jobs/{job}/spec.json" for job in ("1",)]
    for path in specs:
        with open(path, encoding="utf-8") as file:
            assert "kept here" not in file.read()


def test_a_directory_that_is_only_here_is_refused_in_one_line(far: SshRig) -> None:
    """It says where it was looked for."""
    done = far.client.cli("-H", "gpu1", "submit", "--cwd", "/only/here", "--", "true")

    assert done.returncode == 2
    assert "/only/here" in done.stderr
    assert done.stderr.count("\n") == 1
