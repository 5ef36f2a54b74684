"""From prompts to text states: tokenizers, the table of text encoders, and encoding at once or block by block.

The networks of the encoders are in `nn`; checks of a prompt are in `cascade.prompts`, files of prompts in `sampling`.
"""
