"""Learning from an expert: what it did as files, how it is recorded, how it is imitated."""
