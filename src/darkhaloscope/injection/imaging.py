"""An arc's photons: the noise it brings along, and how it is added to a control.

What the camera and the sky do beyond that, to stamp and control alike, is `injection.nuisance`; how an arc's
light gets onto the pixels is `injection.render`.
"""

import numpy as np
import numpy.typing as npt

from darkhaloscope.survey.noise import coadd_taps, correlate

FloatArray = npt.NDArray[np.float64]


def shot_noise(arc: npt.ArrayLike, gain: npt.ArrayLike, rng: np.random.Generator) -> FloatArray:
    """Photon noise of an arc [nmgy], as it comes out of a coadd.

    arc   noiseless arc [nmgy/pix], (band, y, x); its negative ringing (1e-5 of the peak) counts as dark
    gain  effective gain per band [e-/nmgy]; infinite means noiseless

    Electrons are Poisson; the coadd's resampling, a filter of DC gain 1, correlates them. The variance of a
    pixel is 0.798 a/G, that of a sum over many pixels a/G each. Returns (band, y, x).
    """
    light = np.maximum(np.asarray(arc, dtype=np.float64), 0.0)
    taps = coadd_taps()
    margin = len(taps) // 2
    noise = np.zeros_like(light)
    for k, g in enumerate(np.asarray(gain, dtype=np.float64)):
        if np.isfinite(g) and light[k].any():
            expected = g * light[k]
            white = (rng.poisson(expected) - expected) / g
            noise[k] = correlate(np.pad(white, margin), taps, taps)
    return noise


def add_to(
    control: npt.NDArray[np.float32], light: FloatArray, footprint: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """float32(control + light) within the footprint; elsewhere the control's own bits."""
    lit = control.copy()
    np.add(control, light, out=lit, where=footprint, casting="same_kind", dtype=np.float64)
    return lit
