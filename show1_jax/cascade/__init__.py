"""The cascade: stages from keyframes to latent super-resolution, their conditions, and one denoising loop for all.

`cascade` samples videos for prompts, in memory. `programs` and `memory` describe the compiled programs by shapes alone.
Command lines, files and progress bars are in `sampling`; schedules and samplers are in `diffusion`.
"""
