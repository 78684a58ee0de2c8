"""The OpenAPI document of the API, made from its routes: what they take, answer and refuse.

A handler is described by `operation`; the summary is the first line of its docstring. A route that
nobody described is an error, so the document can't forget one.
"""

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from hacktree.common.push.refusals import Refusal

_ATTRIBUTE: Final = "hacktree_operation"
_PARAMETER: Final = re.compile(r"\{(\w+)(?::((?:[^{}]|\{\d+\})+))?\}")
_BINARY: Final = {"type": "string", "format": "binary"}

H = TypeVar("H", bound=Callable[..., Awaitable[web.StreamResponse]])


class ErrorBody(msgspec.Struct, frozen=True, rename="kebab"):
    """The body of every refusal."""

    error: Refusal


class Content(msgspec.Struct, frozen=True):
    """A body: its media type, and its msgspec type where it is JSON."""

    media_type: str
    type: Any = None

    def schema(self, components: "_Components") -> dict[str, Any]:
        """The media type object."""
        schema = _BINARY if self.type is None else components.reference(self.type)
        return {self.media_type: {"schema": schema}}


class Operation(msgspec.Struct, frozen=True):
    """What a handler takes and answers; `refusals` are statuses besides those of every request."""

    name: str
    body: Content | None
    answer: Content | None
    refusals: tuple[int, ...]
    status: int = 200


def operation(
    name: str,
    *,
    body: Content | None = None,
    answer: Content | None = None,
    refusals: tuple[int, ...] = (),
    status: int = 200,
) -> Callable[[H], H]:
    """Describe a handler for the document, where it is called `name`."""

    def describe(handler: H) -> H:
        setattr(handler, _ATTRIBUTE, Operation(name, body, answer, refusals, status))
        return handler

    return describe


def json_of(kind: Any) -> Content:
    """A JSON body of a msgspec type."""
    return Content("application/json", kind)


class _Components:
    """The schemas that operations refer to, collected while they are described."""

    def __init__(self) -> None:
        self._types: list[Any] = []

    def reference(self, kind: Any) -> dict[str, Any]:
        self._types.append(kind)
        (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
        return schema

    def schemas(self) -> dict[str, Any]:
        _, components = msgspec.json.schema_components(self._types, ref_template=_REFERENCE)
        return components


_REFERENCE: Final = "#/components/schemas/{name}"


def describe_api(app: web.Application, prefix: str) -> dict[str, Any]:
    """The document for the routes of `app`, which is mounted at `prefix`."""
    components = _Components()
    paths: dict[str, dict[str, Any]] = {}
    for route in app.router.routes():
        described = getattr(route.handler, _ATTRIBUTE, None)
        if described is None or route.resource is None:
            raise LookupError(f"{route.method} {route.resource} is not described")
        path, parameters = _path(route.resource.canonical, route.resource.get_info())
        item = paths.setdefault(path.removeprefix(prefix), {})
        item[route.method.lower()] = _operation(route, described, parameters, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "hacktree", "version": version("hacktree")},
        "servers": [{"url": prefix}],
        "security": [{"token": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": components.schemas(),
        },
    }


def _path(canonical: str, info: Any) -> tuple[str, list[dict[str, Any]]]:
    """The path, and its parameters with the patterns that the router matches them by."""
    patterns: dict[str, str] = {}
    if "pattern" in info:
        groups = re.finditer(r"\(\?P<(\w+)>((?:[^()]|\([^()]*\))*)\)", info["pattern"].pattern)
        patterns = {group[1]: f"^{group[2]}$" for group in groups}
    parameters = [
        {
            "name": match[1],
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": patterns.get(match[1], ".+")},
        }
        for match in _PARAMETER.finditer(canonical)
    ]
    return _PARAMETER.sub(r"{\1}", canonical), parameters


def _operation(
    route: web.AbstractRoute,
    described: Operation,
    parameters: list[dict[str, Any]],
    components: _Components,
) -> dict[str, Any]:
    summary = (route.handler.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    refusal = json_of(ErrorBody).schema(components)
    responses: dict[str, Any] = {
        str(status): {"description": HTTPStatus(status).phrase, "content": refusal}
        for status in sorted({400, 401, 408, 429, 500, *described.refusals})
    }
    good: dict[str, Any] = {"description": HTTPStatus(described.status).phrase}
    if described.answer is not None:
        good["content"] = described.answer.schema(components)
    responses[str(described.status)] = good
    document: dict[str, Any] = {
        "operationId": described.name,
        "summary": summary,
        "parameters": parameters,
        "responses": dict(sorted(responses.items())),
    }
    if described.body is not None:
        content = described.body.schema(components)
        document["requestBody"] = {"required": True, "content": content}
    return document
