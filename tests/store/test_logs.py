"""Where the logs of attempts are."""

from pathlib import Path

import pytest

from statemachine.errors import NotFound
from store.logs import AttemptLogs


def test_no_name_of_a_checkpoint_leads_out_of_the_logs(tmp_path: Path) -> None:
    """Events of another member of a farm may have any."""
    logs = AttemptLogs(tmp_path)
    assert logs.path("b", "c..0", 1) == tmp_path / "b/c..0.1.log"
    for name in ("../../etc/x", "/etc/x", "x\0"):
        with pytest.raises(NotFound, match="there is no checkpoint"):
            logs.evidence("b", name, 1)
