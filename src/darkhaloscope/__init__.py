"""Dark Halo Scope: find strong gravitational lenses in seeing-limited imaging, and know what you miss.

Data flows one way: survey -> stamps -> injection -> dataset -> gates -> training -> evaluation -> report.
Each room is a subpackage; `darkhaloscope.contracts` holds what the rooms promise each other.
"""

__version__ = "0.1.0"
