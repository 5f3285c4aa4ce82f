"""Pure torch functions of parameters and inputs: the equations of the paper, without state, storage or optimisers."""
