"""The routes about all models in the OpenAPI document: the list, rollouts, load and unload."""

import inspect
from typing import Any

from service.api.openapi.problems import error
from service.api.problems import MEDIA_TYPE, Problem
from service.api.wire import repository
from service.api.wire.schemas import Schema, ref, schemas_of
from service.bundle.manifest import Manifest
from service.errors import Conflict

_JSON = "application/json"
TYPES = (
    repository.Models,
    repository.LoadedModel,
    repository.UnloadedModel,
    repository.AskedRollout,
    repository.BegunRollout,
    repository.Comparison,
    repository.EndedRollout,
)


def schemas() -> dict[str, Schema]:
    """The components of these routes."""
    return schemas_of(*TYPES)


def paths(manifest: Manifest) -> dict[str, Any]:
    """The paths, with their operations."""
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The name of a model.",
        "schema": {"type": "string", "examples": [manifest.name]},
    }
    version = {
        "name": "version",
        "in": "query",
        "description": "By default that of the present rollout.",
        "schema": {"type": "string", "examples": [manifest.version]},
    }
    begun = _operation(repository.BegunRollout, name)
    begun["requestBody"] = {
        "required": True,
        "content": {_JSON: {"schema": ref(repository.AskedRollout)}},
    }
    triton = "/v2/repository/models/{name}"
    return {
        "/models": {"get": _operation(repository.Models)},
        "/models/{name}/comparison": {"get": _operation(repository.Comparison, name, version)},
        "/models/{name}/rollout": {"post": begun},
        "/models/{name}/promote": {"post": _operation(repository.EndedRollout, name)},
        "/models/{name}/rollback": {"post": _operation(repository.EndedRollout, name)},
        f"{triton}/load": {"post": _operation(repository.LoadedModel, name, triton=True)},
        f"{triton}/unload": {"post": _operation(repository.UnloadedModel, name, triton=True)},
    }


def _operation(answer: type, *places: Schema, triton: bool = False) -> dict[str, Any]:
    summary = str(inspect.getdoc(answer)).partition(".")[0]
    found = {"description": summary, "content": {_JSON: {"schema": ref(answer)}}}
    # All errors of the tree may meet a request on its way; few of them do.
    titles = {str(Conflict.status): Conflict.title, "default": "Another error"}
    described = {
        status: error(title) if triton else _problem(title) for status, title in titles.items()
    }
    return {
        "summary": summary,
        "parameters": list(places),
        "responses": {"200": found, **(described if places else {})},
    }


def _problem(title: str) -> dict[str, Any]:
    return {"description": title, "content": {MEDIA_TYPE: {"schema": ref(Problem)}}}
