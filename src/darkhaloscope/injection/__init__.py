"""Arcs: a lens, a source, a recipe that draws both, and the job that injects them into stamps."""
