"""Whether the hub can be reached, found out in seconds and not after its library's retries."""

import contextlib
import os
import queue
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

_HUB = "https://huggingface.co"
_SECONDS = 2.0
_OFFLINE = "HF_HUB_OFFLINE"  # read by the libraries when they are imported


def reachable(address: str, seconds: float = _SECONDS) -> bool:
    """Says whether a server takes connections.

    Looking its name up can take longer than any limit, so a thread does it that is left behind.
    """
    parts = urlsplit(address)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    answers: queue.Queue[bool] = queue.Queue()

    def connect() -> None:
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=seconds):
                answers.put(True)
        except OSError:
            answers.put(False)

    threading.Thread(target=connect, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return False


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Makes the hub's libraries use their caches at once where there is no network.

    Behind a proxy, which alone knows the names of servers, nothing is tried.
    """
    address = os.environ.get("HF_ENDPOINT") or _HUB
    if _OFFLINE in os.environ or urllib.request.getproxies() or reachable(address):
        yield
        return
    # Those that were imported before have read it already.
    early = [
        module
        for name in ("huggingface_hub.constants", "datasets.config")
        if (module := sys.modules.get(name))
    ]
    os.environ[_OFFLINE] = "1"
    for module in early:
        setattr(module, _OFFLINE, True)
    try:
        yield
    finally:
        del os.environ[_OFFLINE]
        for module in early:
            setattr(module, _OFFLINE, False)
