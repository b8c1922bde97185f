"""Steps per second of rlrun beside measured floors and a peer, in turn, in one process."""

from rlrun import process

process.tune()  # as the command line does, for all contestants
