"""Models that stable-baselines 2 saved, in the words of rlrun; nothing in them is unpickled."""
