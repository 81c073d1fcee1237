"""The Imaging Server Kit fetches a picture for a demo when it is imported; here it gets none."""

import numpy as np

OFFLINE = """
import numpy, skimage.data
skimage.data.brain = lambda: numpy.zeros((10, 256, 256), numpy.uint16)
"""

try:
    import skimage.data

    skimage.data.brain = lambda: np.zeros((10, 256, 256), np.uint16)
except ImportError:
    pass
