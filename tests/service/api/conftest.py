"""Fixtures of the tests of the API."""

import pytest

from service.settings import Settings
from support.servers import ROOT


@pytest.fixture(scope="module")
def needs(embedded, engine):
    """The scopes that each path of the application needs, from its own routes."""
    from service.schedule.pipeline import Pipeline
    from service.telemetry.metrics import Metrics
    from service.workers.connections import Connections
    from service.workers.drain import Drain
    from support.shelves import api_of

    settings = Settings(reference=ROOT)
    metrics = Metrics()
    drain = Drain(1.0, metrics.requests_in_flight, metrics.ready, Connections())
    return api_of(Pipeline(engine, settings, metrics), embedded, settings, drain).guard.needs
