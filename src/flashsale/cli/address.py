"""Addresses to listen on: which of them only this machine can reach, and whether one can be had."""

import errno
import ipaddress
import os
import socket

from flashsale.cli.problem import Problem

OTHER_FILES = 100
"""What a server has open besides its connections."""

HINT = {
    errno.EADDRINUSE: "Another program listens there, perhaps another flashsale.",
    errno.EADDRNOTAVAIL: "No network interface of this machine has this address.",
    errno.EACCES: "Ports below 1024 need special rights.",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; a name that cannot be looked up is no loopback."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def require_free(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises a Problem if nobody could listen there now."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address[0], port, *address[2:]))
                port = probe.getsockname()[1]
    except OSError as error:
        remedy = "choose another with --host and --port, or stop what is there (`flashsale doctor` asks who it is)"
        message = f"cannot listen on {show(host, port)}: {os.strerror(error.errno) if error.errno else error}"
        if isinstance(error, socket.gaierror):
            message = f"cannot listen on {host}: no such address"
        raise Problem(message, HINT.get(error.errno or 0, ""), remedy) from error
    return port


def show(host: str, port: int) -> str:
    """As in an URL: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
