"""The predicates behind `qsim.check`: `faults` (no runtime gives it a meaning) and `rules` (quantized kernels assume it)."""
