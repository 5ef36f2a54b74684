"""Settings: frozen dataclasses that check every field's type and every number's bounds when they are made.

`settings` is their base, `sampling` and `training` hold the settings of the stages, and `config` a whole config file.
`bounds` has the range of every number, `without_effect` the fields of released files that change nothing. Architectures
of networks are not here but in `nn.config`; reading a config file and its overrides is in `show1_jax.cli`.
"""
