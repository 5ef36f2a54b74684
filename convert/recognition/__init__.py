"""Published files of the networks that metrics compare videos with: a module each, with the row of its network.

A row says which file to get, how it is read without running anything, and which published key is which parameter.
"""
