# SPDX-License-Identifier: Apache-2.0
"""Rejection of query parameters and form fields that a route does not have."""

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI, Request

from segmentation_node.errors import quoted, suggestion
from segmentation_node.web.problems import ProblemError


async def reject_unknown_fields(request: Request) -> None:
    """Raise ProblemError for an unknown parameter; a dependency of all routes."""
    app: FastAPI = request.app
    schema = app.openapi()
    route = getattr(request.scope.get('route'), 'path', '')
    operation = schema['paths'].get(route, {}).get(request.method.lower())
    if operation is None:  # not part of the OpenAPI schema
        return
    parameters = operation.get('parameters', ())
    _check('query parameter', request.query_params, [
        p['name'] for p in parameters if p['in'] == 'query'
    ])  # fmt: skip
    fields = _form_fields(schema, operation)
    if fields:
        _check('form field', await request.form(), fields)


def _form_fields(schema: dict[str, Any], operation: dict[str, Any]) -> list[str]:
    content = operation.get('requestBody', {}).get('content', {})
    form = content.get('multipart/form-data', {}).get('schema', {})
    name = form.get('$ref', '').rpartition('/')[2]
    return list(schema['components']['schemas'].get(name, form).get('properties', ()))


def _check(kind: str, given: Collection[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            expected = f'expected: {", ".join(known)}' if known else 'this route has none'
            hint = suggestion(name, known, expected)
            raise ProblemError('invalid-request', f'unknown {kind} {quoted(name)}; {hint}')
