"""A web service that answers questions about pictures, with Python's own server.

    python samples/web_service.py out/neo-ov-nano.bundle
    curl --data-binary @scene.png "http://127.0.0.1:8000/?question=How+many+balls+are+there%3F"

It listens on this machine only. Before you open it to others, put a server with TLS and accounts in front of it.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import neo_edge

MAX_PICTURE_BYTES = 16 << 20


class Service(BaseHTTPRequestHandler):
    model: neo_edge.Model  # which all threads share
    timeout = 30  # seconds; a client that sends nothing does not keep a thread

    def do_POST(self) -> None:
        try:
            size = int(self.headers.get("Content-Length", 0))
            if not 0 < size <= MAX_PICTURE_BYTES:
                raise ValueError(f"send a picture of at most {MAX_PICTURE_BYTES} bytes, with its length")
            question = parse_qs(urlsplit(self.path).query).get("question", [""])[0]
            answer = self.model.generate(question, images=[self.rfile.read(size)])
            status, reply = 200, {"answer": answer.text, "stop_reason": answer.stop_reason}
        except (ValueError, neo_edge.errors.ContextOverflowError) as error:  # of the picture or the question
            status, reply = 400, {"error": str(error)}
        except neo_edge.NeoEdgeError as error:  # such as too little memory now
            status, reply = 503, {"error": str(error)}
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())


if __name__ == "__main__":
    with (
        neo_edge.load(sys.argv[1]) as Service.model,
        ThreadingHTTPServer(("127.0.0.1", 8000), Service) as server,
    ):
        server.serve_forever()
