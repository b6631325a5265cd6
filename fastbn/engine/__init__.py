"""From checked arguments to kernels: what every operation shares."""
