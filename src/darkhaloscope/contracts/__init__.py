"""What the rooms promise each other: tables, checks, configuration, jobs, the store, errors.

Imports nothing else of ours.
"""
