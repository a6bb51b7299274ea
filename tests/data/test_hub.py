import os
import socket
import time
import types

from cvfp_jax.data import hub


def test_a_server_that_listens_and_one_that_does_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert hub.reachable(address)
    assert not hub.reachable(address)


def test_a_name_that_takes_for_ever_is_given_up(monkeypatch):
    def slow(*_, **__):
        time.sleep(0.5)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", slow)
    start = time.perf_counter()
    assert not hub.reachable("https://huggingface.co", seconds=0.05)
    assert time.perf_counter() - start < 0.4


def test_libraries_are_told_only_where_there_is_no_network(monkeypatch):
    constants = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub.constants", constants)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    for there in (True, False):
        monkeypatch.setattr(hub, "reachable", lambda address, there=there: there)
        with hub.offline_if_unreachable():
            assert ("HF_HUB_OFFLINE" in os.environ, constants.HF_HUB_OFFLINE) == (not there, not there)
        assert ("HF_HUB_OFFLINE" in os.environ, constants.HF_HUB_OFFLINE) == (False, False)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    with hub.offline_if_unreachable():
        assert "HF_HUB_OFFLINE" not in os.environ
