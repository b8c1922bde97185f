"""Train, resume and sweep the reinforcement-learning algorithms ACER and ACKTR."""

__version__ = "0.1.0"
