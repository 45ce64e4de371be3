"""Find the residual units of any network and measure the signal through them."""
