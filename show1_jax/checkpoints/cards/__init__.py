"""Model cards of checkpoints (`model_card`), and the licences of weights (`licences`)."""
