"""What stands in a new job directory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.core.job import FileOutput, MergedOutput, Output, SplitOutput, TerminalOutput
from agentd.system import jobdir
from tests.unit.agentd.server.places import ENDED, make_spec


@pytest.mark.parametrize(
    ("output", "marks"),
    [
        (MergedOutput(), {"out.end"}),
        (SplitOutput(), {"out.end", "err.end"}),
        (TerminalOutput(80, 24), {"out.end"}),
        (FileOutput("/tmp/out", None, append=False), set()),
    ],
)
def test_a_directory_holds_room_for_its_end_and_for_each_log_it_has(
    tmp_path: Path, output: Output, marks: set[str]
) -> None:
    """Nothing is allocated for a log that the job does not have."""
    directory = f"{tmp_path}/7"
    jobdir.create(directory, replace(make_spec(7), output=output))

    assert set(os.listdir(directory)) == {"spec.json", "pid", "exit.json.new", *marks}
    assert os.stat(f"{directory}/exit.json.new").st_blocks > 0
    assert jobdir.read_pid(directory) is None


def test_what_is_written_is_read_back_from_files_of_any_size(tmp_path: Path) -> None:
    """A spec larger than one read, and an exit record in its reserved room."""
    spec = replace(make_spec(7), environment={"BIG": "x" * 200_000})
    directory = f"{tmp_path}/7"
    jobdir.create(directory, spec)
    jobdir.write_exit(directory, ENDED)

    assert jobdir.read_spec(directory) == spec
    assert jobdir.read_exit(directory) == ENDED
    assert jobdir.read_stop(directory) is None
