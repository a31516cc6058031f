"""What computes on a CPU, decided once, before the workers start, by a process of its own.

Whatever happens in that process, ONNX Runtime serves. It measures (`service.runtime.comparison`) as
the workers will compute, and within the limits of a trial. The supervisor opens no graph itself.
"""

import json
import logging
import subprocess
import sys
from typing import Any

from service.bundle import folder
from service.errors import PrecisionError, SettingsError
from service.runtime import openvino, trial
from service.runtime.choice import Choice, parse
from service.settings import Settings

TRIALS = 4  # times the limits of one: several engines are opened, and measured
KNOWN_SECONDS = 300  # of a bundle that needs no trial

log = logging.getLogger("candor")


def decide(settings: Settings) -> Choice:
    """The choice for `settings`; the log says what was measured.

    Raises:
        SettingsError: OpenVINO is asked for and not installed.
        PrecisionError: CANDOR_PRECISION is not possible here.
    """
    if settings.wanted_device != "cpu":
        return plain(settings)
    if settings.wants_openvino and not openvino.installed():
        raise SettingsError(
            "CANDOR_ENGINE or CANDOR_PRECISION asks for OpenVINO, which is not installed: "
            "install candor[openvino], or unset them"
        )
    return _measured(settings) if settings.compares else plain(settings)


def plain(settings: Settings) -> Choice:
    """ONNX Runtime; its precision is float32 unless int8 is asked for."""
    return Choice(precision="int8" if settings.precision == "int8" else "float32")


def _measured(settings: Settings) -> Choice:
    """The choice of the other process; ONNX Runtime if that fails.

    Raises:
        PrecisionError: CANDOR_PRECISION is not possible here.
    """
    usual = plain(settings)
    document = _run(settings)
    for level, text in document.get("log", ()):
        log.log(level, "%s", text)
    if "impossible" in document:
        raise PrecisionError(document["impossible"])
    if "choice" not in document:
        log.warning("the comparison failed (%s): %s serves", document["fault"], usual.title)
        return usual
    choice = parse(document["choice"])
    log.info("%s serves", choice.title)
    return choice


def _run(settings: Settings) -> dict[str, Any]:
    """What the other process says: JSON in the last line of its output."""
    command, seconds = [sys.executable, "-m", "service.runtime.comparison"], KNOWN_SECONDS
    if not settings.knows_bundle:
        limits = [TRIALS * limit for limit in trial.limits(folder.load(settings.bundle))]
        command += map(str, limits)
        seconds = limits[0] * trial.WALL_FACTOR
    try:
        done = subprocess.run(  # noqa: S603 - the program is ours
            command, cwd=trial.ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return {"fault": f"not done after {seconds} s"}
    try:
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"fault": lines[-1]}
