"""Steps per second of rlrun beside measured floors and a peer, in turn, in one process."""
