"""What learners are built from: layers, optimisers, parameters, tables, losses."""
