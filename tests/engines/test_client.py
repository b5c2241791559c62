"""HTTP to an engine that misbehaves on the wire: what becomes of its answer."""

from collections.abc import Iterator
from typing import Literal

import pytest

from axomsync.core.errors import AxomsyncError, Rejected, Transient
from axomsync.engines.client import Client
from tests.rig.faults import Fault, FaultyServer


@pytest.fixture
def client(server: FaultyServer) -> Iterator[Client]:
    client = Client(server.endpoint, timeout=0.5, wait=0.5)
    yield client
    client.close()


@pytest.mark.parametrize("ending", ["fin", "reset", "stall"])
@pytest.mark.parametrize(
    ("status", "kind"), [(401, Rejected), (403, Rejected), (302, Rejected), (200, Transient), (400, Transient)]
)
def test_refusal_whose_reason_is_cut_off_is_told_as_one(
    status: int, kind: type[AxomsyncError], ending: Literal["fin", "reset", "stall"], server: FaultyServer, client: Client
) -> None:
    server.inject(Fault(status, {"Content-Length": "1000"}, b'{"error": "it is', cut=16, ending=ending), "/")
    with pytest.raises(kind) as failure:
        client.ask("GET", "/v1/models")
    assert type(failure.value) is kind
