"""Settings: frozen dataclasses that check every field's type and every number's bounds when they are made.

`settings` is their base class, `sampling` and `training` contain the settings of the stages, and `config_file` those of
a whole config file. `bounds` contains the range of every number, `without_effect` the fields of released files that
change nothing. Architectures of networks are in `nn.config`; config files and overrides are read by `show1_jax.cli`.
"""
