"""The cascade: stages from keyframes to latent super-resolution, the conditions of each, and one engine for all.

`cascade` samples videos of prompts in memory. `programs` and `memory` describe the compiled programs by shapes alone.
Command lines, files and progress bars are in `sampling`; schedules and samplers in `diffusion`.
"""
