"""The sky as the survey gives it: release facts, a synthetic sky of stated priors, and real cutouts."""
