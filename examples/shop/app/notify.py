"""Tells whoever waits how the processes fare: the sd_notify protocol, one datagram each.

systemd sets NOTIFY_SOCKET for its services; any other starter may do the same. Nobody
listening is no reason to fail, nor to wait.
"""

from __future__ import annotations

import os
import socket


def notify(message: str) -> None:
    """Send `message`, e.g. "READY=1" or "STATUS=shipped order 7"."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        try:
            channel.sendto(message.encode(), address)
        except OSError:
            return
