"""Whether a network will train, said after the time of a few steps; nothing is changed by asking."""
