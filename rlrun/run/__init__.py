"""The life of a run: loop, checkpoints, logs, evaluation."""
