"""The routes of a rollout: begin it, see its comparison, promote the new version or go back."""

import asyncio
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api import body as request_body
from service.api.access.guard import GuardedRoute
from service.api.body import Limits
from service.api.models.endpoints import Answers, shared
from service.api.models.front import MODEL
from service.api.parameters import ignored
from service.errors import Conflict, InvalidParameter, MalformedRequest
from service.repository.agreement import Rollout
from service.repository.reload import Reload
from service.repository.rollout import FIELDS, Rollouts, rollout_of
from service.repository.shelf import Shelf

JSON = "application/json"


class RolloutRoutes:
    """The endpoints of the rollouts of all models."""

    def __init__(
        self,
        shelf: Shelf[Answers],
        reload: Reload[Answers],
        rollouts: Rollouts[Answers],
        limits: Limits,
    ) -> None:
        self._shelf = shelf
        self._reload = reload
        self._rollouts = rollouts
        self._limits = limits

    def routes(self) -> list[GuardedRoute]:
        """The routes of these endpoints."""
        return [
            shared(f"{MODEL}/comparison", self.comparison),
            shared(f"{MODEL}/rollout", self.begin, ["POST"]),
            shared(f"{MODEL}/promote", self.promote, ["POST"]),
            shared(f"{MODEL}/rollback", self.roll_back, ["POST"]),
        ]

    async def begin(self, request: Request) -> Response:
        """POST /models/NAME/rollout: begins one, in the place of another."""
        model = self._shelf.model_of(request.path_params["name"])
        body = await request_body.body_of(request, self._limits)
        try:
            given = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise MalformedRequest(f"the body is no JSON ({error}): send an object") from None
        if not isinstance(given, dict):
            raise InvalidParameter("the body is no JSON object: send one with a version")
        rollout = await asyncio.to_thread(rollout_of, given, self._shelf, model)
        await asyncio.to_thread(self._reload.check, model, rollout.version)
        self._shelf.agreement.roll_out(model, rollout)
        unknown = [name for name in given if name not in FIELDS]
        warnings = {"warnings": list(ignored(unknown, FIELDS))} if unknown else {}
        return _json({"model": model, "rollout": _described(rollout), **warnings})

    async def comparison(self, request: Request) -> Response:
        """GET /models/NAME/comparison: of the present rollout, or of the `version` in the query."""
        model = self._shelf.model_of(request.path_params["name"])
        state = self._shelf.agreement.state
        rollout = state.rollouts.get(model)
        asked = request.query_params.get("version")
        if rollout is None and asked is None:
            raise Conflict(
                f"{model} has no rollout now: POST /models/{model}/rollout begins one, and "
                "?version= names an earlier one"
            )
        version = asked or (rollout.version.short if rollout else "")
        report = await self._rollouts.report(model, version)
        going_on = rollout is not None and rollout.version.short == version
        return _json(
            {
                "model": model,
                "served": self._shelf.served(model).short,
                "version": version,
                "rollout": _described(rollout) if rollout and going_on else None,
                "ended": None if going_on else state.reasons.get(model),
                **report.document(),
            }
        )

    async def promote(self, request: Request) -> Response:
        """POST /models/NAME/promote: the new version of the rollout is served from now on."""
        model = self._shelf.model_of(request.path_params["name"])
        rollout = self._of(model)
        warning = await self._reload.promote(model, rollout.version)
        self._rollouts.end(model, "")
        warnings = {"warnings": [warning]} if warning else {}
        return _json({"model": model, "version": rollout.version.short, **warnings})

    async def roll_back(self, request: Request) -> Response:
        """POST /models/NAME/rollback: the served version goes on alone."""
        model = self._shelf.model_of(request.path_params["name"])
        self._of(model)
        self._rollouts.end(model, "")
        return _json({"model": model, "version": self._shelf.served(model).short})

    def _of(self, model: str) -> Rollout:
        rollout = self._shelf.agreement.state.rollouts.get(model)
        if rollout is None:
            raise Conflict(f"{model} has no rollout: POST /models/{model}/rollout begins one")
        return rollout


def _described(rollout: Rollout) -> dict[str, Any]:
    return {
        "version": rollout.version.short,
        "mode": rollout.mode,
        "share": rollout.share,
        "least_labels": rollout.least_labels,
        "least_maps": rollout.least_maps,
        "least_images": rollout.least_images,
    }


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)
