"""A watch on programs: their network calls beyond loopback, and the files in their home folder."""

import re
import shutil
from pathlib import Path

import pytest

from service import TELEMETRY_OFF
from support.servers import environment

PORT = re.compile(r"port=htons\((\d+)\)")
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
NAMES_PORT = "53"
KEPT = ("PATH", "LANG", "LC_", "TMPDIR", "LD_", "PYTHON", "BENTOML_", "CANDOR_")


class Watch:
    """Watches commands and their children by strace; skips the test where there is none.

    They run for a user who has turned no telemetry off, with a home folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        if not shutil.which("strace"):
            pytest.skip("strace is not installed: scripts/packages strace")
        self.home = folder / "user"
        self.home.mkdir(parents=True)
        self._folder = folder
        self._trace = folder / "strace.log"

    def command(self, *arguments: object) -> list[str]:
        """The command, watched; strace is no parent of it, so that signals reach it."""
        calls = "trace=connect,sendto,sendmsg,sendmmsg"
        options = ["-D", "-f", "-A", "-qq", "-e", calls, "-o", str(self._trace)]
        return ["strace", *options, *map(str, arguments)]

    def environment(self, **settings: object) -> dict[str, str]:
        """The environment of the commands, with `settings` of Candor's."""
        given = environment(self._folder / "bentoml", **settings)
        # Of all else dependencies may conclude that nobody is at home: in CI none reports.
        kept = {name: text for name, text in given.items() if name.startswith(KEPT)}
        kept = {name: kept[name] for name in kept.keys() - TELEMETRY_OFF.keys()}
        # matplotlib keeps a list of fonts, which reports nothing.
        own = {"HOME": str(self.home), "MPLCONFIGDIR": str(self._folder / "matplotlib")}
        return kept | own

    @property
    def calls(self) -> list[str]:
        """The calls of name servers, and of any address beyond loopback."""
        trace = self._trace.read_text(errors="replace") if self._trace.exists() else ""
        return [line for line in trace.splitlines() if _is_away(line)]

    @property
    def files(self) -> list[Path]:
        """The files in the home folder."""
        return [path for path in self.home.rglob("*") if path.is_file()]


def _is_away(line: str) -> bool:
    port, address = PORT.search(line), ADDRESS.search(line)
    if port is None or address is None:
        return False
    return port[1] == NAMES_PORT or not (address[1] or address[2]).startswith(("127.", "::1"))
