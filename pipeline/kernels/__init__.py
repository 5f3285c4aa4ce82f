"""Kernels."""
from pipeline.kernels.controllers import adagrad, adam, backward, forward, parameter_count
from pipeline.kernels.events import observe, run
from pipeline.kernels.layout import *
from pipeline.kernels.layout import blank_context, blank_totals
from pipeline.kernels.newton import newton_descend, newton_observe
from pipeline.kernels.references import features_of, predict_references
from pipeline.kernels.schedule import operations
from pipeline.kernels.search import FIXED_INPUTS, controller_inputs, mixture_slopes, remember, remember_run, uses_of
