"""The application in process, on real stores; builds stay queued, since no scheduler runs."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from dcd.api.app import make_app
from dcd.api.metrics import Metrics
from dcd.configuration import Configuration, Effective, Live
from dcd.engine.broadcast import Broadcast
from dcd.engine.builds import Builds, now
from dcd.engine.engine import Engine
from dcd.engine.runner import Runner
from dcd.engine.scheduler import Scheduler
from dcd.engine.stores import Stores
from dcd.launcher.orders import Bounds
from dcd.planner.client import Planner
from store.artifacts import Artifacts
from store.blobs import Blobs
from store.eventlog import SqliteLog
from store.layers.choose import open_store
from store.logs import AttemptLogs
from store.packages import Packages
from tests.launching import Here

MANIFEST = """<dc><distro name="small"><execution>
<checkpoint name="one" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>true</args></checkpoint></execution></distro></dc>"""


@dataclass(frozen=True)
class Client:
    """Requests to the application, one event loop each."""

    app: Starlette

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://dcd") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())


@pytest.fixture(scope="session")
def planner() -> Iterator[Planner]:
    with Planner(Configuration) as running:
        yield running


@pytest.fixture
def app(tmp_path: Path, planner: Planner) -> Iterator[Starlette]:
    configuration = Configuration(
        state_dir=tmp_path, min_free_bytes=0, body_limit_bytes=65536, request_timeout_seconds=0.2
    )

    settings = Live(lambda: Effective(configuration, {}))

    with SqliteLog(tmp_path / "events.db") as log:
        builds = Builds(log, Broadcast())
        layers = open_store("copy", tmp_path / "layers")
        layers.directory.parent.mkdir()
        layers.prepare()
        blobs, packages = Blobs(tmp_path / "blobs"), Packages(tmp_path / "packages")
        packages.prepare()
        artifacts, logs = Artifacts(tmp_path / "artifacts"), AttemptLogs(tmp_path / "logs")
        launcher = Here(
            layers,
            artifacts,
            logs,
            blobs.directory,
            packages,
            "test",
            bounds=Bounds(host_code=True),
        )
        stores = Stores(launcher, blobs, artifacts, logs, packages)
        runner = Runner(builds, stores, settings, planner)
        scheduler = Scheduler(builds, runner, settings)
        engine = Engine(builds, runner, scheduler, stores, settings, planner)
        metrics = Metrics()
        builds.watch(metrics.happened)
        application = make_app(engine, settings, now(), metrics)
        application.state.builds, application.state.logs = builds, logs
        application.state.engine = engine
        yield application


@pytest.fixture
def request_(app: Starlette) -> Callable[..., httpx.Response]:
    return Client(app)


@pytest.fixture
def submission() -> dict[str, Any]:
    """Body of a request that submits a small manifest."""
    return {"manifest": {"path": "/home/me/small.xml", "text": MANIFEST}}
