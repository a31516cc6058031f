"""Requests that schemathesis makes of /openapi.json, to a server of the embedded bundle.

    python -m support.schema_cases 2000

Every answer has a documented status, type and schema, no request fails the server, and what the
schema allows is answered; tests/clients/schemathesis_hooks.py has what no schema can say. One check
is off: `negative_data_rejection`, for requests are read as clients write them, more freely than
the schema says ("3" for 3, unknown names with a warning). A passed deadline (503, 504) is an
answer, too: cases have short ones, so that thousands of them end.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from support.environments import python_of
from support.servers import ROOT, Server

HOOKS = ROOT / "tests" / "clients"
SEED = 24
ASKED = 16  # operations with a body or a place in the path; the others have a case or two
OPTIONS = (
    *("--exclude-checks", "negative_data_rejection", "--suppress-health-check", "all"),
    *("--generation-deterministic", "--no-color", "--request-timeout", "60"),
)


def ask(url: str, examples: int, *options: str) -> tuple[int, str]:
    """The number of cases that were sent to the server at `url`, and a report of what was found.

    `examples` are those of an operation; the report is empty if nothing was found.
    """
    program = python_of("schemathesis").with_name("schemathesis")
    hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HOOKS)}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [program, "run", f"{url}/openapi.json", "-n", str(examples), *OPTIONS, *options],
            cwd=folder,
            env=os.environ | hooks | {"CANDOR_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
    counted = re.search(r"(\d+) generated", done.stdout)
    return int(counted[1]) if counted else 0, done.stdout + done.stderr if done.returncode else ""


def main() -> None:
    """Sends as many cases as the command line asks for; fails with the report of what was found."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("cases", type=int, help="the least number of cases")
    wanted = parser.parse_args().cases
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), workers=1) as server:
        sent, found = ask(server.url, -(-wanted // ASKED), "--phases", "examples,fuzzing")
    print(f"{sent:,} cases", found or "and nothing was found")
    sys.exit(1 if found or sent < wanted else 0)


if __name__ == "__main__":
    main()
