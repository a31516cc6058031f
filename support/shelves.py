"""The API over a pipeline that exists: a shelf with one model."""

from service.api.app import Api, build
from service.api.models.endpoints import Answers, answers_of
from service.bundle.folder import Bundle
from service.repository.agreement import Agreement
from service.repository.catalogue import Catalogue
from service.repository.reload import Reload
from service.repository.rollout import Rollouts
from service.repository.shelf import Shelf
from service.schedule.pipeline import Pipeline
from service.settings import Settings
from service.workers.drain import Drain


def api_of(pipeline: Pipeline, bundle: Bundle, settings: Settings, drain: Drain) -> Api:
    """The API that serves `bundle` through `pipeline`."""
    name = bundle.manifest.name
    metrics = pipeline.metrics
    shelf: Shelf[Answers] = Shelf(
        Catalogue(name, {name: bundle.folder}),
        Agreement(),
        lambda _version: answers_of(pipeline, bundle, settings),
        lambda _version: None,
        0,
        metrics.loads,
    )
    shelf.start()
    reload = Reload(shelf, metrics.processes)
    rollouts = Rollouts(shelf, metrics.comparisons, metrics.text)
    return build(shelf, reload, rollouts, metrics, settings, drain)
