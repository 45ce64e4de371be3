"""Many runs: what is to do, and doing it on all cores."""
