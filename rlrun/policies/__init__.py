"""Networks: encoders per observation, heads per algorithm."""
