"""Kernels of our own for the steps of a training on the processor: `layers.c`, built where it runs."""
