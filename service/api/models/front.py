"""The routes of all models: each request is answered by one version, from its head to its end.

The short paths, such as /predict, are the default model's. Each of them is served below
/models/NAME and /models/NAME/versions/VERSION, too; the paths of KServe's protocols have the name
of the model in them.
"""

import time
from collections.abc import Iterator

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from service.api.access.guard import METRICS, GuardedRoute
from service.api.bento import CALLS, PICKLE
from service.api.body import release
from service.api.models.endpoints import Answers, Endpoint
from service.errors import RequestError
from service.repository.loaded import Loaded
from service.repository.rollout import Rollouts
from service.repository.shelf import Shelf

MODEL = "/models/{name}"
BELOW = (MODEL, f"{MODEL}/versions/{{version}}")
PROTOCOLS = ("/v1", "/v2")
OK, DEFECT = 200, 500


class Front:
    """Leads each request to the version that answers it."""

    def __init__(self, shelf: Shelf[Answers], rollouts: Rollouts[Answers]) -> None:
        self._shelf = shelf
        self._rollouts = rollouts

    def routes(self) -> Iterator[GuardedRoute]:
        """The routes to all models, from the templates of the default one."""
        for route in self._shelf.default.answers.routes:
            methods = sorted(route.methods or ())
            endpoint = self._endpoint(route.path, counted=route.methods == {"POST"})
            given = None if "GET" in methods else methods
            yield GuardedRoute(route.path, route.needs, endpoint, given)
            if route.path.startswith(PROTOCOLS) or route.needs == METRICS:
                continue
            for model in BELOW:
                yield GuardedRoute(model + route.path, route.needs, endpoint, given)

    def _endpoint(self, template: str, *, counted: bool) -> Endpoint:
        """The endpoint of all versions at a template."""

        async def answer(request: Request) -> ASGIApp:
            loaded = await self._loaded(request)
            with loaded.used() as answers:
                if not counted:
                    return await answers.endpoints[template](request)
                return await _counted(answers, template, request)

        return answer

    async def _loaded(self, request: Request) -> Loaded[Answers]:
        given = request.path_params
        if "name" not in given:
            return self._rollouts.chosen(self._shelf.default)
        loaded = await self._shelf.take(given["name"], given.get("version"))
        if "version" not in given:
            return self._rollouts.chosen(loaded)
        given["version"] = loaded.version.short
        return loaded


def takes_images(route: Route) -> bool:
    """True of the default model's routes, without parameters, that images are sent to."""
    return route.path in ("/predict", "/explain")


async def _counted(answers: Answers, template: str, request: Request) -> ASGIApp:
    """The answer to a POST with images, once there is a place for them, counted."""
    started, status = time.perf_counter(), DEFECT
    try:
        answers.pipeline.admit()
        calls: ASGIApp | None = request.scope["state"].get(CALLS)
        if calls is not None and request.headers.get("content-type") == PICKLE:
            status = OK
            return calls  # BentoML's application in the place of a response
        try:
            response = await answers.endpoints[template](request)
        finally:
            release(request)
    except RequestError as error:
        status = error.status
        raise
    else:
        status = getattr(response, "status_code", OK)
        return response
    finally:
        seconds = time.perf_counter() - started
        answers.pipeline.model_metrics.count(status, seconds)
