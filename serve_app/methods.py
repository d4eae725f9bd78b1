"""Which methods a path answers to: HEAD wherever GET does, and the list for a client that took another."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.routing import Match, Route


def add_head(app: FastAPI) -> None:
    """To every GET of ``app``: the same headers. Its body is dropped on the way out, if there is one."""
    for route in tuple(app.routes):
        if isinstance(route, APIRoute) and "GET" in route.methods:
            app.add_api_route(
                route.path,
                route.endpoint,
                methods=["HEAD"],
                dependencies=route.dependencies,
                response_class=route.response_class,
                include_in_schema=False,
            )


def allowed(request: Request) -> str:
    """Of the path that was asked for, as an ``Allow`` header has it."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods))
