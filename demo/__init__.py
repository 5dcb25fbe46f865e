"""Sample media made in code, and `make demo`, which shows the product at work on them."""
