"""Put this folder on PYTHONPATH and no Python process below can reach the network: every connection is refused."""

import socket

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def _allowed(self: socket.socket) -> bool:
    return self.family == getattr(socket, "AF_UNIX", None)  # processes of one machine may talk


def connect(self, address):  # type: ignore[no-untyped-def]
    if not _allowed(self):
        raise OSError(f"sockets are blocked: {address}")
    return _connect(self, address)


def connect_ex(self, address):  # type: ignore[no-untyped-def]
    if not _allowed(self):
        raise OSError(f"sockets are blocked: {address}")
    return _connect_ex(self, address)


def getaddrinfo(host, *_args, **_kwargs):  # type: ignore[no-untyped-def]
    raise OSError(f"sockets are blocked: {host}")


socket.socket.connect = connect  # type: ignore[method-assign]
socket.socket.connect_ex = connect_ex  # type: ignore[method-assign]
socket.getaddrinfo = getaddrinfo
