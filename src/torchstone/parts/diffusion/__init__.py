"""The diffusion process (noise schedule, reverse steps, variational bound), U-Net blocks, text encoder."""
