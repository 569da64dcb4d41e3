"""A judge on this machine: answers chat completions over real HTTP, as a script tells it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]


@dataclass
class Reply:
    """What the server sends; `hang` holds it back until the server stops."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False
    trickle: bool = False


Script = Callable[[Request, int], Reply]
"""From a request and its number, from 0, to the reply."""


@dataclass
class JudgeServer:
    """What the server has seen."""

    url: str
    requests: list[Request] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0


def completion(
    text: str | None,
    first: Mapping[str, float] | None = None,
    tokens: Sequence[str] | None = None,
    finish_reason: str = "stop",
) -> Reply:
    """A chat completion; `first` gives the probabilities of first tokens."""
    message = {"role": "assistant", "content": text}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish_reason}
    if first is not None:
        top = [{"token": token, "logprob": math.log(p)} for token, p in first.items()]
        spelled = list(tokens or [text])
        choice["logprobs"] = {
            "content": [
                {"token": token, "logprob": -0.1, "top_logprobs": top if place == 0 else []}
                for place, token in enumerate(spelled)
            ]
        }
    return Reply(json.dumps({"object": "chat.completion", "choices": [choice]}).encode())


def failure(status: int, message: str = "no", **headers: str) -> Reply:
    """An error, as such endpoints phrase it."""
    body = json.dumps({"error": {"message": message}}).encode()
    return Reply(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


@contextmanager
def serve_judge(script: Script) -> Iterator[JudgeServer]:
    """Serve on a free port while the block runs."""
    stopping = threading.Event()
    lock = threading.Lock()
    under_way = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each small answer takes 40 ms

        def do_POST(self) -> None:
            nonlocal under_way
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(seen.requests)
                seen.requests.append(request)
                sent = {name.lower(): value for name, value in self.headers.items()}
                seen.headers.append({"path": self.path, **sent})
                under_way += 1
                seen.most_at_once = max(seen.most_at_once, under_way)
            try:
                self.send(script(request, number))
            finally:
                with lock:
                    under_way -= 1

        def send(self, reply: Reply) -> None:
            if reply.drop:
                self.connection.close()
                self.close_connection = True
                return
            if reply.hang:
                stopping.wait()
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if reply.trickle:
                # Each byte comes before any time-out between two bytes.
                for byte in reply.body:
                    self.wfile.write(bytes([byte]))
                    if stopping.wait(0.05):
                        return
            else:
                self.wfile.write(reply.body)

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, ValueError):
                self.close_connection = True  # the client went away, as it may

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    seen = JudgeServer(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
