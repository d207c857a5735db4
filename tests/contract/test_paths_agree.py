"""Agent and client find each other: neither imports the other, both keep one rule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

import agentctl.paths
import agentd.paths

_NAMES = (
    "HOME",
    "XDG_STATE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "AGENTD_STATE_DIR",
    "AGENTD_RUNTIME_DIR",
    "AGENTCTL_CONFIG",
)
_PLACES = st.sampled_from(["", "/", "/home/ada", "/run/user/1000", "relative/place", "/näme ü"])


@given(st.dictionaries(st.sampled_from(_NAMES), _PLACES))
def test_both_sides_read_the_same_places_from_one_environment(environ: dict[str, str]) -> None:
    """Whatever of the seven variables is set or empty, both sides name the same places."""
    ours = agentd.paths.default_paths(environ)
    theirs = agentctl.paths.default_paths(environ)

    assert (ours.state_dir, ours.runtime_dir) == (theirs.state_dir, theirs.runtime_dir)
    assert (ours.config_file, ours.socket) == (theirs.config_file, theirs.socket)
