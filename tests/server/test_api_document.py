"""Promise: the API does what its OpenAPI document says, whatever it is asked."""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from schemathesis.transport.serialization import serialize_binary

from hacktree.server.database import open_database
from hacktree.server.jobs import Kind, enqueue
from support.pulling import make_repository
from support.servers import hacktree_program, read_announcement


class Farm:
    """A server with its API, and a token that may do everything."""

    def __init__(self, url: str, secret: str) -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {secret}"}
        request = urllib.request.Request(f"{url}/api/v1/openapi.json", headers=self.headers)
        with urllib.request.urlopen(request) as response:
            self.document: dict[str, Any] = json.load(response)


@schemathesis.serializer("application/msgpack")
def as_it_is(_context: schemathesis.SerializationContext, value: Any) -> Any:
    """The bytes that are generated for a binary body."""
    return serialize_binary(value)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    directory = tmp_path_factory.mktemp("api")
    repository = make_repository(directory / "farm")
    enqueue(open_database(repository), Kind.DELTAS, "builds", 0)
    grants = [f"--can={action}:**" for action in ("push", "verdict", "promote", "lease", "admin")]
    create = ["--repo", str(repository.path), "token", "create", "--expires", "1d", *grants]
    secret = subprocess.run(
        [hacktree_program(), *create], capture_output=True, text=True, check=True
    ).stdout.strip()
    log = directory / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [hacktree_program(), "--repo", str(repository.path), "serve", "--api",
             "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=stderr, env={**os.environ},
        )  # fmt: skip
    yield Farm(read_announcement(process, log), secret)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert "Traceback" not in log.read_text()


def test_every_operation_is_described(farm: Farm) -> None:
    document = farm.document
    operations = [item for path in document["paths"].values() for item in path.values()]
    assert len(operations) >= 7
    assert len({item["operationId"] for item in operations}) == len(operations)
    assert all(item["summary"] for item in operations)
    assert document["components"]["schemas"]["Refusal"]["properties"]["request-id"]


def test_the_api_keeps_to_its_document(farm: Farm) -> None:
    """Generated requests, right and wrong: no server error, no answer that is not described."""
    schema = schemathesis.openapi.from_dict(farm.document)
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        check_operation(farm, result.ok())


_BEYOND = ("/verdict", "/promote", "/promotions", "/retest", "/hold", "/release")


def check_operation(farm: Farm, operation: APIOperation[Any, Any, Any, Any]) -> None:
    # JSON Schema can't say which bytes are msgpack or a commit, that a failure needs a reason, or
    # which text is a revision.
    beyond = any(body.media_type != "application/json" for body in operation.body)
    beyond = beyond or operation.path.endswith(_BEYOND)
    excluded = [ignored_auth, *([positive_data_acceptance] if beyond else [])]

    @settings(
        max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(case=operation.as_strategy())
    def holds(case: schemathesis.Case[Any]) -> None:
        base = f"{farm.url}/api/v1"
        case.call_and_validate(base_url=base, headers=farm.headers, excluded_checks=excluded)

    holds()


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer ht_00000000_"])
def test_without_a_token_nothing_is_answered(farm: Farm, header: str) -> None:
    for path, item in farm.document["paths"].items():
        for method in item:
            url = f"{farm.url}/api/v1{path}".replace("{job}", "1").replace("{push}", "0" * 32)
            # As a proxy on this machine would say it: who fails is blocked, and nobody else.
            address = {"X-Forwarded-For": "192.0.2.1"}
            request = urllib.request.Request(url, method=method.upper(), headers=address)
            if header:
                request.add_header("Authorization", header)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)
            body = json.loads(refused.value.read())
            assert refused.value.code in (401, 429)
            assert body["error"]["code"] in ("unauthenticated", "too-often")
            assert body["error"]["request-id"] == refused.value.headers["X-Request-Id"]
            refused.value.close()
