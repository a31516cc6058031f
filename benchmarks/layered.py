"""Candor behind BentoML's own layers, for `scripts/bench operations layers`.

The two services mount Candor's application in BentoML's, and leave connections to uvicorn's class.
"""

from collections.abc import Mapping
from typing import Any

import bentoml
from starlette.types import Receive, Scope, Send

from service.app import SETTINGS, Candor

NO_EXTRAS: Mapping[str, Any] = {
    "logging": {"access": {"enabled": False}},
    "tracing": {"excluded_urls": ".*"},
    "metrics": {"enabled": False},
}


async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
    """Candor's application."""
    scope["path"] = scope["path"].removeprefix(scope["root_path"])  # Starlette keeps the whole path
    await bentoml.get_current_service().app(scope, receive, send)


class Plain(Candor.inner):  # type: ignore[name-defined, misc]
    """The service, which BentoML starts without the class that stands before it."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Accepts every option of BentoML: here they have an effect."""


AsItComes = bentoml.service(name="candor", workers=SETTINGS.worker_count)(Plain)
Lean = bentoml.service(name="candor", workers=SETTINGS.worker_count, **NO_EXTRAS)(Plain)
for layers in (AsItComes, Lean):
    layers.mount_asgi_app(mounted, path="/behind")
