# SPDX-License-Identifier: Apache-2.0
"""Open a page in headless Chromium and say which pictures it shows and what it asks the network for."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-extensions",
)  # fmt: skip
# Chromium asks these for itself: the time, accounts, updates. None of them serves what a page would hold.
_OWN = (
    "clients2.google.com", "accounts.google.com", "www.google.com", "android.clients.google.com",
    "optimizationguide-pa.googleapis.com", "update.googleapis.com", "content-autofill.googleapis.com",
)  # fmt: skip
# Waits until all pictures are there or have failed, and writes down how wide each is.
_LOOK = """
<pre id="seen"></pre><script>
addEventListener("load", () => {
  document.getElementById("seen").textContent = "SEEN" + JSON.stringify([...document.images].map(i => i.naturalWidth))
})
</script>
"""


@dataclasses.dataclass(frozen=True)
class Seen:
    """widths: of the pictures in pixels, 0 where there is none to be seen; requests: first lines of what was asked,
    without what Chromium asks for itself."""

    widths: list[int]
    requests: list[str]


def look_at(page: Path, scratch: Path) -> Seen:
    """Open a copy of `page`; whatever it asks the network for goes to a proxy that writes it down and gives nothing."""
    copy = scratch / "looked_at.html"
    # Without the page's own policy, which forbids scripts and would hide what the page asks for.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    copy.write_text(text + _LOOK, encoding="utf-8")
    requests: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_refuse, args=(server, requests), daemon=True).start()
        proxy = f"--proxy-server=127.0.0.1:{server.getsockname()[1]}"
        profile = f"--user-data-dir={scratch / 'profile'}"
        assert CHROMIUM is not None
        dumped = subprocess.run(
            [CHROMIUM, *_QUIET, proxy, "--proxy-bypass-list=<-loopback>", profile, "--virtual-time-budget=10000",
             "--dump-dom", copy.as_uri()],
            capture_output=True, text=True, timeout=300, check=True,
        ).stdout  # fmt: skip
    found = re.search(r"SEEN(\[[\d,]*\])</pre>", dumped)
    assert found, dumped[-500:]
    return Seen(json.loads(found[1]), requests)


def _refuse(server: socket.socket, requests: list[str]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # closed: the page has been seen
            return
        with connection:
            request = connection.recv(4096).split(b"\r\n")[0].decode(errors="replace")
            target = (request.split(" ") + [""])[1].removeprefix("http://")
            if re.split("[:/]", target)[0] not in _OWN:
                requests.append(request)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
