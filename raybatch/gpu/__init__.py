"""What the NVIDIA driver says about this process's GPUs. What follows from it is decided in core.fitness."""
