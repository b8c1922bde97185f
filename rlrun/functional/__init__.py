"""Pure functions of tensors: the formulas of the papers, one home each."""
