# SPDX-License-Identifier: Apache-2.0
"""Query parameters and form fields that no route has are refused, not ignored."""

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI, Request

from segmentation_node.errors import quoted, suggestion
from segmentation_node.web.problems import ProblemError


async def refuse_unknown(request: Request) -> None:
    """Dependency of all routes: raise ProblemError for a parameter that the route lacks."""
    app: FastAPI = request.app
    description = app.openapi()
    route = getattr(request.scope.get('route'), 'path', '')
    operation = description['paths'].get(route, {}).get(request.method.lower())
    if operation is None:  # not part of the description
        return
    parameters = operation.get('parameters', ())
    _check('query parameter', request.query_params, [
        p['name'] for p in parameters if p['in'] == 'query'
    ])  # fmt: skip
    fields = _form_fields(description, operation)
    if fields:
        _check('form field', await request.form(), fields)


def _form_fields(description: dict[str, Any], operation: dict[str, Any]) -> list[str]:
    content = operation.get('requestBody', {}).get('content', {})
    found = content.get('multipart/form-data', {}).get('schema', {})
    name = found.get('$ref', '').rpartition('/')[2]
    return list(description['components']['schemas'].get(name, found).get('properties', ()))


def _check(what: str, given: Collection[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            there_are = f'there are {", ".join(known)}' if known else 'there is none here'
            hint = ' '.join(filter(None, (suggestion(name, known), there_are)))
            raise ProblemError('invalid-request', f'unknown {what} {quoted(name)}; {hint}')
