"""Show-1 (arXiv 2309.15818) in JAX: a text-to-video cascade of pixel and latent diffusion."""
