"""schemathesis finds nothing: what /openapi.json allows is answered, and answers are as it says."""

from support.schema_cases import ask


def test_schemathesis_finds_nothing(server):
    sent, found = ask(server.url, 6, "--phases", "fuzzing", "--max-failures", "3")
    assert not found, found
    assert sent > 60
