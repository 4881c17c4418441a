"""The folds behind `qsim.folding`: each looks at one node of a float graph and answers with a `Change`, a `Refusal`, or None."""
