"""Processes of this machine, told apart by their numbers and when they began."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeGuard


def started(pid: int) -> str | None:
    """When a process began, in the kernel's words; None if that is not known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def is_alive(pid: Any, began: Any) -> TypeGuard[int]:
    """Whether the process is there still; another one may have its number by now.

    Args:
        pid: its number, as a file has it.
        began: what `started` said of it.
    """
    if not isinstance(pid, int) or pid <= 0:  # 0 and below mean groups of processes
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return bool(started(pid) == began)
