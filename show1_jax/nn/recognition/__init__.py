"""Networks that recognise what a video shows, for metrics: I3D, C3D, Inception v3 and CLIP, with their architectures.

They take the inputs of the published networks and return the outputs that metrics use; nothing here resizes a video.
"""
