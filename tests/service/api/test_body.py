"""A body that stops arriving fails after a limit."""

import asyncio

import pytest
from starlette.requests import Request

from service.api import body
from service.api.body import Limits
from service.errors import SlowRequest
from service.image.budget import Budget


def test_a_body_that_stops_half_way_times_out(monkeypatch):
    monkeypatch.setattr(body, "READ_SECONDS", 0.05)
    parts = iter([{"type": "http.request", "body": b"half", "more_body": True}])

    async def receive():
        for part in parts:
            return part
        return await asyncio.Event().wait()

    async def read():
        request = Request(
            {
                "type": "http",
                "method": "POST",
                "path": "/predict",
                "headers": [],
                "query_string": b"",
            },
            receive,
        )
        return await body.body_of(request, Limits(100, Budget("bodies", 1_000)))

    with pytest.raises(SlowRequest, match=r"the body is incomplete after 0\.05 s"):
        asyncio.run(read())
