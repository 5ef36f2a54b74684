"""Training of every stage of the cascade."""
