"""The Python interface: models as the users of stable-baselines know them."""
