"""The Open Inference Protocol v2 over HTTP, as an ASGI app."""

from __future__ import annotations

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from deploy.serving import body, pictures, service
from deploy.serving.front import App, Front, Receive, Scope, Send
from deploy.serving.infer import Infer, seconds, timing
from deploy.serving.metrics import REGISTRY
from deploy.serving.models import Version
from deploy.serving.refusal import Forbidden, Unknown
from deploy.serving.service import Service


def app(serving: Service, *, token: bytes | None, control: bool, more: list[Route] | None = None) -> App:
    """The app.

    Args:
        serving: the models.
        token: what clients must bear.
        control: whether the repository may be changed over the network.
        more: routes beside the protocol's.
    """
    pages = _Pages(serving, control)
    starts = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    # The routes are tried in turn, so the one that is in a hurry comes first.
    routes = [Route(f"{start}/infer", Infer(serving), methods=["POST"]) for start in starts]
    routes += more or []
    for path, page, method in (
        ("/v2/health/live", pages.live, "GET"),
        ("/v2/health/ready", pages.ready, "GET"),
        ("/v2", pages.server, "GET"),
        ("/metrics", pages.metrics, "GET"),
        ("/v2/models/stats", pages.all_statistics, "GET"),
        ("/v2/repository/index", pages.index, "POST"),
        ("/v2/repository/models/{model}/load", pages.load, "POST"),
        ("/v2/repository/models/{model}/rollback", pages.roll_back, "POST"),
    ):
        routes.append(Route(path, page, methods=[method]))
    for start in starts:
        for end, page, method in (
            ("/segment", pages.segment, "POST"),
            ("", pages.metadata, "GET"),
            ("/ready", pages.model_ready, "GET"),
            ("/config", pages.config, "GET"),
            ("/labels", pages.labels, "GET"),
            ("/stats", pages.statistics, "GET"),
        ):
            routes.append(Route(start + end, page, methods=[method]))
    return Front(Router(routes, default=_nothing, redirect_slashes=False), token)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise Unknown("there is nothing at this address; GET /v2/models/<model> tells of a model")


def _version(request: Request, serving: Service) -> Version:
    return serving.models.get(request.path_params["model"], request.path_params.get("version", ""))


class _Pages:
    """One method a route."""

    def __init__(self, serving: Service, control: bool) -> None:
        self._serving, self._control = serving, control

    async def live(self, request: Request) -> Response:
        return Response()

    async def ready(self, request: Request) -> Response:
        return Response(status_code=200 if self._serving.ready else 503)

    async def server(self, request: Request) -> Response:
        return JSONResponse(service.server_metadata())

    async def metrics(self, request: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    async def metadata(self, request: Request) -> Response:
        version = _version(request, self._serving)
        return JSONResponse(service.model_metadata(self._serving.models.versions(version.model), version))

    async def model_ready(self, request: Request) -> Response:
        _version(request, self._serving)
        return Response(status_code=200 if self._serving.ready else 503)

    async def config(self, request: Request) -> Response:
        return JSONResponse(service.model_config(_version(request, self._serving)))

    async def labels(self, request: Request) -> Response:
        return JSONResponse(service.labels(_version(request, self._serving)))

    async def statistics(self, request: Request) -> Response:
        name, number = request.path_params["model"], request.path_params.get("version")
        versions = self._serving.models.versions(name)
        if number:
            versions = (self._serving.models.get(name, number),)
        return JSONResponse({"model_stats": [version.tally.statistics() for version in versions]})

    async def all_statistics(self, request: Request) -> Response:
        models = self._serving.models
        found = [version.tally.statistics() for name in models.names() for version in models.versions(name)]
        return JSONResponse({"model_stats": found})

    async def index(self, request: Request) -> Response:
        models = self._serving.models
        rows = [(name, version.number) for name in models.names() for version in models.versions(name)]
        state = {"state": "READY", "reason": ""}
        return JSONResponse([{"name": name, "version": number, **state} for name, number in rows])

    async def load(self, request: Request) -> Response:
        self._may_change()
        await asyncio.to_thread(self._serving.models.reload, request.path_params["model"])
        return Response()

    async def roll_back(self, request: Request) -> Response:
        self._may_change()
        self._serving.models.roll_back(request.path_params["model"])
        return Response()

    def _may_change(self) -> None:
        if not self._control:
            raise Forbidden("this server was started without --control")

    async def segment(self, request: Request) -> Response:
        version = _version(request, self._serving)
        headers = dict(request.scope["headers"])
        limit = self._serving.seconds(seconds(headers))
        content = await body.read(headers, request.receive, self._serving.limits)
        number = request.path_params.get("version", "")
        served = await self._serving.infer(version.model, number, content, limit)
        png = await asyncio.to_thread(pictures.encode, served.maps[0], served.version.contract)
        response = Response(png, media_type="image/png")
        response.raw_headers += timing(served)
        return response
