"""Connections that send something and no more: `python tests/support/stalled.py PORT SOURCE COUNT`.

What each sends is read from standard input. What is closed is opened anew, all once in 2 seconds.
"""

from __future__ import annotations

import socket
import sys
import time


def opened(port: int, source: str, data: bytes) -> socket.socket | None:
    connection = socket.socket()
    connection.bind((source, 0))
    connection.settimeout(2)
    try:
        connection.connect(("127.0.0.1", port))
        connection.sendall(data)
    except OSError:
        connection.close()
        return None
    connection.setblocking(False)
    return connection


def is_open(connection: socket.socket) -> bool:
    """Whether it has been neither answered nor closed."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except ConnectionError:
        pass
    return False


def main() -> None:
    port, source, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    data = sys.stdin.buffer.read()
    held: list[socket.socket] = []
    while True:
        for connection in [each for each in held if not is_open(each)]:
            held.remove(connection)
            connection.close()
        missing = count - len(held)
        held += [new for _ in range(missing) if (new := opened(port, source, data)) is not None]
        time.sleep(2)


if __name__ == "__main__":
    main()
