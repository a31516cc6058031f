"""The routes about all models: which there are, and how one is loaded and unloaded.

Sources: Triton's extension "model repository",
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md;
GET /v1/models of KServe's V1.
"""

import asyncio
from typing import Any, Literal

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import guard
from service.api.access.guard import GuardedRoute
from service.api.kserve import views
from service.api.models.endpoints import Answers, shared
from service.api.wire.repository import ModelEntry, Models
from service.errors import RequestError
from service.repository.catalogue import Version
from service.repository.reload import Reload
from service.repository.shelf import Shelf

State = Literal["READY", "AVAILABLE", "UNAVAILABLE"]
READY: State = "READY"
UNAVAILABLE: State = "UNAVAILABLE"
JSON = "application/json"


class Repository:
    """The endpoints about all models."""

    def __init__(self, shelf: Shelf[Answers], reload: Reload[Answers]) -> None:
        self._shelf = shelf
        self.reload = reload

    def routes(self) -> list[GuardedRoute]:
        """The routes of these endpoints; they stand before those with a model's name."""
        model = "/v2/repository/models/{name}"
        return [
            shared("/models", self.models),
            shared("/v1/models", self.names),
            shared("/v2/models/stats", self.statistics),
            shared("/v2/repository/index", self.index, ["POST"]),
            shared(f"{model}/load", self.load, ["POST"]),
            shared(f"{model}/unload", self.unload, ["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        """GET /models; the reasons are for administrators, because they name folders."""
        found = [await asyncio.to_thread(self._described, name) for name in self._names]
        if not guard.allows(request, guard.ADMIN):
            found = [{**entry, "reason": ""} for entry in found]
        listed: Models = {"default": self._shelf.catalogue.default, "models": found}
        return _json(listed)

    async def names(self, _request: Request) -> Response:
        """GET /v1/models."""
        return _json({"models": list(self._names)})

    async def statistics(self, _request: Request) -> Response:
        """GET /v2/models/stats: of the models in memory."""
        stats = [await each.answers.inference.counted() for each in list(self._shelf)]
        return _json({"model_stats": stats})

    async def index(self, _request: Request) -> Response:
        """POST /v2/repository/index."""
        return _json(await self.entries())

    async def entries(self) -> list[dict[str, str]]:
        """The entries of the index: each model under each of its names."""
        found = []
        for name in self._names:
            model = await asyncio.to_thread(self._described, name)
            found += [
                {
                    "name": called,
                    "version": model["version"],
                    "state": READY if model["state"] != UNAVAILABLE else UNAVAILABLE,
                    "reason": model["reason"],
                }
                for called in views.names_of(name)
            ]
        return found

    async def load(self, request: Request) -> Response:
        """POST /v2/repository/models/NAME/load: the version that its folder says is current."""
        version = await self.reload.load(request.path_params["name"])
        return _json({"name": request.path_params["name"], "version": version})

    async def unload(self, request: Request) -> Response:
        """POST /v2/repository/models/NAME/unload."""
        await self.reload.unload(request.path_params["name"])
        return _json({"name": request.path_params["name"]})

    @property
    def _names(self) -> tuple[str, ...]:
        return self._shelf.catalogue.names

    def _described(self, name: str) -> ModelEntry:
        """A model: the version that answers, its state, and all versions in its folder."""
        versions = [version.short for version in self._shelf.catalogue.versions(name)]
        entry: ModelEntry = {
            "name": name,
            "version": "",
            "state": UNAVAILABLE,
            "reason": "",
            "versions": versions,
        }
        try:
            served = self._shelf.served(name)
            entry["version"], entry["state"] = served.short, self._state(name, served)
            entry["reason"] = self._shelf.fault(name, served.short)
        except RequestError as error:
            # Its cause is the fault of a folder.
            entry["reason"] = str(error.__cause__ or error)
        if entry["reason"]:
            entry["state"] = UNAVAILABLE
        return entry

    def _state(self, name: str, served: Version) -> State:
        """READY in memory, or AVAILABLE: loaded by the first request."""
        return READY if self._shelf.loaded(name, served) else "AVAILABLE"


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)
