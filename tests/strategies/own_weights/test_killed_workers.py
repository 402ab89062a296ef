"""Processes that march together and are killed: the run ends at once, says who died, and resumes exactly."""

from pathlib import Path

import pytest

from tests.processes import needs_gloo
from tests.strategies.killed_runs import FAULTS, check_kills, check_one_kill, check_popen_kills

# the launcher's: what it terminates
pytestmark = [needs_gloo, pytest.mark.filterwarnings("ignore")]

NAMES = ["ElasticAveraging", "LocalSGD"]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "rank"), [("ElasticAveraging", 1), ("LocalSGD", 0)])
def test_a_killed_process_ends_the_run_which_resumes_exactly(
    strategy: str, rank: int, tmp_path: Path
) -> None:
    check_one_kill(strategy, rank, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", NAMES)
def test_kills_at_random_moments(strategy: str, tmp_path: Path) -> None:
    check_kills(strategy, FAULTS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", NAMES)
def test_kills_of_processes_that_a_command_has_started(strategy: str, tmp_path: Path) -> None:
    check_popen_kills(strategy, FAULTS, tmp_path)
