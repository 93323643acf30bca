"""What does a sweep agent hear from W&B's server?  A stand-in on this machine that answers what the client asks.

It knows the few questions of `wandb sweep` and `wandb agent` and hands out the points of a grid one by one. It shows
that the sweep files, the command line and the exit status fit the real client; it is not W&B's server.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml

from tests.command_line import points

__all__ = ["Server", "serving"]

PROJECT = {"id": "project", "name": "snp", "entity": {"id": "entity", "name": "tester"}}


class Server(ThreadingHTTPServer):
    """One sweep at a time.

    Attributes:
        config: the sweep file as the client sent it; empty before.
        started: ids of the runs handed out.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.config: dict[str, Any] = {}
        self.started: list[str] = []

    @property
    def url(self) -> str:
        """Where the client finds it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Data for a GraphQL query; nothing for those that only tell."""
        if "mutation UpsertSweep" in query:
            self.config = yaml.safe_load(variables["config"])
            return {"upsertSweep": {"sweep": {"name": "sweep0", "project": PROJECT}, "configValidationWarnings": []}}
        if "query SweepWithRuns" in query:
            sweep = {"id": "sweep0", "name": "sweep0", "state": "RUNNING", "runs": {"edges": []}}
            return {"project": {"sweep": sweep | {"config": yaml.safe_dump(self.config), "method": "grid"}}}
        if "mutation CreateAgent" in query:
            return {"createAgent": {"agent": {"id": "agent0"}}}
        if "mutation Heartbeat" in query:
            commands = json.dumps(self._commands(json.loads(variables["runState"] or "{}")))
            return {"agentHeartbeat": {"agent": {"id": "agent0"}, "commands": commands}}
        return {"viewer": _viewer()} if "viewer" in query else {}

    def _commands(self, running: dict[str, bool]) -> list[dict[str, Any]]:
        if running:
            return []
        grid = points(self.config["parameters"])
        if len(self.started) == len(grid):
            return [{"type": "exit"}]
        point = grid[len(self.started)]
        self.started.append(f"run{len(self.started)}")
        arguments = {name: {"value": value} for name, value in sorted(point.items())}
        return [{"type": "run", "run_id": self.started[-1], "program": self.config["program"], "args": arguments}]


def _viewer() -> dict[str, Any]:
    nothing: dict[str, Any] = {"edges": []}
    named = {"id": "viewer", "name": "tester", "username": "tester", "email": "tester@example.org", "entity": "tester"}
    return named | {"admin": False, "flags": "{}", "deletedAt": None, "apiKeys": nothing, "teams": nothing}


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        is_query = self.path.endswith("/graphql")
        self._reply({"data": self.server.answer(body["query"], body.get("variables") or {})} if is_query else {})

    def do_GET(self) -> None:
        self._reply({})

    def _reply(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on the terminal."""


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs until the end of the block."""
    with Server() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
