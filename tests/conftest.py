"""Shared by all tests: no network beyond loopback."""

import ipaddress
import os
import socket

import pytest


pytest_plugins = ["saestore.testing.fixtures"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    """Refuse connections that leave this machine: the suite passes without network."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            host = address[0]
            local = host == "localhost" or (
                host.replace(".", "").replace(":", "").isalnum() and _is_loopback(host)
            )
            if not local:
                msg = f"a test tried to reach {host}: tests use loopback only"
                raise AssertionError(msg)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _is_loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
