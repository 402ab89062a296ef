"""Stages of a pipeline that are killed: the run ends at once, says who died, and resumes exactly."""

from pathlib import Path

import pytest

from tests.processes import needs_gloo
from tests.strategies.killed_runs import FAULTS, check_kills, check_one_kill, check_popen_kills

# the launcher's: what it terminates
pytestmark = [needs_gloo, pytest.mark.filterwarnings("ignore")]


@pytest.mark.slow
def test_a_killed_stage_ends_the_run_which_resumes_exactly(tmp_path: Path) -> None:
    check_one_kill("PipelineParallel", 1, tmp_path)


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    """Of both stages, in turn."""
    check_kills("PipelineParallel", FAULTS, tmp_path)


@pytest.mark.slow
def test_kills_of_processes_that_a_command_has_started(tmp_path: Path) -> None:
    check_popen_kills("PipelineParallel", FAULTS, tmp_path)
