"""BentoML's side of the service: its class, its configuration, the arguments of its APIs."""

from service.api.access.guard import DOCUMENTS, OPEN, Needs

# Key of a request's state: BentoML's application, where it may answer dependent services.
CALLS = "bentoml"
PICKLE = "application/vnd.bentoml+pickle"  # the content type of their calls
# Paths that BentoML answers, and the scopes that open them: probes, the schema of its clients, its
# OpenAPI document.
BENTOML_PATHS: dict[str, Needs] = {
    "/livez": OPEN,
    "/readyz": OPEN,
    "/healthz": OPEN,
    "/schema.json": DOCUMENTS,
    "/docs.json": DOCUMENTS,
}
