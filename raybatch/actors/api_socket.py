"""The socket that the API listens on: the supervisor holds it, and who serves the API takes it from there.

So it outlives a replica: who connects while the next one starts is kept waiting by the system, not refused.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Final

API_SOCKET_NAME: Final = "api.sock"  #: in Ray's temp dir, for the paths of such sockets must be short
CLOSE_S: Final = 1.0  #: not every system wakes who waits at a closed socket
_GIVEN: Final = b"\0"  #: a descriptor travels with at least one byte


class ApiSocket:
    """Bound to ``host`` and ``port``, and given to every process of this user that asks at ``path``.

    It listens from the moment the first of them does. Raises OSError when the address is taken.
    """

    def __init__(self, host: str, port: int, path: Path) -> None:
        with contextlib.ExitStack() as opened:
            self._socket = opened.enter_context(socket.socket())
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            path.unlink(missing_ok=True)
            self._door = opened.enter_context(socket.socket(socket.AF_UNIX))
            self._door.bind(str(path))
            self._door.listen()
            opened.pop_all()
        self._giving = threading.Thread(target=self._give, name="api-socket", daemon=True)
        self._giving.start()

    def close(self) -> None:
        """Whoever has taken it keeps it."""
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)  # ends the wait for the next one who asks
        self._giving.join(CLOSE_S)
        self._door.close()
        self._socket.close()

    def _give(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                taker, _ = self._door.accept()
                with taker, contextlib.suppress(OSError):  # it may have gone again
                    socket.send_fds(taker, [_GIVEN], [self._socket.fileno()])


def take_api_socket(path: Path) -> socket.socket:
    """Raises OSError when no supervisor holds one there."""
    with socket.socket(socket.AF_UNIX) as giver:
        giver.connect(str(path))
        _, descriptors, _, _ = socket.recv_fds(giver, len(_GIVEN), 1)
    if not descriptors:
        raise ConnectionError(f"{path} gave no socket")
    return socket.socket(fileno=descriptors[0])
