"""What we work on: stamps of g, r, z pixels with their noise, mask and PSF; how they are stored, made ready
for a network, and measured.
"""
