"""Peak memory of rendering with our engine and nothing else: python -m benchmarks.alone N prints MiB."""

import sys
from pathlib import Path

import numpy as np

from darkhaloscope.injection.draw import Host, draw
from darkhaloscope.injection.recipe import Recipe
from darkhaloscope.injection.render import ArcTask, Frame, Renderer
from darkhaloscope.survey.psf import Kernels


def main() -> None:
    """Draw and render the arcs, keep their images, and say how much memory the process ever held."""
    renderer, frame = Renderer(), Frame((64, 64), 31.5, 31.5, 0.262)
    psf = renderer.respond(Kernels.moffat([1.2, 1.1, 1.0], [3.0] * 3, pixel_scale=0.262), frame.shape)
    drawn = [draw(Host(0.5, 0.75, 0.3), Recipe(), seed=1, task=str(k)) for k in range(int(sys.argv[1]))]
    arcs = renderer.render([ArcTask(t.lens, t.source, frame, psf) for t in drawn if not isinstance(t, str)])
    if not np.isfinite([arc.image.max() for arc in arcs]).all():
        sys.exit("an arc is not finite")
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024.0)


if __name__ == "__main__":
    main()
