"""How good the demo's videos are, measured."""
