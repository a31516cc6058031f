"""Answers to calls of the BentoML APIs: the documents of POST /predict and /explain."""

from collections.abc import Callable, Mapping
from typing import Any

from service.api import parameters
from service.api.bento.files import file_bytes
from service.api.native import Native
from service.api.parameters import Options
from service.api.payload import Payload, check_counts
from service.bundle.manifest import Manifest
from service.errors import MalformedRequest
from service.explain import Defaults
from service.schedule.timing import Timing
from service.telemetry.metrics import Metrics

Choose = Callable[[Manifest, Mapping[str, Any], bytes | None, Defaults], Options]


class Calls:
    """The two APIs over the endpoints of `native`."""

    def __init__(
        self, native: Native, manifest: Manifest, metrics: Metrics, defaults: Defaults
    ) -> None:
        self._native = native
        self._manifest = manifest
        self._defaults = defaults
        self._metrics = metrics

    async def predict(self, image: Any, mask: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """The document of POST /predict for an image or a list of them, with the parameters
        `given`.

        Raises:
            RequestError: the call cannot be answered.
        """
        return await self._answer(parameters.of_predict, image, mask, given)

    async def explain(self, image: Any, mask: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """The same of POST /explain.

        Raises:
            RequestError: the call cannot be answered.
        """
        return await self._answer(parameters.of_explain, image, mask, given)

    async def _answer(
        self, choose: Choose, image: Any, mask: Any, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        timing = Timing(self._metrics)
        payload = check_counts(_payload(image, mask))
        options = choose(self._manifest, given, payload.mask, self._defaults)
        timing.allow(options.deadline_ms)
        return dict(await self._native.answer(payload, options, timing))


def _payload(image: Any, mask: Any) -> Payload:
    is_list = isinstance(image, list)
    try:
        files = tuple(file_bytes(one) for one in (image if is_list else [image]))
        return Payload(files, is_list=is_list, mask=None if mask is None else file_bytes(mask))
    except ValueError as error:
        raise MalformedRequest(str(error)) from error
