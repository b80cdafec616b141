"""The page in a real browser: no wider than a phone, nothing on the console, nothing asked for."""

import http.server
import shutil
import subprocess
import threading

import needs_datasets  # noqa: F401
import pytest
from pages import content

from clm_kernels.finetune.page.writing import page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
LOOK = """<!doctype html><body><iframe src="6.html" width=360 height=700></iframe><iframe src="6.html" width=1200 height=700></iframe>
<iframe src="150.html" width=360 height=700></iframe><iframe src="150.html" width=1200 height=700></iframe>
<script>onload = () => {
  document.title = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument.documentElement, wide = frame.contentWindow.innerWidth;
    const out = [...page.querySelectorAll("body *")].filter(one =>
      !one.closest(".scroll") && one.getBoundingClientRect().right > wide + 1).length;
    const tables = [...page.querySelectorAll("table")].every(one => one.closest(".scroll").clientWidth <= wide);
    return [frame.width, page.scrollWidth <= wide, out, tables, page.querySelectorAll("section").length].join(" ");
  }).join("; ");
};</script>"""


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium")
def test_it_fits_a_phone_and_asks_for_nothing(tmp_path):
    """Pages of few labels and of many."""
    files, asked = {"/": LOOK} | {f"/{labels}.html": page(content(labels)) for labels in (6, 150)}, []

    class Served(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.headers["Host"].partition(":")[0], self.path))
            self.send_response(200 if self.path in files else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(files.get(self.path, "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"127.0.0.1:{server.server_port}"
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--enable-logging=stderr",
                   f"--host-resolver-rules=MAP evil.test {here}", "--virtual-time-budget=8000", "--dump-dom", f"http://{here}/"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        server.shutdown()
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert title == "; ".join(["360 true 0 true 9", "1200 true 0 true 9"] * 2), done.stdout[:500] + done.stderr[-800:]
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert {(host, path) for host, path in asked if path != "/favicon.ico"} == {("127.0.0.1", path) for path in files}
