"""From prompts to text states: tokenizers, the encoders that serve the stages, and running one whole or block by block.

The networks of the encoders are in `nn`; checks of a prompt are in `cascade.prompts`, files of prompts in `sampling`.
"""
