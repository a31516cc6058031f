"""A pod of k8s/overlays/cpu, run by podman from an image that is built here.

The first time the image takes a minute of processor time; it is kept while nothing in it changes.
`scripts/pods` runs the pods of all overlays, exhausts, breaks and replaces them.
"""

import pytest

from support import podman
from support.environments import UNAVAILABLE
from support.pod_checks import (
    explains,
    has_a_limit_that_kills,
    has_no_rights,
    knows_its_memory,
    predicts,
    stops,
    writes_json,
)
from support.podman import Pod
from support.servers import ROOT

CHECKS = (
    has_no_rights,
    knows_its_memory,
    predicts,
    explains,
    has_a_limit_that_kills,
    stops,
    writes_json,
)


@pytest.fixture(scope="module")
def cpu():
    """The resources of the overlay, with its image in podman's storage."""
    reason = podman.why_not()
    if reason:
        pytest.skip(reason)
    try:
        podman.build_image()
    except AssertionError as error:
        if UNAVAILABLE.search(str(error)):
            pytest.skip(f"no network: {error}")
        raise
    return podman.kustomize(ROOT / "k8s" / "overlays" / "cpu")


@pytest.mark.timeout(600)
def test_the_pod_of_the_cpu_overlay_predicts_explains_and_stops_without_rights(cpu):
    (owner,) = podman.of_kind(cpu, "Deployment")
    with Pod(cpu, owner, 7) as pod:
        for check in CHECKS:
            check(pod)
