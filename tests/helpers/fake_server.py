"""``python fake_server.py SECONDS [SCRIPT]``: serves `FakeTasks` at a free port of loopback, which it prints.

SCRIPT is JavaScript that runs in the page, in place of somebody who uses it.
"""

import socket
import sys

import uvicorn
from fake_tasks import FakeTasks

from clm_kernels.serving.service import app as service


class Piloted:
    """The package's files, whose page ends with a script more."""

    def __init__(self, script):
        self.script, self.known = script, service.files

    def __call__(self, package):
        return self

    def joinpath(self, name):
        self.name = name
        return self

    def read_text(self, encoding):
        html = self.known(service.__package__).joinpath(self.name).read_text(encoding=encoding)
        return html.replace("</body>", f"<script>{self.script}</script></body>")


if __name__ == "__main__":
    if sys.argv[2:]:
        service.files = Piloted(sys.argv[2])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(512)
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(
            service.make_app(FakeTasks(float(sys.argv[1]))), log_level="warning", timeout_graceful_shutdown=10
        )
        uvicorn.Server(config).run([listening])
