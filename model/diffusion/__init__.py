"""The process: schedule, modulation by E, samplers, residual, noise. Pure."""
