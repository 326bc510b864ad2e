"""Without a farm nothing of it is imported, and its libraries need not be there."""

import subprocess
import sys

PROGRAM = """
import sys
import dcd.serve, dcd.main
print([name for name in sys.modules if name.split(".")[0] in ("procrastinate", "psycopg", "psycopg_pool")
       or name.startswith("dcd.farm")])
"""


def test_the_daemon_of_a_single_machine_imports_nothing_of_a_farm() -> None:
    told = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True)
    assert told.stdout.decode().strip() == "[]"
