"""What a process is told before it loads PyTorch, for trainings on the CPU.

None of it changes a result. Whoever sets one of the variables himself has his way.
"""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST = 1 << 30  # bytes


def tune() -> None:
    """Keep large tensors mapped, in large pages, and let threads that wait give way soon.

    Without it, blocks of more than 32 MB (the pictures of one segment, as floats) go back to the
    kernel each time, whose page faults cost more than the work; and PyTorch's threads spin for
    milliseconds after their work, while the emulators could use their cores.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc has it
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
