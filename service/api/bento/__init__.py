"""BentoML's side of the service: its class, its configuration, the arguments of its APIs."""

# Key of a request's state: BentoML's application, where it may answer dependent services.
CALLS = "bentoml"
PICKLE = "application/vnd.bentoml+pickle"  # the content type of their calls
