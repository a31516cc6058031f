"""The messages are those of the public specification, and of inference.proto."""

import json
import subprocess

import pytest
from google.protobuf import descriptor_pb2

from service.api.grpc import NEEDS, messages
from support.environments import python_of

# Prints the names, numbers and types of the fields that a client's own messages have.
FIELDS = """
import importlib, json, sys
from google.protobuf import descriptor_pool
importlib.import_module(sys.argv[1])
found = {}
for name in sys.argv[2:]:
    try:
        kind = descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        continue
    found[name] = {
        field.name: [field.number, field.type] for field in kind.fields
    }
print(json.dumps(found))
"""


def fields(kind):
    """The same of a message of ours, and of those inside it."""
    yield kind.full_name, {field.name: [field.number, field.type] for field in kind.fields}
    for nested in kind.nested_types:
        yield from fields(nested)


def ours():
    kinds = [found.DESCRIPTOR for name, found in messages._CLASSES.items() if "." not in name]
    return dict(pair for kind in kinds for pair in fields(kind))


def test_the_descriptors_are_those_of_the_proto_file(tmp_path):
    made = tmp_path / "made.binpb"
    folder = messages.PROTO.parent
    command = [
        python_of("kserve"),  # its environment has grpcio-tools
        *("-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={made}"),
        messages.PROTO,
    ]
    subprocess.run(command, check=True, timeout=60)
    read = descriptor_pb2.FileDescriptorSet.FromString
    assert read(made.read_bytes()) == read(messages.DESCRIPTORS.read_bytes())


@pytest.mark.parametrize(
    ("client", "module", "least"),
    [
        ("tritonclient", "tritonclient.grpc.service_pb2", 40),
        ("kserve", "kserve.protocol.grpc.grpc_predict_v2_pb2", 20),
    ],
)
def test_fields_have_the_names_numbers_and_types_that_clients_have(client, module, least):
    mine = ours()
    command = [python_of(client), "-c", FIELDS, module, *mine]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    theirs = json.loads(done.stdout)
    assert len(theirs) >= least
    for name, found in theirs.items():
        if client == "kserve" and name.startswith("inference.RepositoryModel"):
            continue  # it numbers the model's name otherwise: the service takes either
        common = mine[name].keys() & found.keys()
        assert {field: mine[name][field] for field in common} == {
            field: found[field] for field in common
        }, name
        # KServe's metadata has `properties`, Triton's parameters have more types.
        assert mine[name].keys() - found.keys() <= {"properties", "double_param", "uint64_param"}


def test_every_served_method_is_in_the_proto_file():
    assert set(NEEDS) <= set(messages.METHODS)
