"""Put this folder on PYTHONPATH and no Python process below can leave the machine: every connection but to itself is refused."""

import socket

_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
_HERE = ("127.0.0.1", "::1", "localhost", "", None)


def _allowed(self: socket.socket, address: object) -> bool:
    if self.family == getattr(socket, "AF_UNIX", None):
        return True
    return isinstance(address, tuple) and address[0] in _HERE


def connect(self, address):  # type: ignore[no-untyped-def]
    if not _allowed(self, address):
        raise OSError(f"sockets are blocked: {address}")
    return _connect(self, address)


def connect_ex(self, address):  # type: ignore[no-untyped-def]
    if not _allowed(self, address):
        raise OSError(f"sockets are blocked: {address}")
    return _connect_ex(self, address)


def getaddrinfo(host, *args, **kwargs):  # type: ignore[no-untyped-def]
    if host not in _HERE:
        raise OSError(f"sockets are blocked: {host}")
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect = connect  # type: ignore[method-assign]
socket.socket.connect_ex = connect_ex  # type: ignore[method-assign]
socket.getaddrinfo = getaddrinfo
