"""The diffusion process: noise schedule, modulation by E, samplers, residual, noise. Pure."""
