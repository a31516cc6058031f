"""The opening of a version of a model: verified, warmed, tested, with all that answers for it."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from service.api.models.endpoints import Answers, answers_of
from service.bundle.folder import load
from service.bundle.manifest import Manifest
from service.errors import BundleError, CandorError, DigestError
from service.repository.catalogue import Version
from service.runtime import choice, trial
from service.runtime.choice import Choice
from service.runtime.engine import Engine
from service.runtime.health import Health
from service.runtime.sessions import Timings
from service.schedule.pipeline import Pipeline
from service.schedule.resources import Resources
from service.settings import EMBEDDED, Settings
from service.telemetry.metrics import Metrics

REMEMBERED = 256  # versions

log = logging.getLogger("candor")


class Opener:
    """Opens versions on the `resources` of this worker; `default` is the model of the short paths.

    `proven`: a folder of the workers, where they note what has passed its trial.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        resources: Resources,
        default: str,
        proven: Path | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._resources = resources
        self._default = default
        self._proven = proven
        self._known: set[str] = set()  # digests, of a lone worker
        # Of a digest and what computes it: a version that comes back is not measured again.
        self._timings: Callable[..., Timings] = lru_cache(REMEMBERED)(lambda *_key: {})
        # The device is the same for all: what fails on it makes the worker unready.
        self.health = Health(metrics.device_failures)
        self._choice = choice.received(settings.fixed_precision)

    def __call__(self, version: Version) -> Answers:
        """What answers for `version`; this takes seconds.

        Raises:
            CandorError: it cannot be served.
        """
        settings, is_default = self._settings, version.model == self._default
        bundle = load(version.folder, settings.bundle_digest if is_default else None)
        if bundle.manifest.digest != version.digest:
            raise DigestError(f"{version.folder} has changed while it was loaded: retry")
        bundle = replace(bundle, manifest=bundle.manifest.served_as(version.model))
        try:
            chosen = self._choice_for(bundle.manifest, is_default=is_default)
            engine = Engine(
                bundle,
                settings.device,
                settings.threads,
                alone=settings.worker_count == 1,
                health=self.health,
                choice=chosen,
                timings=self._timings(version.digest, chosen.title),
            )
            pipeline = Pipeline(engine, settings, self._metrics, self._resources)
            prefix = "" if is_default else f"/models/{version.model}"
            return answers_of(pipeline, bundle, settings, prefix)
        except CandorError:
            raise
        except Exception as error:
            # ONNX Runtime has no common class of its errors.
            log.debug("the version %s of %s", version.short, version.model, exc_info=error)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BundleError(f"{version.folder} cannot be opened: {reason}") from error

    def _choice_for(self, manifest: Manifest, *, is_default: bool) -> Choice:
        """What computes a version. The measurement at the start was of the default model: of what
        it found, other models take int8 where their own figures allow it.
        """
        if not is_default:
            return self._choice.without_openvino().of_bundle(manifest)
        if self._settings.precision == "int8":
            return self._choice
        return self._choice.of_bundle(manifest)

    def prove(self, version: Version) -> None:
        """Tries a version in a process of its own, unless it is known to be good.

        Raises:
            BundleError: it cannot be loaded, opened or run within limits.
        """
        note = None if self._proven is None else self._proven / f"proven-{version.digest}"
        embedded = {folder.resolve() for folder in EMBEDDED.values()}
        if version.folder in embedded or version.digest in self._known:
            return
        if note is not None and note.exists():
            return
        manifest = load(version.folder).manifest  # a missing or damaged file is found at once
        served = self._choice_for(manifest, is_default=version.model == self._default)
        trial.check(version.folder, served.precision)
        self._known.add(version.digest)
        if note is not None:
            note.touch()
