"""Become a server that cannot outlive the program: `python launch.py PARENT_PID USER COMMAND…`.

Run as a script, before the server, in the process that the server then takes over (same pid). The order matters: Linux
forgets the death signal on a change of user, keeps it over exec. `PARENT_PID` closes the gap between fork and prctl.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(user: str) -> None:
    """Give up root for the named user; an empty name keeps the one we run as."""
    if user:
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, also by kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit("launch: the program that wanted this server has ended meanwhile")


if __name__ == "__main__":
    become(sys.argv[2])
    die_with(int(sys.argv[1]))
    os.execv(sys.argv[3], sys.argv[3:])
