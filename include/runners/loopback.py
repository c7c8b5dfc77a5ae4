"""``python loopback.py COMMAND ...`` starts the loopback of a new network namespace and becomes the command.

Without it a program could not even reach itself, as torch.distributed does. Where the kernel refuses, the program has
no network at all. The command gets no capability that this one was given for the purpose.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import sys

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

if __name__ == "__main__":
    with contextlib.suppress(OSError), socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
    ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
