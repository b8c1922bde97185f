"""Collecting experience and replaying it."""
