"""How good each analyzer is, measured on media with known answers: `make quality`."""
