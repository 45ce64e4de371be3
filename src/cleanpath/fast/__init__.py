"""Kernels of our own for the steps of a training on the processor: what `layers.c` says, built here, called by torch."""
