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


def make_server(model: neo_edge.Model, port: int = 8000) -> ThreadingHTTPServer:
    """A server whose threads share the model."""

    class Service(BaseHTTPRequestHandler):
        timeout = 30  # seconds; a client that sends nothing does not keep a thread

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            if not size.isascii() or not size.isdigit() or int(size) > MAX_PICTURE_BYTES:
                self.reply(
                    413, {"error": f"send a picture of at most {MAX_PICTURE_BYTES} bytes, with its length"}
                )
                return
            picture = self.rfile.read(int(size))
            question = parse_qs(urlsplit(self.path).query).get("question", [""])[0]
            try:
                answer = model.generate(question, images=[picture])
            except neo_edge.errors.InputError as error:  # the picture or the question is wrong
                self.reply(400, {"error": str(error)})
            except neo_edge.NeoEdgeError as error:  # such as too little memory now
                self.reply(503, {"error": str(error)})
            else:
                self.reply(200, {"answer": answer.text, "stop_reason": answer.stop_reason})

        def reply(self, status: int, content: dict[str, str]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(("127.0.0.1", port), Service)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with neo_edge.load(sys.argv[1]) as model, make_server(model) as server:
            print(f"http://127.0.0.1:{server.server_port}")
            server.serve_forever()
    except neo_edge.NeoEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
