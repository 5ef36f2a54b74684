"""Tests, in folders as those of the package: `pkg/test_NAME.py`, or `test_NAME_ASPECT.py`, tests the module `pkg.NAME`.

Modules that tests import are in `helpers`, recorded data in `golden`. Configs, commands and launch files have their
tests directly in this folder.
"""
